"""Runs every kind of fault, one after another. The seed gives the order and the durations."""

import contextlib
import datetime
import math
import os
import signal
import threading
import time
from collections import Counter

from connections import Hoard
from faults import Injector
from checks import Failure, until
from money import due_months, kill_billing
import restores
import tenants
from stack import children, end_quietly, is_running

RECOVERY = 90  # a new writing call must succeed within so many seconds after a fault
TABLES = ["audit_logs", "audit_chains", "api_keys", "tenants", "usage_quota", "usage_reservations", "usage_pending",
          "idempotency", "leadscoring_models", "outbox"]
WOBBLE = 3 * 3600  # seconds by which the clock jumps and returns
OTHERS = "from pg_stat_activity where usename = 'acp_app' and pid <> pg_backend_pid()"

# kind: frequency. NEEDS below lists requirements.
KINDS = {
    "worker killed": 6, "supervisor killed": 3, "responders killed": 3, "web server killed": 2, "PostgreSQL killed": 6,
    "everything killed": 3,
    "worker ended": 3, "configuration reloaded": 3, "responder restarted": 2, "web server reloaded": 3,
    "PostgreSQL restarted": 3, "connections ended": 5,
    "PostgreSQL stopped": 5, "connections stopped": 4, "table locked": 6, "read-only": 4, "out of connections": 4,
    "network slow": 4, "network stalled": 5, "network cut": 4, "answers lost": 5,
    "commits late": 5, "commit answers late": 5, "commits cut": 5, "disk frozen": 5, "standby stopped": 5,
    "disk full": 4, "disk full, no WAL": 3, "journal full": 4,
    "Stripe refuses": 3, "Stripe slow": 2, "Stripe loses replies": 3, "Stripe stopped": 2,
    "webhooks held and doubled": 2,
    "clock wrong": 4, "month ends": 2, "partitions missing": 2, "partition detached": 2, "billing killed": 4,
    **tenants.KINDS, **restores.KINDS}
# Requirements of kinds that are not available everywhere.
NEEDS = {"disk full": "data", "disk full, no WAL": "data", "journal full": "journal", "disk frozen": "wal",
         "standby stopped": "standby"}


class World:
    """The stack and its surroundings, on which faults act."""

    def __init__(self, stack, bench, load, network, stripe, settings):
        self.stack, self.db, self.load = stack, bench.db, load
        self.network, self.stripe, self.settings = network, stripe, settings
        self.disks = {}  # "data", "wal" and "journal", where they can be mounted
        self.standby = self.tenants = self.restores = None
        self.missing = {}  # unavailable entries of NEEDS: reason
        self.months = []  # ended months, YYYY-MM
        self.billed = set()
        self.jumps = []  # (when, seconds) of permanent jumps of the program's clock
        self.offset = datetime.timedelta(0)


