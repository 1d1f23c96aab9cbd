"""The system under test: the stack of deploy/lib/stack, the do-nothing responder, and web servers in front of both."""

import argparse
import glob
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess

import gauge
from database import Database, clean_environment
from checks import Failure, check, until
from stack import OwnStack, is_running

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
WORKERS = 32
# The rate check is part of the measurement, so it is on, with a limit that is never reached.
SETTINGS = {"rate_limits": "on", "rate_limit": "1000000"}
MODULES = "/usr/lib/apache2/modules"


def own_user(root_user):
    """Returns the user that runs a server: root drops its rights as in deploy/lib/stack; other users keep theirs."""
    return root_user if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


WEB_USER = own_user("www-data")
WEB_GROUP = grp.getgrgid(pwd.getpwnam(WEB_USER).pw_gid).gr_name


def as_web_user():
    """Arguments of Popen that run a program as the web server's user."""
    return {"user": WEB_USER, "group": WEB_GROUP, "extra_groups": []} if os.geteuid() == 0 else {}


def write_file(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
    if os.geteuid() == 0:
        os.chown(path, -1, grp.getgrnam(WEB_GROUP).gr_gid)


def make_folder(path):
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o750)
    if os.geteuid() == 0:
        shutil.chown(path, WEB_USER, WEB_GROUP)
    return path


def settings_of(text):
    """Reads a configuration file: name -> value."""
    return dict(re.findall(r"^\s*([a-z_]+)\s*=\s*(.*?)\s*$", text, re.M))


def settings_text(settings):
    return "".join("%s = %s\n" % pair for pair in settings.items())


def port_is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Process:
    """A server that the benchmark starts and stops."""

    def __init__(self, command, log, **more):
        with open(log, "ab") as output:
            self._process = subprocess.Popen(command, stdin=more.pop("stdin", subprocess.DEVNULL), stdout=output,
                                             stderr=output, cwd="/", env=clean_environment(), start_new_session=True,
                                             **more)
        self.log = log
        self.pid = self._process.pid

    def running(self):
        return self._process.poll() is None

    def last_words(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-15:])

    def stop(self):
        """Sends SIGTERM to the process; kills children that it leaves behind."""
        family = gauge.with_children(self.pid)
        if self.running():
            self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        for pid in family:
            if pid != self.pid and is_running(pid) and os.getsid(pid) == self.pid:
                os.kill(pid, signal.SIGKILL)


class Frontend:
    """A web server on its own port in front of one responder: the socket of a running one, or (apache-fcgid) a program
    that Apache starts once per worker."""

    TITLES = {"lighttpd": "lighttpd", "nginx": "nginx", "apache-fcgid": "Apache mod_fcgid",
              "apache-proxy": "Apache mod_proxy_fcgi"}

    def __init__(self, kind, name, port, state, responder_socket, program_folder=None, config_folder=None):
        self.kind = kind
        self.url = "http://127.0.0.1:%d" % port
        check(port_is_free(port), "port %d on 127.0.0.1 is in use; choose others with --port" % port)
        run = make_folder(os.path.join(state, name))
        make_folder(os.path.join(run, "web"))
        config = os.path.join(run, kind + ".conf")
        write_file(config, self._filled(PORT=port, RUN=run, LOG=run, ETC=config_folder or run,
                                        SBIN=program_folder or run, RESPONDER_SOCKET=responder_socket))
        self._process = Process(self._command(config), os.path.join(run, "output.log"))
        until(20, "%s listens on port %d" % (kind, port), lambda: not port_is_free(port) or not self._process.running())
        check(self._process.running(), "%s ended:\n%s" % (kind, self._process.last_words()))
        self.stop = self._process.stop

    @staticmethod
    def missing(kind):
        """Returns why this web server cannot be measured here, or None."""
        program = {"lighttpd": "lighttpd", "nginx": "nginx"}.get(kind, "apache2")
        module = {"apache-fcgid": "mod_fcgid.so", "apache-proxy": "mod_proxy_fcgi.so"}.get(kind)
        if not shutil.which(program):
            return "%s is not installed" % program
        if module and not os.path.exists(os.path.join(MODULES, module)):
            return "%s is not installed" % module
        return None

    def _template(self):
        for folder in (os.path.join(HERE, "conf"), os.path.join(ROOT, "deploy", "conf")):
            path = os.path.join(folder, self.kind + ".conf.in")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    return path, file.read()
        raise Failure("%s.conf.in is missing in tests/bench/conf and in deploy/conf" % self.kind)

    def _filled(self, **values):
        path, text = self._template()
        mpm = next((m for m in ("event", "worker", "prefork") if os.path.exists("%s/mod_mpm_%s.so" % (MODULES, m))), "")
        values.update(WEB_USER=WEB_USER, WEB_GROUP=WEB_GROUP, MAX_FDS=4096, MAX_CONNECTIONS=1365, MODULES=MODULES,
                      MPM=mpm, POOL=WORKERS, POOL_MIN=WORKERS,
                      USER_LINE="user %s %s;" % (WEB_USER, WEB_GROUP) if os.geteuid() == 0 else "",
                      AT_ROOT="", AT_API="# ", AT_PREFIX="# ", EXTERNAL="", SPAWNED="# ")
        unknown = set(re.findall(r"@([A-Z_]+)@", text)) - set(values)
        check(not unknown, "%s: unknown placeholder @%s@" % (path, "@, @".join(sorted(unknown))))
        return re.sub(r"@([A-Z_]+)@", lambda found: str(values[found.group(1)]), text)

    def _command(self, config):
        if self.kind == "lighttpd":
            return [shutil.which("lighttpd"), "-D", "-f", config]
        if self.kind == "nginx":
            return [shutil.which("nginx"), "-c", config, "-e", "stderr"]
        return [shutil.which("apache2"), "-D", "FOREGROUND", "-f", config]


