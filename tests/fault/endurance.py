"""The long test: load, shoppers, every kind of fault, then the oracle and the accounts."""

import contextlib
import datetime
import os
import tempfile
import time
import urllib.parse
import uuid
from collections import Counter

import disks
import standbys
from client import Bench
from durability import FREE_LIMIT, RESERVATION_TTL, SETTINGS, Verdict, knows_setting
from checks import Failure, check
from money import Books, Shopper, StackStripe, bill_month, buy, due_months
from oracle import Oracle, wait_for_journal
from proxy import Network
from regime import WOBBLE, Regime, World
from restores import Restores
from tenants import Tenants
from workload import Load

MORE_SETTINGS = """processes = 2
audit_seal_interval = 5
%sdatabase_url = postgresql://acp_app@/acp?host=%s&port=5432
"""
# Few connections, so that all of them can be taken. Small WAL segments, because the disk is small. A standby that
# falls behind keeps at most this much WAL.
POSTGRES = {"max_connections": "60", "max_wal_size": "'256MB'", "min_wal_size": "'80MB'", "wal_keep_size": "0",
            "max_slot_wal_keep_size": "'256MB'"}
DATA_SIZE, WAL_SIZE, JOURNAL_SIZE = "8g", "2g", "64m"
# Short, so that some outcomes stay unknown while other commits are answered in time.
COMMIT_TIMEOUT = 1500


class LongVerdict(Verdict):
    def __init__(self, seed, load, regime, seconds):
        super().__init__(seed, load, regime, seconds)
        self._regime = regime

    def lines(self):
        yield "seed %s, %.0f s" % (self.seed, self.seconds)
        counts = Counter(fault.kind for fault in self.faults)
        yield "faults: %d of %d kinds, one each %.1f s" % (len(self.faults), len(counts),
                                                           self.seconds / max(len(self.faults), 1))
        for kind, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
            yield "  %4d  %s" % (count, kind)
        for kind, reason in self._regime.skipped.items():
            yield "  skip  %s: %s" % (kind, reason)
        yield self._calls()
        yield from self.notes
        for violation in self.violations:
            yield "VIOLATION %s" % violation
        yield "violations: %d" % len(self.violations)


def mount_disks(state, cleaning):
    """Mounts the disks for PostgreSQL and the journal. Returns (disks, reasons for missing ones)."""
    found, missing = {}, {}
    data, journal = os.path.join(state, "postgres"), os.path.join(state, "journal")
    full, frozen = disks.why_not(), disks.why_never_frozen()
    if full is None:
        found["data"] = cleaning.enter_context(disks.Disk(data, DATA_SIZE))
        found["journal"] = cleaning.enter_context(disks.Disk(journal, JOURNAL_SIZE))
    else:
        missing.update(data=full, journal=full)
    if frozen is None:
        found["wal"] = cleaning.enter_context(disks.FreezingDisk(os.path.join(data, "pg_wal"), WAL_SIZE,
                                                                 os.path.join(state, "wal")))
    else:
        missing["wal"] = frozen
    return found, missing


def more_settings(stack, network, tenants):
    timeout = "db_commit_timeout = %d\n" % COMMIT_TIMEOUT if knows_setting(stack, "db_commit_timeout") else ""
    return SETTINGS + MORE_SETTINGS % (timeout, urllib.parse.quote(network.folder, safe="")) + tenants.settings


