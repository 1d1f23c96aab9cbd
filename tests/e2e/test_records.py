"""Malformed FastCGI sent directly to the responder's socket. Its clients are trusted like the web server, but the
effect of a broken one must be limited to its own connection."""

import contextlib
import os
import socket
import struct
import time

import pytest

from client import MANAGE, refused, succeeded
from fcgi import BEGIN, END, PARAMS, STDIN, STDOUT, Responder, name_value, parsed, stream
from checks import check, equal, parallel, until
from stack import children

ABORT, GET_VALUES, DATA = 2, 9, 8
BODY = b'{"action":"meta.version"}'


def record(kind, content=b"", version=1, request=1, length=None, padding=b"", padding_length=None):
    """A record. length and padding_length, if given, replace the real lengths."""
    return struct.pack(">BBHHBB", version, kind, request, len(content) if length is None else length,
                       len(padding) if padding_length is None else padding_length, 0) + content + padding


def start(role=1, flags=0, **more):
    return record(BEGIN, struct.pack(">HB5x", role, flags), **more)


def variables(key, **more):
    named = {"REQUEST_METHOD": "POST", "REQUEST_URI": MANAGE, "REMOTE_ADDR": "127.0.0.1", "HTTP_X_API_KEY": key,
             "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(BODY)), **more}
    return b"".join(name_value(name.encode(), value.encode()) for name, value in named.items() if value is not None)


class Peer:
    """A broken web server, connected to a responder with two processes."""

    def __init__(self, bench, responder):
        self.responder = responder
        self.key = bench.onboard().key
        self.workers = self.pids()
        self.params = variables(self.key)
        self.rest = record(PARAMS) + record(STDIN, BODY) + record(STDIN)
        self.good = start() + record(PARAMS, self.params) + self.rest

    def pids(self):
        return sorted(children(self.responder.process.pid))

    def send(self, data, half_close=True):
        """Sends the data; returns the status of the reply, or None."""
        out = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(self.responder.socket)
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                for block in iter(lambda: connection.recv(65536), b""):
                    out += block
        return status_of(out)

    def check_alive(self, what):
        """Checks that the responder answers other clients and that no process has ended."""
        succeeded(self.responder.call(self.key, BODY))
        equal(self.pids(), self.workers, "processes after: " + what)


def status_of(out):
    text = b""
    while len(out) >= 8:
        _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", out[:8])
        if kind == STDOUT:
            text += out[8:8 + length]
        if kind == END and text:
            break
        out = out[8 + length + padding:]
    return parsed(text, "records").status if text else None


@contextlib.contextmanager
def peer(bench, quiet=False):
    """quiet: without the messages of the C library about a process that it aborts."""
    with Responder(bench.stack, quiet=quiet, processes="2", workers="4", io_timeout="2") as responder:
        until(10, "two processes", lambda: len(children(responder.process.pid)) == 2)
        yield Peer(bench, responder)


def test_good_forms(bench):
    """The counterpart: valid FastCGI works, with padding, many small records, or a flag to keep the connection."""
    with peer(bench) as p:
        small = b"".join(record(PARAMS, p.params[n:n + 1]) for n in range(len(p.params)))
        bytes_ = b"".join(record(STDIN, BODY[n:n + 1]) for n in range(len(BODY)))
        padded = start() + record(PARAMS, p.params, padding=b"\0" * 255) + record(PARAMS)
        for data in [p.good, start() + small + record(PARAMS) + bytes_ + record(STDIN), start(flags=1) + p.good[16:],
                     padded + record(STDIN, BODY, padding=b"\0" * 7) + record(STDIN)]:
            equal(p.send(data), 200, "status")
        p.check_alive("good requests")


def test_cut_at_every_byte(bench):
    """A valid request cut at any byte never succeeds, delays nobody else and ends no process."""
    with peer(bench) as p:
        before = bench.audit_count()
        found = [p.send(p.good[:end]) for end in range(len(p.good))]
        check(set(found) <= {None, 400, 401, 404, 405, 415}, "statuses: %s" % sorted(map(str, set(found))))
        # The whole body is there, but not the record that ends its stream. This is incomplete too.
        equal(found[-1], 400, "the last cut")
        check(bench.audit_count() - before <= len(found), "audit rows")
        p.check_alive("requests cut at %d positions" % len(found))
        bench.outcome = "%d positions" % len(found)


def hostile(p):
    """Maps a name to (bytes, whether a success would be a correct reply)."""
    begin, params, rest, key = start(), record(PARAMS, p.params), p.rest, p.key
    other = dict(request=2)
    return {
        "version 0": (start(version=0) + params + rest, False),
        "version 9": (start(version=9) + params + rest, False),
        "version 0 later": (begin + record(PARAMS, p.params, version=0) + rest, False),
        "type 0": (record(0) + p.good, False),
        "type 255": (record(255, b"x" * 100) + p.good, False),
        "type 77, request 0": (record(77, b"abc", request=0) + p.good, False),
        "role 0": (start(role=0) + params + rest, False),
        "role 9": (start(role=9) + params + rest, False),
        "request 0": (start(request=0) + params + rest, False),
        "begin without content": (record(BEGIN) + params + rest, False),
        "begin too short": (record(BEGIN, b"\0\1") + params + rest, False),
        "begin too long": (record(BEGIN, struct.pack(">HB5x", 1, 0) + b"more") + params + rest, False),
        "no begin": (params + rest, False),
        "begin alone": (begin, False),
        "begin twice": (begin + begin + params + rest, True),
        "a second request within": (begin + start(**other) + params + rest, True),
        "records of another request": (begin + params + record(PARAMS, variables("x"), **other) + record(PARAMS) +
                                       record(STDIN, b"junk", **other) + record(STDIN, BODY) + record(STDIN), True),
        "body before params": (begin + record(STDIN, BODY) + record(STDIN) + params + record(PARAMS), False),
        "no params": (begin + rest, False),
        "abort first": (begin + record(ABORT) + params + rest, False),
        "abort in the body": (begin + params + record(PARAMS) + record(STDIN, BODY[:5]) + record(ABORT) +
                              record(STDIN, BODY[5:]) + record(STDIN), False),
        "data in the body": (begin + params + record(PARAMS) + record(DATA, b"x") + record(STDIN, BODY) + record(STDIN),
                             False),
        "output from the web server": (begin + record(STDOUT, b"x") + params + rest, False),
        "end from the web server": (begin + record(END, b"\0" * 8) + params + rest, False),
        "missing padding": (begin + record(PARAMS, p.params, padding_length=255) + rest, False),
        "length too large": (begin + record(PARAMS, p.params, length=65535) + rest, False),
        "length too small": (begin + record(PARAMS, p.params, length=10) + rest, False),
        "length 0 with content": (begin + record(PARAMS, p.params, length=0) + rest, False),
        "a name of 2 GiB": (begin + record(PARAMS, b"\xff\xff\xff\xff\x01" + b"A" * 100) + rest, False),
        "a value of 2 GiB": (begin + record(PARAMS, b"\x01\xff\xff\xff\xffA") + rest, False),
        "both of 2 GiB": (begin + record(PARAMS, b"\xff" * 8 + b"A" * 100) + rest, False),
        "a length cut": (begin + record(PARAMS, b"\x05\xff\xff") + rest, False),
        "a value cut": (begin + record(PARAMS, p.params + b"\x01\x50A") + rest, False),
        "2000 empty names": (begin + record(PARAMS, b"\0\0" * 2000 + p.params) + rest, True),
        "1 MiB of variables": (begin + b"".join(record(PARAMS, name_value(b"HTTP_X%d" % n, b"x" * 60000))
                                                for n in range(17)) + params + rest, True),
        "= in a name": (begin + record(PARAMS, name_value(b"HTTP_X_API_KEY=%s" % key.encode(), b"") +
                                       variables(None)) + rest, False),
        "queries for values that do not exist": (record(GET_VALUES, b"\xff" * 50, request=0) + p.good, False),
        "HTTP": (b"POST /api/manage HTTP/1.1\r\nHost: x\r\n\r\n", False),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, False),
        "zeros": (b"\0" * 1000, False),
        "ones": (b"\xff" * 1000, False),
        "nothing": (b"", False),
    }


