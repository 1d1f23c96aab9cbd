"""Starts a separate responder for a test, on a Unix socket, and sends it FastCGI requests without a web server."""

import hashlib
import http.client
import io
import os
import signal
import socket
import struct
import subprocess
import tempfile

from client import Reply
from database import clean_environment
from checks import Failure, check, until

BEGIN, END, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6


def record(kind, content=b""):
    return struct.pack(">BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def stream(kind, content):
    """The records of a stream, without the empty one that ends it."""
    return b"".join(record(kind, content[at:at + 65535]) for at in range(0, len(content), 65535))


def name_value(name, value):
    lengths = b"".join(struct.pack(">B", len(x)) if len(x) < 128 else struct.pack(">I", len(x) | 1 << 31)
                       for x in (name, value))
    return lengths + name + value


def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise Failure("the responder closed the connection in the middle of its reply")
        data += more
    return data


def begin(path, method, uri, body=b"", headers=(), timeout=30, more=()):
    """Sends a request to the responder that listens on the socket path, except for the end of its body, so that its
    thread waits. more: variables in addition to those of the request. Returns the connection."""
    variables = {"REQUEST_METHOD": method, "REQUEST_URI": uri, "REMOTE_ADDR": "127.0.0.1",
                 "SERVER_PROTOCOL": "HTTP/1.1",
                 "CONTENT_LENGTH": str(len(body)) if body else "", **dict(more)}
    for name, value in dict(headers).items():
        plain = name.upper().replace("-", "_")
        variables[plain if plain == "CONTENT_TYPE" else "HTTP_" + plain] = value
    params = b"".join(name_value(name.encode(), value.encode()) for name, value in variables.items())
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(record(BEGIN, struct.pack(">HB5x", 1, 0)) + stream(PARAMS, params) + record(PARAMS) +
                           stream(STDIN, body))
        return connection
    except BaseException:
        connection.close()
        raise


def finish(connection, request):
    """Ends the body and returns the reply. request: the text that stands for it in messages."""
    with connection:
        connection.sendall(record(STDIN))
        return parsed(read_reply(connection), request)


def ask(path, method, uri, body=b"", headers=(), timeout=30):
    """Sends one request to the responder that listens on the socket path; returns the reply."""
    return finish(begin(path, method, uri, body, headers, timeout), "%s %s %r" % (method, uri, body))


def read_reply(connection):
    out = b""
    while True:
        _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", read_exactly(connection, 8))
        content = read_exactly(connection, length + padding)[:length]
        if kind == STDOUT:
            out += content
        elif kind == END:
            return out


def parsed(out, request):
    head, _, body = out.partition(b"\r\n\r\n")
    headers = http.client.parse_headers(io.BytesIO(head + b"\r\n\r\n"))
    check("Status" in headers, "no Status in the responder's reply %r" % out[:500])
    return Reply(request, int(headers["Status"].split()[0]), headers, body)


# Simulates a separate host: its own shared memory, which has rate limits and the change feed. The rest is shared.
APART = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-current-user"]), "--mount", "sh", "-c",
         'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]


def can_stand_apart():
    return subprocess.run([*APART, "true"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


JOURNALS = tempfile.TemporaryDirectory(prefix="acp-e2e-journals-")


def journal_of(database_url):
    """The journal of all responders with this database. In the default folder they would replay rows of others."""
    return os.path.join(JOURNALS.name, hashlib.sha256(database_url.encode()).hexdigest()[:16])


class Responder:
    """acp.fcgi with the stack's settings, some of them replaced; a context manager that stops it. apart: as on a
    separate host. quiet: discards its standard error and the reports of sanitizers, for a process that its input is
    meant to end."""

    def __init__(self, stack, apart=False, quiet=False, **settings):
        self._stack = stack
        self._errors = subprocess.DEVNULL if quiet else None
        self._hidden = ("ASAN_OPTIONS", "UBSAN_OPTIONS") if quiet else ()
        self._before = APART if apart else []
        # Not in the scratch folder: the length of a socket's path is limited.
        self.dir = tempfile.TemporaryDirectory(prefix="acp-e2e-")
        self.socket = settings.get("listen", os.path.join(self.dir.name, "acp.sock"))
        self.log = os.path.join(self.dir.name, "acp.log")
        self.config = os.path.join(self.dir.name, "acp.conf")
        kept = {name: stack.setting(name) for name in ("database_url", "key_pepper", "key_pepper_file", "public_url")}
        # All responders of an installation share the onboarding limits. An hour of tests would exceed the defaults.
        kept.update(listen=self.socket, log_file=self.log, workers="4", processes="2", onboard_per_ip="100000",
                    onboard_total="1000000")
        self._settings = {**kept, **settings}
        self._settings.setdefault("journal_dir", journal_of(self._settings["database_url"]))
        self.write_config()

    def stand_under(self, command):
        """Makes it start with these words in front of its command."""
        self._before = command

    def write_config(self, **settings):
        self._settings.update(settings)
        with open(self.config, "w", encoding="utf-8") as file:
            file.writelines("%s = %s\n" % pair for pair in self._settings.items() if pair[1] is not None)

    def __enter__(self):
        self.process = subprocess.Popen([*self._before, os.path.join(self._stack.sbin, "acp.fcgi"), "--config",
                                         self.config], stdin=subprocess.DEVNULL, stderr=self._errors, env={
                                            name: value for name, value in clean_environment().items()
                                            if name not in self._hidden})
        try:
            until(10, "the responder listens", lambda: os.path.exists(self.socket) or self.process.poll() is not None)
            check(self.process.poll() is None,
                  "the responder ended with %s:\n%s" % (self.process.poll(), self.read_log()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        self._keep_log()
        self.dir.cleanup()

    def _keep_log(self):
        """Keeps its log for the closing checks of all logs (account.py)."""
        if getattr(self._stack, "own", False):
            self._stack.responders_ended += 1
            with open(os.path.join(self._stack.logs, "responders-of-tests.log"), "a", encoding="utf-8") as file:
                file.write(self.read_log())

    def ask(self, method, uri, body=b"", headers=()):
        return ask(self.socket, method, uri, body, headers)

    def call(self, key, body):
        return self.ask("POST", "/api/manage", body, {"Content-Type": "application/json", "X-API-Key": key})

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def read_log(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def log_of(self, replies, seconds=5):
        """Waits until the log has the line of each request, which is written after the reply is sent; returns it."""
        def log():
            text = self.read_log()
            done = "".join(line for line in text.splitlines() if "status=" in line or '"status":' in line)
            return text if all(reply.request_id in done for reply in replies) else None
        return until(seconds, "a line for each request", log)
