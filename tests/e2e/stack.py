"""The stack under test: one started with deploy/lib/stack, or one that already runs at the given addresses."""

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import urllib.request

from database import clean_environment
from checks import Failure, Skip, check

STACK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "lib", "stack")


def run(command, **more):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **more)


PORTS = range(10000, 32000)  # below the ports of outgoing connections (ip_local_port_range)


def free_port():
    """A port of 127.0.0.1 that is free, as are the next two (deploy/lib/stack uses these too). No outgoing connection
    can take it while the server on it is being restarted."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if all(is_free(port + n) for n in range(3)):
            return port


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def stop_on_signal(number, _):
    """A handler that lets the program clean up after itself."""
    raise SystemExit("ended by signal %d" % number)


class Programs:
    """The stack's acpctl and acp.fcgi, run with its configuration."""

    config = sbin = database_url = prefix = None

    def need_programs(self):
        if not self.sbin or not self.config:
            raise Skip("needs the programs and the configuration (--prefix and --config)")

    def program(self, name, *arguments, environment=None, config=None):
        """Runs the program; the result has returncode, stdout and stderr."""
        self.need_programs()
        settings = {"ACP_DATABASE_URL": self.database_url, **(environment or {})}
        options = ["--config", config or self.config]
        return run([os.path.join(self.sbin, name), *options, *arguments], env=clean_environment(**settings),
                   timeout=120)

    def ctl(self, *arguments, environment=None):
        """Runs acpctl, which must succeed."""
        done = self.program("acpctl", *arguments, environment=environment)
        check(done.returncode == 0, "acpctl %s: exit %d: %s" % (arguments, done.returncode, done.stderr.strip()))
        return done

    def setting(self, name):
        """A setting of the configuration file, or None."""
        self.need_programs()
        with open(self.config, encoding="utf-8") as file:
            found = re.search(r"^%s = (.*)$" % re.escape(name), file.read(), re.M)
        return found.group(1) if found else None


# These web servers pass requests to a responder with a supervisor, started by deploy/lib/stack. The others start
# responder processes themselves, each with its own socket.
EXTERNAL = ("lighttpd", "nginx", "apache-proxy", "caddy")
# These refuse chunked bodies, because they would pass on a broken one as if it were complete.
NOT_CHUNKED = ("apache-fcgid", "caddy")
SERVERS = EXTERNAL + ("lighttpd-spawn", "apache-fcgid")


class OutsideStack(Programs):
    """A stack that already runs and must not be restarted."""

    own = False
    responders_ended = 0
    supervised = False
    server = "external"
    log = None
    conf, mount = "", "/"

    def __init__(self, options):
        self.url = options.url
        self.database_url = options.database_url
        self.config = options.config
        self.prefix = os.path.abspath(options.prefix) if options.prefix else None
        self.sbin = os.path.join(options.prefix, "sbin") if options.prefix else None

    def up(self):
        """Finds the name of the web server from its Server header."""
        with urllib.request.urlopen(self.url + "/healthz", timeout=10) as answer:
            name = answer.headers.get("Server", "").lower()
        known = {"lighttpd": "lighttpd", "nginx": "nginx", "caddy": "caddy", "apache": "apache-fcgid"}
        self.server = next((known[word] for word in known if word in name), "external")

    def arrange(self, conf, mount):
        if conf or mount != "/":
            raise Skip("needs its own stack (--server): other settings, or another mount")

    def down(self):
        pass


