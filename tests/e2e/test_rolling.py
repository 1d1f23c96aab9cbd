"""Restarts under load, of the web server by its own means and of the program behind it. Every answer must be a success
with exactly one row. Nothing may be done without an answer, and nothing twice.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from client import SCORE, SCORE_PARAMS, succeeded
from database import clean_environment
from fcgi import Responder, ask
from checks import Failure, Load, Skip, check, equal, only_on, until
from stack import EXTERNAL, end_quietly, is_running
from test_life import CREATE, check_rows_of_successes, log_locked, slow_calls, works_again
from written import read

ROUNDS = 3
# If root runs the tests, the stack's programs run as another user.
WEB_USER = {"user": "www-data", "group": "www-data", "extra_groups": []} if os.geteuid() == 0 else {}


class Calls:
    """Continuous calls of one tenant by eight clients, and their replies in order."""

    def __init__(self, bench):
        self.bench = bench
        self.tenant = bench.paid_tenant()
        self.lost = []  # without an answer

    def call(self):
        start = time.monotonic()
        try:
            return self.bench.call(self.tenant.key, SCORE, SCORE_PARAMS), time.monotonic() - start
        except Failure as error:
            self.lost.append(error)
            return None, time.monotonic() - start

    def during(self, work):
        """Runs work() under load, and continues the load for a hundred more calls."""
        with Load(8, self.call) as load:
            until(60, "calls", lambda: len(load.results) > 300)
            work(load)
            seen = len(load.results)
            until(60, "calls continue", lambda: len(load.results) > seen + 100)
        self.replies = [reply for reply, _ in load.results if reply]
        self.longest = max(took for _, took in load.results)

    def check_answers(self):
        """For web servers that give up on calls: checks that each success has one row and no call was done twice."""
        good = check_rows_of_successes(self.bench, self.replies)
        failed = [reply for reply in self.replies if reply.status != 200]
        for reply in failed:
            check(reply.status in (500, 502, 503) and not reply.is_ours(), "another answer\n%s" % reply)
        rows = self.bench.tenant_rows(self.tenant)
        check(good <= rows <= len(self.replies) + len(self.lost), "%d audit rows, %d successes" % (rows, good))
        self.bench.outcome = "%d calls, %d answered 5xx, %d not answered, longest %.1f s" % (
            len(self.replies) + len(self.lost), len(failed), len(self.lost), self.longest)

    def check_all(self):
        """Checks that every call succeeded and has exactly one row."""
        for error in self.lost:
            raise error
        for reply in self.replies:
            succeeded(reply)
        equal(check_rows_of_successes(self.bench, self.replies), len(self.replies), "successes with a row")
        equal(self.bench.tenant_rows(self.tenant), len(self.replies), "audit rows")
        self.bench.outcome = "%d calls, none lost, longest %.1f s" % (len(self.replies), self.longest)


def wait_for_calls(load, count=100):
    seen = len(load.results)
    until(60, "calls continue", lambda: len(load.results) > seen + count)


def reload_web_server(bench):
    """Reloads the web server as an operator would, by its own means."""
    server, pid = bench.stack.server, bench.stack.web_server
    if server == "caddy":
        state = bench.stack.env["ACP_STATE"]
        command = ["caddy", "reload", "--force", "--adapter", "caddyfile", "--address",
                   "unix/%s/run/web/admin.sock" % state, "--config", os.path.join(state, "etc", "caddy.conf")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=clean_environment(HOME=os.path.join(state, "run", "web")), check=False)
        check(done.returncode == 0, "caddy reload: %s" % done.stdout)
    else:
        os.kill(pid, signal.SIGHUP if server == "nginx" else signal.SIGUSR1)


# The web server -------------------------------------------------------------------------------------------------------

# Without Caddy of Debian 12; see docs/servers.md.
RELOADED = ["lighttpd", "nginx", "apache-fcgid", "apache-proxy", "lighttpd-spawn"]
CADDY_ENDS = "Caddy 2.6.2 may crash by a panic during or after a reload under load"


@only_on(RELOADED, CADDY_ENDS)
@pytest.mark.slow
def test_web_server_reloads(bench):
    """During a reload or graceful restart of the web server under load, no call is lost and none is done twice.
    Caddy closes connections without an answer, and mod_fcgid may refuse calls (docs/servers.md); these calls are not
    done in part or twice either."""
    bench.need_own_stack("reloads the web server")
    calls = Calls(bench)

    def work(load):
        for _ in range(ROUNDS if bench.stack.server != "apache-fcgid" else 1):
            before = set(bench.stack.responders())
            reload_web_server(bench)
            if bench.stack.server not in EXTERNAL:
                until(60, "the old processes are gone", lambda: not before & set(bench.stack.responders()))
            time.sleep(1)
            wait_for_calls(load)

    calls.during(work)
    if bench.stack.server in ("apache-fcgid", "caddy"):
        calls.check_answers()
    else:
        calls.check_all()
    works_again(bench, calls.tenant.key)


@only_on(RELOADED, CADDY_ENDS)
def test_calls_in_flight_outlive_a_reload(bench):
    """Calls that run while the web server reloads succeed, once."""
    bench.need_own_stack("reloads the web server")
    tenant = bench.paid_tenant()
    with log_locked(bench) as lock:
        calls = slow_calls(bench, 4, lambda: bench.call(tenant.key, *CREATE))
        reload_web_server(bench)
        time.sleep(1)
        lock.execute("rollback;")
    for reply in calls.results():
        if isinstance(reply, Failure):
            raise reply
        succeeded(reply)
    until(20, "all rows are stored", lambda: bench.tenant_rows(tenant) >= 4)
    equal(bench.tenant_rows(tenant), 4, "audit rows")
    works_again(bench, tenant.key)


# The program ----------------------------------------------------------------------------------------------------------

class SocketUnit:
    """Acts like systemd with a socket unit: keeps the socket open and starts the program with it as descriptor 3."""

    def __init__(self, bench):
        self._stack = bench.stack
        self._path = bench.stack.setting("listen")
        self._processes = []

    def __enter__(self):
        old = self._stack.supervisor
        os.kill(old, signal.SIGTERM)
        until(40, "the old program has ended", lambda: not is_running(old))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._path)
        if WEB_USER:
            shutil.chown(self._path, WEB_USER["user"], WEB_USER["group"])
        os.chmod(self._path, 0o660)
        self._socket.listen(1024)
        self.start()
        return self

    def start(self):
        script = 'exec 3<&"$1"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$2" --config "$3"'
        self._processes.append(subprocess.Popen(
            ["bash", "-c", script, "bash", str(self._socket.fileno()),
             os.path.join(self._stack.sbin, "acp.fcgi"), self._stack.config],
            pass_fds=[self._socket.fileno()], stdin=subprocess.DEVNULL, env=clean_environment(), cwd="/", **WEB_USER))

    def restart(self):
        """Like systemctl restart: the old program ends after its requests, then the new one starts."""
        old = self._processes.pop()
        old.terminate()
        equal(old.wait(40), 0, "exit status of the program")
        self.start()

    def replace(self):
        """Starts the new program while the old one runs, then ends the old one."""
        old = self._processes.pop()
        self.start()
        time.sleep(0.5)
        old.terminate()
        equal(old.wait(40), 0, "exit status of the program")

    def __exit__(self, *_):
        for process in self._processes:
            process.terminate()
            process.wait(40)
        self._socket.close()
        self._stack.restart_responder()


def restart_behind_a_socket(bench, calls):
    """Restarts the program under load while systemd keeps the socket open, also by starting the new one before the old
    ends."""
    with SocketUnit(bench) as program:
        until(20, "the program answers", lambda: bench.get("/readyz").status == 200)

        def work(load):
            for change in (program.restart, program.replace, program.restart):
                change()
                wait_for_calls(load)

        calls.during(work)


def restart_one_by_one(bench, calls):
    """Sends SIGTERM to one process after the other. The web server starts new ones from the installed program."""
    def work(load):
        old = bench.stack.responders()
        for pid in old:
            end_quietly([pid], signal.SIGTERM)
            until(40, "process %d ends" % pid, lambda: not is_running(pid))
            if bench.stack.server == "lighttpd-spawn":
                until(40, "another process starts", lambda: len(bench.stack.responders()) == len(old))
            wait_for_calls(load, 50)
        check(not set(old) & set(bench.stack.responders()), "an old process still runs")

    calls.during(work)


def test_program_is_renewed(bench):
    """README: a rolling restart of the program under load, in the way that suits the web server, loses no
    call."""
    bench.need_own_stack("restarts the program")
    calls = Calls(bench)
    if bench.stack.server in EXTERNAL:
        restart_behind_a_socket(bench, calls)
    else:
        restart_one_by_one(bench, calls)
    calls.check_all()


@only_on(EXTERNAL, "the others start the program again")
def test_program_away(bench):
    """While the program is down, the web server itself answers 502 or 503 in time, and nothing is done. Afterwards
    calls succeed at once."""
    bench.need_own_stack("stops the program")
    tenant = bench.paid_tenant()
    supervisor = bench.stack.supervisor
    os.kill(supervisor, signal.SIGTERM)
    until(40, "the program has ended", lambda: not is_running(supervisor))
    try:
        replies = [bench.score(tenant.key) for _ in range(3)]
    finally:
        bench.stack.restart_responder()
    for reply in replies:
        check(reply.status in (502, 503) and not reply.is_ours(), "another answer\n%s" % reply)
    for _ in range(10):
        succeeded(bench.score(tenant.key))
    equal(bench.tenant_rows(tenant), 10, "audit rows")
    bench.outcome = str(replies[0].status)


@contextlib.contextmanager
def web_settings(bench, **settings):
    """Changes directives in Apache's configuration, and restarts Apache before and after the block."""
    path = os.path.join(bench.stack.env["ACP_STATE"], "etc", "apache-fcgid.conf")
    text = read(path)
    for name, value in settings.items():
        text, count = re.subn(r"(?m)^%s .*$" % name, "%s %s" % (name, value), text)
        if not count:
            text = text.replace("FcgidIPCDir", "%s %s\nFcgidIPCDir" % (name, value), 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.kill(bench.stack.web_server, signal.SIGHUP)
    try:
        time.sleep(1)
        until(40, "Apache answers", lambda: bench.get("/readyz").status == 200)
        yield
    finally:
        bench.stack.up()


@only_on(["apache-fcgid"], "mod_fcgid ends idle processes")
def test_idle_processes_end(bench):
    """Mod_fcgid ends processes after a long idle time and starts new ones for new calls. No call is lost."""
    bench.need_own_stack("changes Apache's configuration")
    settings = {"FcgidIdleTimeout": 1, "FcgidIdleScanInterval": 1, "FcgidMinProcessesPerClass": 0,
                "FcgidMaxRequestsPerProcess": 50}
    with web_settings(bench, **settings):
        calls = Calls(bench)
        replies = []
        for _ in range(3):
            calls.during(lambda load: wait_for_calls(load, 200))
            replies += calls.replies
            busy = set(bench.stack.responders())
            check(busy, "no process served the calls")
            until(30, "the idle processes end", lambda: not busy & set(bench.stack.responders()))
        calls.replies = replies
        calls.check_all()


# systemd --------------------------------------------------------------------------------------------------------------

def unless_refused(call):
    """Returns the result of call(), or None while no process listens."""
    try:
        return call()
    except (FileNotFoundError, ConnectionRefusedError):
        return None


def test_systemd_starts_it_with_the_first_call(bench):
    """acp.fcgi(8): with systemd-socket-activate, the first connection starts the program, which accepts the
    waiting connections. SIGTERM ends it after its requests."""
    activate = shutil.which("systemd-socket-activate")
    if not activate:
        raise Skip("systemd-socket-activate is not installed")
    key = bench.onboard().key
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        path = os.path.join(folder, "acp.sock")
        responder = Responder(bench.stack, listen=path)
        try:
            command = [activate, "--listen", path, os.path.join(bench.stack.sbin, "acp.fcgi"), "--config",
                       responder.config]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=clean_environment())
            call = lambda: ask(path, "POST", "/api/manage", b'{"action":"meta.version"}',
                               {"Content-Type": "application/json", "X-API-Key": key})
            succeeded(until(10, "systemd listens", lambda: unless_refused(call)))
            for _ in range(3):
                succeeded(call())
            process.terminate()
            equal(process.wait(40), 0, "exit status")
            check(os.path.exists(path), "the program removed a socket that it did not create")
            check("stopped" in responder.read_log(), "the log does not say that it stopped")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)
            responder.dir.cleanup()