def test_malformed_records(bench):
    """Requests with wrong versions, types, roles, ids, lengths or padding succeed only if everything essential
    is there. No process ends, and others are served."""
    with peer(bench) as p:
        for name, (data, honest) in hostile(p).items():
            status = p.send(data)
            check(status is None or 400 <= status < 500 or (honest and status == 200), "%s: %s" % (name, status))
            p.check_alive(name)


@pytest.mark.slow
def test_silence_in_the_middle(bench):
    """acp.conf(5), io_timeout: a client that sends half a record and then nothing is disconnected; others are
    served."""
    with peer(bench) as p:
        halves = [b"", p.good[:4], p.good[:16], p.good[:100], start() + record(PARAMS, p.params, length=65535),
                  p.good[:-20]]
        with contextlib.ExitStack() as stack:
            for data in halves[:3]:
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.connect(p.responder.socket)
                connection.sendall(data)
            p.check_alive("three silent clients, with four workers")
        begun = time.monotonic()
        found = parallel(len(halves), lambda n: p.send(halves[n], half_close=False))
        check(200 not in found, "statuses %s" % found)
        check(time.monotonic() - begun < 30, "they were disconnected after %.0f s" % (time.monotonic() - begun))
        p.check_alive("six silent clients")


def test_lengths_that_lie(bench):
    """A wrong CONTENT_LENGTH is refused: too short, too long, negative, huge, in other notations."""
    with peer(bench) as p:
        for text in ["0", "24", "26", "1000", "-1", "-18446744073709551591", "18446744073709551641", "9" * 30, "0x19",
                     "031", "+25", " 25", "25 ", "25,25", "25\n", "2.5e1", "NaN", "twenty-five"]:
            given = record(PARAMS, variables(p.key, CONTENT_LENGTH=text))
            equal(p.send(start() + given + p.rest), 400, "CONTENT_LENGTH = %r" % text)
        for text in (None, "", "25", "0025"):
            given = record(PARAMS, variables(p.key, CONTENT_LENGTH=text))
            equal(p.send(start() + given + p.rest), 200, "CONTENT_LENGTH = %r" % text)
        p.check_alive("wrong lengths")