class OwnStack(Programs):
    """A stack that deploy/lib/stack starts. conf and mount: its settings as text and its mount path, None while
    unknown."""

    own = True
    conf = mount = None
    responders_ended = 0  # responders that tests started (fcgi.py); their logs are kept with the stack's

    def __init__(self, options):
        self.server = options.server
        self.supervised = self.server in EXTERNAL
        self.port = options.port
        self.prefix = os.path.abspath(options.prefix)
        self.pooler = getattr(options, "pooler", False)  # with PgBouncer, from the next up() on
        self.dir = os.path.join(os.path.abspath(options.dir), "stack")
        self._up = ["up", "--server", self.server, "--port", str(self.port), "--install", self.prefix]
        if options.workers:
            self._up += ["--workers", str(options.workers)]
        if getattr(options, "stripe", False):
            self._up += ["--stripe"]
        if getattr(options, "examples", False):
            self._up += ["--examples"]

    def _run(self, command, *options):
        """Runs deploy/lib/stack; shows its messages only if it fails."""
        done = run([STACK, command, "--dir", self.dir, *options], env=clean_environment(), timeout=180)
        if done.returncode != 0:
            raise Failure("deploy/lib/stack %s: exit %d\n%s%s" % (command, done.returncode, done.stdout, done.stderr))
        if command != "down":
            self._read_environment()

    def _read_environment(self):
        with open(os.path.join(self.dir, "stack.env"), encoding="utf-8") as file:
            words = (word for line in file for word in shlex.split(line) if word != "export")
            self.env = dict(word.split("=", 1) for word in words)
        self.url = self.env["ACP_URL"]
        self.database_url = self.env["ACP_DATABASE_URL"]
        self.config = self.env["ACP_CONFIG"]
        self.sbin = self.env["ACP_SBIN"]
        self.log = self.env["ACP_LOG"]
        self.logs = os.path.dirname(self.log)

    def up(self, conf=None, mount="/"):
        """Starts processes that are down and restarts those whose settings differ. conf: a file with settings."""
        self.conf = self.mount = None  # until it is up
        self._run(*self._up, "--mount", mount, *(["--conf", conf] if conf else []), *(["--pooler"] if self.pooler else []))
        self.conf, self.mount = contents(conf) if conf else "", mount

    def arrange(self, conf="", mount="/"):
        """Like up(), with settings as text. Does nothing if the stack already has them."""
        if (self.conf, self.mount) == (conf, mount):
            return
        with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-e2e-") as file:
            file.write(conf)
            file.flush()
            self.up(file.name if conf else None, mount)

    def disturbed(self):
        """Marks the stack as possibly damaged, so that the next arrange() repairs it."""
        self.conf = self.mount = None

    def down(self):
        self._run("down")

    def purge(self):
        """Removes the files of a stack that is down."""
        self._run("down", "--purge")

    def restart_responder(self):
        self._run("restart-responder")

    def restart_postgres(self, immediate=False):
        self._run("restart-postgres", *(["--immediate"] if immediate else []))

    @property
    def supervisor(self):
        return int(self.env["ACP_RESPONDER_PID"])

    @property
    def postmaster(self):
        return int(self.env["ACP_POSTGRES_PID"])

    def responders(self):
        """Every process of this stack's acp.fcgi, except a supervisor."""
        program = os.path.join(self.sbin, "acp.fcgi")
        found = [pid for pid in processes() if command_line(pid)[:1] == [program]]
        supervisors = {parent(pid) for pid in found}
        return [pid for pid in found if pid not in supervisors]

    @property
    def web_server(self):
        """The web server's process that receives signals."""
        with open(os.path.join(self.env["ACP_STATE"], "run", "web.pid"), encoding="ascii") as file:
            return int(file.read().split()[0])


def contents(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return os.fsdecode(file.read()).split("\0")[:-1]
    except OSError:
        return []


def stat_fields(pid):
    """State, parent, … as in proc(5) from field 3 on; None: no such process."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def parent(pid):
    fields = stat_fields(pid)
    return int(fields[1]) if fields else None


def is_running(pid):
    fields = stat_fields(pid)
    return fields is not None and fields[0] != "Z"


def children(pid):
    return [child for child in processes() if parent(child) == pid]


def end_quietly(pids, number=signal.SIGKILL):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


@contextlib.contextmanager
def stopped(pids):
    """Stops these processes for as long as the context lasts."""
    end_quietly(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        end_quietly(pids, signal.SIGCONT)