class Regime(tenants.TenantFaults, restores.RestoreFaults, Injector):
    def __init__(self, world, seed, gaps, pace=1.0, only=None, limit=None, say=print):
        super().__init__(world.stack, seed, gaps)
        self._world = world
        self._db, self._load, self._network, self._stripe = world.db, world.load, world.network, world.stripe
        self._pace = pace
        self._limit = limit
        self._say = say
        self._start = time.monotonic()
        self._note = ""
        self.ended = threading.Event()
        self.violations = []
        self.skipped = {kind: world.missing[need] for kind, need in sorted(NEEDS.items()) if need in world.missing}
        self._kinds = {kind: weight for kind, weight in KINDS.items()
                       if kind not in self.skipped and (not only or kind in only)}

    # The run ----------------------------------------------------------------------------------------------------------

    def _order(self):
        """Yields each kind once, then random kinds."""
        first = list(self._kinds)
        self._choice.shuffle(first)
        yield from first
        while True:
            yield self._choice.choices(list(self._kinds), list(self._kinds.values()))[0]

    def _work(self):
        try:
            for kind in self._order():
                if self._limit and len(self.faults) >= self._limit:
                    return
                if self._stopping.wait(self._choice.uniform(*self._gaps)):
                    return
                self._one(kind)
        finally:
            self.ended.set()

    def _one(self, kind):
        self._note = ""
        count = len(self.faults)
        begun = time.monotonic()
        try:
            self._method(kind)(self._seconds(0, 2))
        except Failure as error:
            raise Failure("fault %d, %s: %s" % (count + 1, kind, error))
        if len(self.faults) == count:
            return
        fault = self.faults[-1]
        fault.kind = kind
        if fault.back is None:
            self._end(fault)
        fault.at = min(fault.at, begun)
        self._report(fault, self._recover(fault))

    def broke_schema(self, answer):
        """True if the call ran while a partition was detached."""
        return any(fault.kind == "partition detached" and answer.started <= fault.back and answer.ended >= fault.at
                   for fault in self.faults)

    def _method(self, kind):
        return getattr(self, "_" + kind.lower().replace(",", "").replace("-", "_").replace(" ", "_"))

    def _recover(self, fault):
        """Returns the seconds from the end of the fault until the system has recovered: to the answer of a new writing
        call."""
        try:
            return until(RECOVERY, "a call that writes succeeds after %r" % fault.kind,
                         lambda: self._written(fault), 0.05) - fault.back
        except Failure as error:
            self.violations.append(str(error))
            raise

    def _written(self, fault):
        """Returns the time of the first answer to a writing call that began after the fault."""
        return min((a.ended for a in self._load.since(fault.back)
                    if a.request.model and not a.request.dry_run and a.status == 200), default=None)

    def _report(self, fault, recovery):
        seen = Counter("2xx" if a.good else a.status or "unknown"
                       for a in self._load.since(fault.at))
        self._say("%7.1f s  #%d %s%s, %.1f s; a new call that writes answered %.2f s after it; answers: %s" % (
            fault.at - self._start, len(self.faults), fault.kind, self._note, fault.back - fault.at, recovery,
            ", ".join("%s %d" % (what, seen[what]) for what in sorted(seen, key=str)) or "none"))

    def _seconds(self, low, high):
        return self._choice.uniform(low, high) * self._pace

    @contextlib.contextmanager
    def _fault(self, note=""):
        """The context of one fault, which begins on entry and must be repaired on exit."""
        self._note = ": " + note if note else ""
        fault = self._begin("")
        yield fault
        self._end(fault)

    def _wait(self, low, high):
        time.sleep(self._seconds(low, high))

    def _sql(self, statement, **values):
        """Retries while the database may be recovering."""
        def done():
            try:
                self._db.execute(statement, **values)
                return True
            except Failure as error:
                self._last_error = error
                return False
        try:
            until(60, "psql", done, 0.2)
        except Failure:
            raise self._last_error

    # Processes that are killed ----------------------------------------------------------------------------------------

    _worker_killed = Injector._worker
    _supervisor_killed = Injector._supervisor
    _responders_killed = Injector._responders
    _postgresql_killed = Injector._postgres
    _everything_killed = Injector._everything

    def _web_server_killed(self, _):
        process = self._stack.web_server
        end_quietly([process] + children(process))
        with self._fault():
            self._stack.up(conf=self._world.settings)

    # Orderly restarts -------------------------------------------------------------------------------------------------

    def _worker_ended(self, _):
        workers = sorted(self._stack.responders())
        if workers:
            with self._fault("SIGTERM"):
                end_quietly([self._choice.choice(workers)], signal.SIGTERM)

    def _configuration_reloaded(self, _):
        """Sends SIGHUP: the supervisor starts new processes and lets the old ones finish."""
        old = set(self._stack.responders())
        with self._fault("SIGHUP"):
            end_quietly([self._stack.supervisor], signal.SIGHUP)
            until(60, "the old processes have ended", lambda: not old & set(self._stack.responders()), 0.1)

    def _responder_restarted(self, _):
        with self._fault("SIGTERM, and started again"):
            self._stack.restart_responder()

    def _web_server_reloaded(self, _):
        with self._fault("SIGUSR1"):
            end_quietly([self._stack.web_server], signal.SIGUSR1)
            time.sleep(0.5)

    def _postgresql_restarted(self, _):
        immediate = self._choice.random() < 0.7
        with self._fault("immediate" if immediate else "fast"):
            self._stack.restart_postgres(immediate)

    def _connections_ended(self, _):
        """Calls pg_terminate_backend repeatedly."""
        with self._fault():
            for _ in range(self._choice.randint(1, 5)):
                self._sql("select pg_terminate_backend(pid) %s" % OTHERS)
                self._wait(0, 0.5)

    # Faults of PostgreSQL -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stopped(self, processes):
        end_quietly(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            end_quietly(processes, signal.SIGCONT)

    @contextlib.contextmanager
    def _server_stopped(self, postmaster):
        end_quietly([postmaster], signal.SIGSTOP)  # first, so that no child is missed
        with self._stopped(children(postmaster) + [postmaster]):
            yield

    def _postgresql_stopped(self, _):
        with self._fault("SIGSTOP"), self._server_stopped(self._stack.postmaster):
            self._wait(0.5, 6)

    def _standby_stopped(self, _):
        """Stops a synchronous standby: committed data is stored but invisible until the standby continues."""
        standby = self._world.standby
        rebuilt = standby.make_ready()
        with standby.awaited(), self._fault("SIGSTOP" + (", rebuilt before" if rebuilt else "")), \
                self._server_stopped(standby.postmaster):
            self._wait(1, 8)

    def _connections_stopped(self, _):
        """Stops some of the program's connections. Others, and new ones, are answered."""
        pids = [row["pid"] for row in self._db.rows("select pid %s" % OTHERS)]
        chosen = [pid for pid in pids if self._choice.random() < 0.6]
        with self._fault("%d of %d" % (len(chosen), len(pids))), self._stopped(chosen):
            self._wait(0.5, 5)

    def _table_locked(self, _):
        table = self._choice.choice(TABLES)
        with self._db.session() as session:
            with self._fault("acp." + table):
                try:
                    session.execute("begin; set local lock_timeout = '10s'; lock table acp.%s;" % table)
                    self._wait(0.3, 5)
                    session.execute("rollback;")
                except Failure:  # the lock was not available
                    self._note += ", not locked"

    def _read_only(self, _):
        # The session that resets the setting must be able to write.
        writable = "set default_transaction_read_only = off; "
        with self._fault():
            self._sql(writable + "alter system set default_transaction_read_only = on; select pg_reload_conf()")
            try:
                self._wait(0.5, 4)
            finally:
                self._sql(writable + "alter system reset default_transaction_read_only; select pg_reload_conf()")

    def _out_of_connections(self, _):
        path = os.path.join(self._stack.env["ACP_STATE"], "run", "pg", ".s.PGSQL.5432")
        with self._fault(), Hoard(path, "acp_report", "acp") as hoard:
            end = time.monotonic() + self._seconds(1, 4)
            hoard.fill()
            self._sql("select pg_terminate_backend(pid) %s" % OTHERS)
            while time.monotonic() < end:
                hoard.fill()
                time.sleep(0.02)
            self._note = ": %d taken" % len(hoard)

    # The network ---------------------------------------------------------------------------------------------------

    def _network_slow(self, _):
        delay = self._choice.choice([0.02, 0.1, 0.4])
        with self._fault("each piece %g s later" % delay), self._network.doing("delay", delay):
            self._wait(1, 5)

    def _network_stalled(self, _):
        with self._fault(), self._network.doing("stall"):
            self._wait(0.5, 6)

    def _network_cut(self, _):
        with self._fault(), self._network.doing("cut"):
            self._wait(0.1, 4)

    def _answers_lost(self, _):
        """Statements arrive and are executed, their answers are lost, and then the connections break."""
        with self._fault(), self._network.doing("mute"):
            self._wait(0.1, 2)
            self._network.order("cut")
            self._wait(0, 0.5)

    def _commits_late(self, _):
        seconds = self._choice.uniform(0.5, 8)
        with self._fault("%.1f s" % seconds), self._network.doing("commits", seconds):
            self._wait(1, 6)

    def _commit_answers_late(self, _):
        seconds = self._choice.uniform(0.5, 8)
        with self._fault("%.1f s" % seconds), self._network.doing("commit-answers", seconds):
            self._wait(1, 6)

    def _commits_cut(self, _):
        """Breaks the connections while commits, or their answers, are on their way."""
        order = self._choice.choice(["commits", "commit-answers"])
        with self._fault("on their way" if order == "commits" else "done, their answers lost"), \
                self._network.doing(order, 60):
            self._wait(0.3, 5)
            self._network.order("cut")
            self._wait(0, 0.5)

    # Disks ------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _no_room(self):
        """Fills the disk that PostgreSQL writes to."""
        with contextlib.ExitStack() as full:
            for disk in filter(None, map(self._world.disks.get, ("data", "wal"))):
                full.enter_context(disk.full())
            yield

    def _disk_frozen(self, _):
        """Freezes the disk of the write-ahead log: commits wait until it can be written again."""
        seconds = self._seconds(1, 6)
        with self._fault("pg_wal"), self._world.disks["wal"].frozen(math.ceil(seconds) + 10):
            time.sleep(seconds)

    def _disk_full(self, _):
        with self._fault():
            with self._no_room():
                self._wait(1, 4)
            self._back_up()

    def _disk_full_no_wal(self, _):
        """Leaves no room for the next WAL segment: PostgreSQL gives up."""
        with self._fault():
            with self._no_room():
                end = time.monotonic() + self._seconds(2, 4)
                with contextlib.suppress(Failure):
                    while time.monotonic() < end:
                        self._db.execute("create table if not exists public.fill (); select pg_switch_wal()")
                        time.sleep(0.1)
                time.sleep(max(0.0, end - time.monotonic()))
            self._back_up()

    def _back_up(self):
        """Once there is room again, starts PostgreSQL if it is not running, like an administrator. After giving up it
        may be about to end or already restarting."""
        def answers():
            if not is_running(self._stack.postmaster):
                self._stack.restart_postgres()
            with contextlib.suppress(Failure):
                return self._db.value("select count(*) from acp.tenants") > 0
        until(90, "PostgreSQL answers", answers, 0.3)

    def _journal_full(self, _):
        """Leaves no room for rows in the journal while PostgreSQL is cut off."""
        with self._fault(), self._world.disks["journal"].full(), self._network.doing("cut"):
            self._wait(0.5, 4)

    # Stripe -----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stripe_orders(self, note, **orders):
        with self._fault(note):
            self._stripe.control(**orders)
            yield
            self._stripe.control(reset=True)

    def _stripe_refuses(self, _):
        status = self._choice.choice([500, 503, 429, 409])
        # Not a reply that Stripe keeps under the idempotency key: that lasts a day by its own clock, the real one.
        with self._stripe_orders(str(status), fail={"path": "/v1/*", "status": status, "times": -1}):
            self._wait(2, 6)

    def _stripe_slow(self, _):
        with self._stripe_orders("", slow={"path": "/v1/*", "seconds": self._choice.choice([1, 4]), "times": -1}):
            self._wait(2, 6)

    def _stripe_loses_replies(self, _):
        with self._stripe_orders("", drop={"path": "/v1/*", "times": -1}):
            self._wait(2, 6)

    def _webhooks_held_and_doubled(self, _):
        with self._stripe_orders("", webhooks={"hold": True, "duplicate": 2, "shuffle": True}):
            self._wait(2, 6)
            self._stripe.control(webhooks={"release": True})

    def _stripe_stopped(self, _):
        with self._fault("SIGSTOP"), self._stopped([self._stripe.process(self._stack)]):
            self._wait(1, 5)

    # The clock --------------------------------------------------------------------------------------------------------

    def set_clock(self, offset):
        self._sql("select format('alter database %I set acp.clock_offset = %L', current_database(), :'o') \\gexec\n",
                  o="%d seconds" % offset.total_seconds())

    def _clock_wrong(self, _):
        seconds = self._choice.choice([-1, 1]) * self._choice.choice([1, 30, 300, WOBBLE])
        with self._fault("%+d s" % seconds):
            self.set_clock(self._world.offset + datetime.timedelta(seconds=seconds))
            try:
                self._wait(0.5, 3)
            finally:
                self.set_clock(self._world.offset)

    def end_month(self, seconds):
        """Moves the clock so that the next month begins after so many seconds. It never goes back behind that."""
        world = self._world
        left = self._db.row("select to_char(acp.now(), 'YYYY-MM') as month, "
                            "extract(epoch from acp.now())::float8 as now, "
                            "extract(epoch from acp.period_end(acp.period(acp.now())) - acp.now())::float8 as seconds")
        ahead = max(0, int(left["seconds"] - seconds))
        world.offset += datetime.timedelta(seconds=ahead)
        self.set_clock(world.offset)
        world.jumps.append((left["now"], ahead))
        until(60, "the month ends", lambda: self._db.value("select to_char(acp.now(), 'YYYY-MM') as month")
              != left["month"], 0.2)
        world.months.append(left["month"])

    def _month_ends(self, _):
        with self._fault():
            self.end_month(2)
        self._note = ": %s" % self._world.months[-1]

    def _drop_ahead(self):
        """Drops the partitions of future months. Returns their number."""
        ahead = self._db.rows("""select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'acp.audit_logs'::regclass
              and c.relname > 'audit_logs_' || to_char(acp.now(), 'YYYY_MM') order by 1""")
        dropped = 0
        for row in ahead:
            # A partition with rows (written under a wrong clock) stays.
            self._sql("""do $$ begin lock table acp.audit_logs in access exclusive mode;
                if to_regclass('acp.%s') is not null and not exists (select from acp.%s) then drop table acp.%s; end if;
                end $$""" % ((row["name"],) * 3))
            dropped += 1
        return dropped

    def _partitions_missing(self, _):
        """Ends the month while the next months have no partitions."""
        with self._fault():
            dropped = self._drop_ahead()
            self.end_month(1)
            self._note = ": %d months ahead, and %s ends" % (dropped, self._world.months[-1])

    def _partition_detached(self, _):
        """An operator's mistake and its repair: detaches the partition of this month for a moment."""
        month = self._db.row("select 'acp.audit_logs_' || to_char(acp.now(), 'YYYY_MM') as name, "
                             "acp.period_start(acp.period(acp.now()))::text as first, "
                             "acp.period_end(acp.period(acp.now()))::text as after")
        with self._fault(month["name"]):
            self._sql("alter table acp.audit_logs detach partition %(name)s" % month)
            try:
                self._wait(0.1, 1.5)
            finally:
                self._sql("alter table acp.audit_logs attach partition %(name)s "
                          "for values from ('%(first)s') to ('%(after)s')" % month)

    # Money ------------------------------------------------------------------------------------------------------------

    def _bill(self):
        """Bills the oldest month not known to be billed. The run may end before it is killed. Returns what happened."""
        world = self._world
        if set(due_months(self._db)) <= world.billed:
            self.end_month(1)
        month = next(month for month in due_months(self._db) if month not in world.billed)
        how = kill_billing(self._stack, month, self._choice.choice([0.05, 0.1, 0.3, 1, 30]))
        if how == "exit 0":
            world.billed.add(month)
        elif how != "killed":
            how += ", repaired" if world.tenants.repair() else ""
        return "%s, %s" % (month, how)

    def _billing_killed(self, _):
        with self._fault():
            note = self._bill()
            self._note = ": " + note