def test_oversized_body(bench):
    """A body far over the limit is read and refused, whatever CONTENT_LENGTH says. No memory is kept for
    it."""
    with peer(bench) as p:
        blocks = b"".join(record(STDIN, b"x" * 65535) for _ in range(160))  # 10 MiB
        given = record(PARAMS, variables(p.key, CONTENT_LENGTH="25"))
        p.send(start() + given + record(PARAMS) + blocks + record(STDIN))
        used = sum(resident(pid) for pid in p.workers)
        for text in ("25", "10485600", "99999999999", None):
            given = record(PARAMS, variables(p.key, CONTENT_LENGTH=text))
            status = p.send(start() + given + record(PARAMS) + blocks + record(STDIN))
            equal(status, 413, "CONTENT_LENGTH = %r" % text)
        more = sum(resident(pid) for pid in p.workers) - used
        check(more < 8 << 20, "%d more bytes are kept" % more)
        p.check_alive("bodies of 10 MiB")


def resident(pid):
    with open("/proc/%d/statm" % pid, encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_variables_that_forge(bench):
    """Variables that repeat a header, or have values that are impossible in a header, never set a false caller, path or
    address."""
    with peer(bench) as p:
        good = p.responder.call(p.key, BODY)
        succeeded(good)

        def reply(more, **named):
            given = variables(p.key, **named) + more
            return p.send(start() + stream(PARAMS, given) + p.rest)
        equal(reply(name_value(b"HTTP_X_API_KEY", b"other")), 401, "two keys")
        equal(reply(name_value(b"HTTP_AUTHORIZATION", b"Bearer other")), 401, "two credentials that differ")
        for uri in ("/api/manage\r\nX: y", "/api/manage\x01", "//api/manage", "/api/../api/manage", "", "api/manage",
                    "/api/manage%00", "/api%2fmanage", "/" + "a" * 70000):
            equal(reply(b"", REQUEST_URI=uri), 404, "REQUEST_URI %r" % uri[:60])
        for method in ("post", "POST ", "P\r\nX: y", "", "A" * 100):
            equal(reply(b"", REQUEST_METHOD=method), 405, "REQUEST_METHOD %r" % method)
        for address in ("1.2.3.4\r\nX: y", "x" * 5000, "';--", "\x1b[31m", "127.0.0.1, 1.2.3.4", ""):
            equal(reply(b"", REMOTE_ADDR=address), 200, "REMOTE_ADDR %r" % address[:60])
        rows = bench.db.rows("select distinct ip_address::text as ip from acp.audit_logs where ts > acp.now() - "
                             "interval '10 s' and ip_address::text !~ '^[0-9a-f.:/]+$'")
        equal(rows, [], "addresses in audit rows")
        refused(p.responder.ask("POST", "/nothing\r\nX", b""), 404, "NOT_FOUND")
        p.check_alive("forged variables")


def test_what_ends_a_process(bench):
    """Two inputs that libfcgi itself cannot handle end the process that reads them. It is replaced; others serve on."""
    with peer(bench, quiet=True) as p:
        # In one case libfcgi asserts a successful malloc(). In the other it overflows its buffer, which the stack
        # protector detects.
        for name, data in [("2 GiB of variables", start() + record(PARAMS, b"\xbf\xff\xff\xff" * 2 + b"x") + p.rest),
                           ("the same query repeatedly", record(GET_VALUES, name_value(b"FCGI_MAX_CONNS", b"") * 6,
                                                                     request=0) + p.good)]:
            for _ in range(2):
                p.send(data)
                succeeded(p.responder.call(p.key, BODY))
            until(10, "two processes after: " + name, lambda: len(p.pids()) == 2)
        p.workers = p.pids()
        p.check_alive("that")
        bench.outcome = "only for a peer on the socket: no web server passes on such records"
