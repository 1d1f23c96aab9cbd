"""A standby that follows the stack's PostgreSQL during all faults. Commits wait for it on request."""

import contextlib
import shutil
import signal

from cluster import STANDBY, STREAMS, Node
from checks import Failure, check, until
from stack import end_quietly

PORT = 5433
CATCHING_UP = 20  # seconds for an existing standby to catch up
# The standby has applied everything committed by then.
CAUGHT_UP = STREAMS + " and replay_lsn >= '%s'"
IN_SYNC = STREAMS + " and sync_state = 'sync'"
OWN_SETTING = "select count(*) from pg_roles where rolname = 'acp_app' and rolconfig::text like '%synchronous_commit%'"
SLOTS = " from pg_replication_slots where slot_name = '%s'" % STANDBY
DROP_SLOT = ("select pg_terminate_backend(active_pid)" + SLOTS + " and active; "
             "select pg_drop_replication_slot(slot_name)" + SLOTS + " and not active")


def why_not():
    """Returns why no standby is possible here; None: it is."""
    return None if shutil.which("pg_basebackup") else "pg_basebackup: not installed"


class Standby:
    """A context manager. Within it, commits of the program wait for the standby once PostgreSQL names it."""

    def __init__(self, stack, db):
        self._stack, self._db = stack, db
        self._primary = Node(stack, "postgres", 5432)
        self._node = Node(stack, "standby", PORT)
        self._set_role = False

    def __enter__(self):
        # Not with --lose-commits, which must lose answers.
        if not self._db.value(OWN_SETTING):
            self._db.execute("alter role acp_app set synchronous_commit = remote_apply")
            self._set_role = True
            self._stack.restart_responder()
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._end()
        with contextlib.suppress(Failure):
            self.await_none()
            self._drop_slot()
            if self._set_role:
                self._db.execute("alter role acp_app reset synchronous_commit")

    @property
    def postmaster(self):
        check(self._node.postmaster, "the standby is not running")
        return self._node.postmaster

    def _end(self):
        if self._node.postmaster:
            end_quietly([self._node.postmaster], signal.SIGCONT)
            self._node.stop()

    def _drop_slot(self):
        def gone():
            self._db.text(DROP_SLOT)
            return self._db.value("select count(*)" + SLOTS) == 0
        until(20, "the standby's slot is dropped", gone)

    def _make(self):
        self._end()
        self._drop_slot()
        self._node.follow(self._primary, STANDBY)
        until(60, "the new standby has caught up", self._has_caught_up, 0.2)

    def _has_caught_up(self):
        return self._db.value(CAUGHT_UP % self._db.value("select pg_current_wal_lsn()")) == 1

    def make_ready(self):
        """Rebuilds a standby that died or fell too far behind. Returns whether it did."""
        with contextlib.suppress(Failure):
            if self._node.postmaster:
                until(CATCHING_UP, "the standby has caught up", self._has_caught_up, 0.2)
                return False
        self._make()
        return True

    def _name(self, standbys):
        self._db.execute("alter system set synchronous_standby_names = '%s'" % standbys)
        self._db.text("select pg_reload_conf()")

    def await_none(self):
        self._name("")

    @contextlib.contextmanager
    def awaited(self):
        """Within this context, every commit waits until the standby has applied it."""
        try:
            self._name(STANDBY)
            until(CATCHING_UP, "the standby is in sync", lambda: self._db.value(IN_SYNC) == 1)
            yield
        finally:
            # Its processes have continued by now, and PostgreSQL answers.
            self.await_none()