@contextlib.contextmanager
def site(stack, tenants):
    """Starts the stack with a faulty network before its database, and with disks that can be full or frozen where that
    is possible. Yields (network, disks, reasons for missing disks, the settings file)."""
    disks.clear(stack)
    stack.up()
    for name, value in POSTGRES.items():
        Bench(stack).db.execute("alter system set %s = %s" % (name, value))
    stack.down()
    state = stack.env["ACP_STATE"]
    with contextlib.ExitStack() as cleaning:
        found, missing = mount_disks(state, cleaning)
        network = cleaning.enter_context(Network(os.path.join(state, "run", "network"),
                                                 os.path.join(state, "run", "pg")))
        settings = cleaning.enter_context(tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-fault-"))
        settings.write(more_settings(stack, network, tenants))
        settings.flush()
        cleaning.callback(stack.down)
        stack.up(conf=settings.name)
        yield network, found, missing, settings.name


def standby_of(stack, bench, cleaning, missing, only):
    """Returns the standby; None if no kind of this run needs one or none is possible."""
    if only and "standby stopped" not in only:
        return None
    why = standbys.why_not()
    if why:
        missing["standby"] = why
        return None
    return cleaning.enter_context(standbys.Standby(stack, bench.db))


def settle_clock(regime, world):
    """Moves the clock past every moment that a wrong clock has shown, so that work scheduled then runs now. A month may
    end by that, or have ended by itself."""
    world.offset += datetime.timedelta(seconds=WOBBLE + 600)
    regime.set_clock(world.offset)
    world.months = due_months(world.db)


def under_faults(stack, world, load, shopper, regime, seconds):
    """Returns the duration."""
    start = time.monotonic()
    for part in (load, shopper, world.tenants, regime):
        part.start()
    try:
        regime.ended.wait(seconds)
    finally:
        regime.stop()
        time.sleep(0.5)  # some final calls without faults
        for part in (world.tenants, shopper, load):
            part.stop()
    took = time.monotonic() - start
    stack.up(conf=world.settings)
    return took


def check_all(verdict, stack, bench, load, shopper, regime, world):
    """The oracle checks every call, the accounts check the money."""
    settle_clock(regime, world)
    verdict.notes.append(wait_for_journal(stack, 120))
    # A month whose billing was killed shows a difference until its billing is complete.
    for month in world.months:
        bill_month(stack, month, world.tenants.repair)
    books = Books(stack, bench, world.stripe, shopper)
    # An obligation to Stripe that is not done is a difference, too.
    books.settle()
    oracle = Oracle(bench, load, "2000-01-01", FREE_LIMIT, RESERVATION_TTL,
                    lambda a: regime.broke_schema(a) or world.tenants.must_fail(a), world.jumps)
    try:
        oracle.check()
        world.tenants.check(books.expect)
        world.restores.check(books.expect)
        books.customers()
        regime.end_month(1)
        world.months = due_months(world.db)
        books.bill(world.months, world.tenants.repair)
        books.balance(world.months)
    except Failure as error:  # a call of the checks themselves was refused
        verdict.violations.append(str(error))
    verdict.violations += regime.violations + oracle.violations + books.violations
    verdict.notes += oracle.notes + books.notes


def run(stack, seed, seconds, clients, gaps, pace, thinks, only=None, limit=None, prepare=lambda: None):
    """Runs on a private stack with the stand-in for Stripe, which is not running yet. Returns the Verdict."""
    with Tenants() as tenants, site(stack, tenants) as (network, found, missing, settings), \
            contextlib.ExitStack() as cleaning:
        prepare()
        bench = Bench(stack)
        load = Load(stack.url, clients, seed, "fault-%s" % uuid.uuid4().hex[:8], thinks)
        stripe = StackStripe(stack)
        world = World(stack, bench, load, network, stripe, settings)
        world.disks, world.missing = found, missing
        world.standby = standby_of(stack, bench, cleaning, missing, only)
        load.onboard(4, 3, lambda account: buy(stack, bench.db, stripe, account))
        world.tenants = tenants
        tenants.set_up(stack, bench, load, seed, only)
        shopper = Shopper(stack, load, bench, stripe, seed)
        world.restores = Restores(world, shopper)
        regime = Regime(world, seed, gaps, pace, only, limit)
        for kind, reason in regime.skipped.items():
            print("skip %s: %s" % (kind, reason))
        verdict = None
        try:
            took = under_faults(stack, world, load, shopper, regime, seconds)
            verdict = LongVerdict(seed, load, regime, took)
            check_all(verdict, stack, bench, load, shopper, regime, world)
        except Failure as error:
            verdict = verdict or LongVerdict(seed, load, regime, seconds)
            verdict.violations += regime.violations + [str(error)]
    check(verdict.successes > 0, "not one call succeeded\n%s" % verdict)
    return verdict