class Rig:
    """All programs that run during the measurements; close() ends them."""

    def __init__(self, options):
        self.options = options
        self._open = []  # stopped by close(), newest first
        self._free_ports = iter(range(options.port + 1, options.port + 20))
        self.dir = os.path.abspath(options.dir)

    def add(self, what):
        """Registers an object whose stop() close() will call."""
        self._open.append(what)

    def close(self):
        while self._open:
            self._open.pop().stop()

    def start_stack(self):
        """Starts PostgreSQL, the responder and lighttpd, new and empty."""
        self.stack = OwnStack(argparse.Namespace(server="lighttpd", port=self.options.port, dir=self.dir,
                                                 prefix=self.options.install, workers=WORKERS))
        self.clean_up()
        os.makedirs(self.dir, exist_ok=True)
        conf = os.path.join(self.dir, "responder.conf")
        write_file(conf, self._settings())
        self.stack.up(conf)
        self.add(argparse.Namespace(stop=self.stack.down))
        self.state = make_folder(os.path.join(self.stack.env["ACP_STATE"], "bench"))
        self.database = Database(self.stack.database_url)
        self.pgbin = self._postgres_programs()

    def clean_up(self):
        """Ends and removes the remains of an earlier run in the folder."""
        self.stack._run("down", "--purge")

    def _settings(self):
        """Returns the settings of the benchmark, overridden by --conf."""
        given = ""
        if self.options.conf:
            with open(self.options.conf, encoding="utf-8") as file:
                given = file.read()
        kept = {name: value for name, value in SETTINGS.items() if name not in settings_of(given)}
        return settings_text(kept) + given

    def _postgres_programs(self):
        with open("/proc/%d/cmdline" % self.stack.postmaster, "rb") as file:
            return os.path.dirname(os.fsdecode(file.read().split(b"\0")[0]))

    def daemons(self):
        """Processes started by deploy/lib/stack, without those started here."""
        return [self.stack.supervisor, self.stack.postmaster, self.stack.web_server]

    # The responders

    def start_nothing(self):
        """Starts the do-nothing responder with as many processes and threads as ours, and lighttpd with the same
        configuration."""
        self.nothing_folder = make_folder(os.path.join(self.state, "nothing"))
        # The name that Apache's configuration expects.
        self._nothing = os.path.join(self.nothing_folder, "acp.fcgi")
        shutil.copy(self.options.nothing, self._nothing)
        os.chmod(self._nothing, 0o755)
        self.nothing_socket = os.path.join(self.nothing_folder, "nothing.sock")
        processes = len(self.stack.responders())
        self.shape = "%d processes of %d threads" % (processes, WORKERS // processes)
        server = Process([self._nothing, self.nothing_socket, str(processes), str(WORKERS // processes)],
                         os.path.join(self.state, "nothing.log"), **as_web_user())
        self.add(server)
        self.nothing_pid = server.pid
        until(5, "the do-nothing responder listens",
              lambda: os.path.exists(self.nothing_socket) or not server.running())
        check(server.running(), "the do-nothing responder ended: %s" % server.last_words())
        frontend = Frontend("lighttpd", "lighttpd-nothing", next(self._free_ports), self.state, self.nothing_socket)
        self.add(frontend)
        self.nothing_url = frontend.url

    def one_process_config(self):
        """Makes a folder with an acp.conf for processes that inherit their socket: it has no listen address."""
        folder = make_folder(os.path.join(self.state, "etc"))
        with open(self.stack.config, encoding="utf-8") as file:
            settings = settings_of(file.read())
        for name in ("listen", "listen_mode", "workers", "processes"):
            settings.pop(name, None)
        write_file(os.path.join(folder, "acp.conf"), settings_text(settings), 0o640)
        return folder

    def frontends(self, kind):
        """Starts web servers of this kind in front of the do-nothing responder and of ours. The caller stops them."""
        config = self.one_process_config() if kind == "apache-fcgid" else None
        pair = []
        for name, path, folder in (("nothing", self.nothing_socket, self.nothing_folder),
                                   ("acp", self.stack.setting("listen"), self.stack.sbin)):
            port = next(self._free_ports)
            pair.append(Frontend(kind, "%s-%s" % (kind, name), port, self.state, path, folder, config))
            self.add(pair[-1])
        return pair

    def stop_frontends(self, pair):
        for frontend in pair:
            self._open.remove(frontend)
            frontend.stop()

    # Databases

    def another_database(self, name):
        """Creates a database with the same schema."""
        self.database.named("postgres").execute("create database %s template template0" % name)
        other = self.database.named(name)
        self.stack.ctl("migrate", environment={"ACP_DATABASE_URL": other.url})
        return other

    def program(self, name):
        """Path of a program of the running PostgreSQL version."""
        found = glob.glob(os.path.join(self.pgbin, name)) or [shutil.which(name)]
        check(found[0], "%s is not installed" % name)
        return found[0]
