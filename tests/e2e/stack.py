"""The stack under test: deploy/lib/stack for one of our own, or addresses of one that runs already."""

import os
import re
import shlex
import signal
import subprocess
import urllib.request

from database import clean_environment
from harness import Failure, Skip, check

STACK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "lib", "stack")


def run(command, **more):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **more)


class Programs:
    """acpctl and acp.fcgi of the stack, run on its configuration."""

    config = sbin = database_url = prefix = None

    def need_programs(self):
        if not self.sbin or not self.config:
            raise Skip("needs the programs and the configuration (--prefix and --config)")

    def program(self, name, *arguments, environment=None, config=None):
        """Runs it; returns returncode, stdout, stderr."""
        self.need_programs()
        settings = {"ACP_DATABASE_URL": self.database_url, **(environment or {})}
        options = ["--config", config or self.config]
        return run([os.path.join(self.sbin, name), *options, *arguments], env=clean_environment(**settings),
                   timeout=120)

    def ctl(self, *arguments, environment=None):
        """acpctl, which must succeed."""
        done = self.program("acpctl", *arguments, environment=environment)
        check(done.returncode == 0, "acpctl %s: exit %d: %s" % (arguments, done.returncode, done.stderr.strip()))
        return done

    def setting(self, name):
        """A setting of the configuration file, or None."""
        self.need_programs()
        with open(self.config, encoding="utf-8") as file:
            found = re.search(r"^%s = (.*)$" % re.escape(name), file.read(), re.M)
        return found.group(1) if found else None


# Web servers that pass requests to a responder with a supervisor, which deploy/lib/stack starts. The others start
# processes of it themselves, each with a socket of its own.
EXTERNAL = ("lighttpd", "nginx", "apache-proxy", "caddy")
# Those that refuse chunked bodies, because they hand on a broken one as if it were whole.
NOT_CHUNKED = ("apache-fcgid", "caddy")
SERVERS = EXTERNAL + ("lighttpd-spawn", "apache-fcgid")


class OutsideStack(Programs):
    """Runs already; is not ours to restart."""

    own = False
    supervised = False
    server = "external"
    log = None

    def __init__(self, options):
        self.url = options.url
        self.database_url = options.database_url
        self.config = options.config
        self.prefix = os.path.abspath(options.prefix) if options.prefix else None
        self.sbin = os.path.join(options.prefix, "sbin") if options.prefix else None

    def up(self):
        """Which web server it is says its Server header."""
        with urllib.request.urlopen(self.url + "/healthz", timeout=10) as answer:
            name = answer.headers.get("Server", "").lower()
        known = {"lighttpd": "lighttpd", "nginx": "nginx", "caddy": "caddy", "apache": "apache-fcgid"}
        self.server = next((known[word] for word in known if word in name), "external")

    def down(self):
        pass


class OwnStack(Programs):
    own = True

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
        """deploy/lib/stack, whose messages are shown only when it fails."""
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
        self._run(*self._up, "--mount", mount, *(["--conf", conf] if conf else []), *(["--pooler"] if self.pooler else []))

    def down(self):
        self._run("down")

    def purge(self):
        """Removes what is left of a stack that is down."""
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
        """Every process of this stack's acp.fcgi; with a supervisor, without it."""
        program = os.path.join(self.sbin, "acp.fcgi")
        found = [pid for pid in processes() if command_line(pid)[:1] == [program]]
        supervisors = {parent(pid) for pid in found}
        return [pid for pid in found if pid not in supervisors]

    @property
    def web_server(self):
        """The process of the web server that takes its signals."""
        with open(os.path.join(self.env["ACP_STATE"], "run", "web.pid"), encoding="ascii") as file:
            return int(file.read().split()[0])


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return os.fsdecode(file.read()).split("\0")[:-1]
    except OSError:
        return []


def stat_fields(pid):
    """State, parent, … as in proc(5) from field 3 on; None when there is no such process."""
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
