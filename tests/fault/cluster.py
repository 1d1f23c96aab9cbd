"""A PostgreSQL primary (that of the stack) and a standby (a copy of it) that takes over."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse

from database import Database, clean_environment
from faults import Fault, kill_postgres
from checks import Failure, check, until
from stack import children, end_quietly, is_running

STANDBY = "acp_standby"  # application_name of the standby, for synchronous_standby_names
STREAMS = "select count(*) from pg_stat_replication where application_name = '%s' and state = 'streaming'" % STANDBY
# sync: commits wait for the standby. Earlier commits are there as well once it has applied everything up to now.
IN_SYNC = STREAMS + " and sync_state = 'sync' and replay_lsn >= '%s'"


class Node:
    """A data folder and its port."""

    def __init__(self, stack, name, port):
        self.port = port
        self.data = os.path.join(stack.env["ACP_STATE"], name)
        self.sockets = os.path.join(stack.env["ACP_STATE"], "run", "pg")
        self.log = os.path.join(os.path.dirname(self.data), "log", "%s.log" % name)
        self._owner = pwd.getpwuid(os.stat(os.path.join(stack.env["ACP_STATE"], "postgres")).st_uid)
        self._become = [] if os.geteuid() == self._owner.pw_uid else [
            "setpriv", "--reuid", self._owner.pw_name, "--regid", str(self._owner.pw_gid), "--init-groups"]
        with open(os.path.join(stack.env["ACP_STATE"], "postgres", "PG_VERSION"), encoding="utf-8") as file:
            self._programs = "/usr/lib/postgresql/%s/bin" % file.read().strip()

    @property
    def url(self):
        return url([self], "postgres", "any")

    @property
    def db(self):
        return Database(self.url)

    @property
    def postmaster(self):
        """None if it is not running."""
        try:
            with open(os.path.join(self.data, "postmaster.pid"), encoding="utf-8") as file:
                pid = int(file.readline())
        except (OSError, ValueError):
            return None
        return pid if is_running(pid) else None

    def run(self, program, *arguments):
        done = subprocess.run(self._become + [os.path.join(self._programs, program), *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=clean_environment(), cwd="/", timeout=120)
        check(done.returncode == 0, "%s %s: exit %d: %s" % (program, arguments, done.returncode, done.stdout))

    def start(self):
        # A file, not a pipe: the server keeps inherited descriptors open.
        with open(self.log, "a", encoding="utf-8") as log:
            os.chown(self.log, self._owner.pw_uid, self._owner.pw_gid)
            subprocess.run(self._become + [os.path.join(self._programs, "pg_ctl"), "-D", self.data, "-l", self.log,
                                           "-o", "-c port=%d" % self.port, "-w", "-t", "60", "start"], check=True,
                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(), cwd="/",
                           timeout=90)

    def stop(self):
        if self.postmaster:
            self.run("pg_ctl", "-D", self.data, "-w", "-t", "30", "-m", "immediate", "stop")

    def set(self, **settings):
        for name, value in settings.items():
            self.db.execute("alter system set %s = '%s'" % (name, value))
        self.db.text("select pg_reload_conf()")

    def follow(self, primary, slot=None):
        """Makes this node a copy that follows the primary. slot: a new replication slot that keeps WAL it has not
        received."""
        shutil.rmtree(self.data, ignore_errors=True)
        os.mkdir(self.data, 0o700)
        os.chown(self.data, self._owner.pw_uid, self._owner.pw_gid)
        self.run("pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast",
                 *(["-C", "-S", slot] if slot else []), "-d",
                 "host=%s port=%d user=postgres application_name=%s" % (primary.sockets, primary.port, STANDBY))
        self.start()


def url(nodes, role, wanted="read-write"):
    """A connection string that selects the writable node."""
    sockets = urllib.parse.quote(nodes[0].sockets, safe="")
    return "postgresql://%s@/acp?host=%s&port=%s&target_session_attrs=%s" % (
        role, ",".join([sockets] * len(nodes)), ",".join(str(node.port) for node in nodes), wanted)


class Cluster:
    """A context manager that gives the responder and stack.database_url both nodes."""

    def __init__(self, stack, settings):
        self._stack = stack
        self._settings = settings  # text
        stack.up()
        self.primary = Node(stack, "postgres", 5432)
        self.standby = Node(stack, "standby", 5433)
        self._nodes = [self.primary, self.standby]
        self.faults = []

    def __enter__(self):
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-fault-") as file:
                file.write(self._settings + "database_url = %s\n" % url(self._nodes, "acp_app"))
                file.flush()
                self._stack.up(conf=file.name)
            self._stack.database_url = url(self._nodes, "postgres")
            self.primary.db.execute("alter role acp_app set synchronous_commit = remote_apply")
            self.attach()
            self._stack.restart_responder()  # for the role's new setting
            self._stack.database_url = url(self._nodes, "postgres")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self._nodes:
            end_quietly([pid for pid in [node.postmaster] if pid], signal.SIGCONT)
            node.stop()

    def attach(self):
        """Lets the standby catch up; from now on every commit waits until the standby has applied it."""
        self.standby.follow(self.primary)
        until(60, "the standby streams", lambda: self.primary.db.value(STREAMS) == 1)
        self.primary.set(synchronous_standby_names=STANDBY)
        now = self.primary.db.value("select pg_current_wal_lsn()")
        until(60, "the standby has caught up", lambda: self.primary.db.value(IN_SYNC % now) == 1)

    def detach(self):
        """Stops replication: the standby gets no later commits."""
        self.primary.set(synchronous_standby_names="")
        self.standby.set(primary_conninfo="")
        until(20, "replication has ended",
              lambda: self.primary.db.value("select count(*) from pg_stat_replication") == 0)

    def fail_over(self, kind, pause):
        """kind killed: the processes of the primary end, and new connections are refused. vanished: they are stopped
        like those of an isolated host, and nothing answers. After a pause, in which a monitor would notice, the
        standby is promoted."""
        postmaster = self.primary.postmaster
        fault = Fault(kind, 0)
        if kind == "killed":
            kill_postgres(self.primary)
        else:
            end_quietly([postmaster], signal.SIGSTOP)
            end_quietly(children(postmaster), signal.SIGSTOP)
        fault.at = time.monotonic()
        fault.pause = pause
        time.sleep(pause)
        self.standby.run("pg_ctl", "-D", self.standby.data, "-w", "-t", "60", "promote")
        fault.back = time.monotonic()
        self.faults.append(fault)
        self.primary, self.standby = self.standby, self.primary
        return fault

    def fence(self):
        """Kills the old primary for good."""
        if self.standby.postmaster:
            kill_postgres(self.standby)
        if self.standby.postmaster:
            raise Failure("the old primary is still running")
