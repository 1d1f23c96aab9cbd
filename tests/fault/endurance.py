"""The long test: load, shoppers, every kind of fault, and in the end the oracle and the books."""

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
from money import Books, Shopper, StackStripe
from oracle import Oracle, wait_for_journal
from proxy import Network
from regime import WOBBLE, Regime, World
from workload import Load

MORE_SETTINGS = """processes = 2
audit_seal_interval = 5
%sdatabase_url = postgresql://acp_app@/acp?host=%s&port=5432
"""
# Fewer connections, so that they can all be taken; and files of the log of little size on a disk of limited size.
# A standby that fell behind keeps no more of them than that.
POSTGRES = {"max_connections": "60", "max_wal_size": "'256MB'", "min_wal_size": "'80MB'", "wal_keep_size": "0",
            "max_slot_wal_keep_size": "'256MB'"}
DATA_SIZE, WAL_SIZE, JOURNAL_SIZE = "8g", "2g", "64m"
# So short that some outcomes stay unknown, and others are waited for.
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
    """Where PostgreSQL and the journal write: (disks, of those that are not to be had: why)."""
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


def more_settings(stack, network):
    timeout = "db_commit_timeout = %d\n" % COMMIT_TIMEOUT if knows_setting(stack, "db_commit_timeout") else ""
    return SETTINGS + MORE_SETTINGS % (timeout, urllib.parse.quote(network.folder, safe=""))


@contextlib.contextmanager
def site(stack):
    """The stack with the network that can fail before its database, and disks that can be full or stand still where
    that is possible. Yields (network, disks, why there are none of some, the settings' file)."""
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
        settings.write(more_settings(stack, network))
        settings.flush()
        cleaning.callback(stack.down)
        stack.up(conf=settings.name)
        yield network, found, missing, settings.name


def standby_of(stack, bench, cleaning, missing, only):
    """None: no kind of this run needs it, or there is none."""
    if only and "standby stopped" not in only:
        return None
    why = standbys.why_not()
    if why:
        missing["standby"] = why
        return None
    return cleaning.enter_context(standbys.Standby(stack, bench.db))


def settle_clock(regime, world):
    """Behind every moment that a clock that went wrong has shown: what was to happen then happens now."""
    world.offset += datetime.timedelta(seconds=WOBBLE + 600)
    regime.set_clock(world.offset)


def under_faults(stack, world, load, shopper, regime, seconds):
    """Returns how long it took."""
    start = time.monotonic()
    load.start()
    shopper.start()
    regime.start()
    try:
        regime.ended.wait(seconds)
    finally:
        regime.stop()
        time.sleep(0.5)  # a last moment of calls without faults
        shopper.stop()
        load.stop()
    took = time.monotonic() - start
    stack.up(conf=world.settings)
    return took


def judge(verdict, stack, bench, load, shopper, regime, world):
    """The oracle for every call, the books for the money."""
    settle_clock(regime, world)
    verdict.notes.append(wait_for_journal(stack, 120))
    # A month whose billing was killed half-way is a difference until it is billed.
    for month in world.months:
        stack.ctl("billing", "run", "--period", month)
    books = Books(stack, bench, world.stripe, shopper)
    # What is still owed to Stripe is a difference, too.
    books.settle()
    oracle = Oracle(bench, load, "2000-01-01", FREE_LIMIT, RESERVATION_TTL, regime.broke_schema, world.jumps)
    try:
        oracle.judge()
        books.customers()
        regime.end_month(1)
        books.bill(world.months)
        books.balance(world.months)
    except Failure as error:  # what they ask for themselves was refused
        verdict.violations.append(str(error))
    verdict.violations += regime.violations + oracle.violations + books.violations
    verdict.notes += oracle.notes + books.notes


def run(stack, seed, seconds, clients, gaps, pace, thinks, only=None, limit=None, prepare=lambda: None):
    """On an own stack with the stand-in for Stripe, not yet up. Returns the Verdict."""
    with site(stack) as (network, found, missing, settings), contextlib.ExitStack() as cleaning:
        prepare()
        bench = Bench(stack)
        load = Load(stack.url, clients, seed, "fault-%s" % uuid.uuid4().hex[:8], thinks)
        stripe = StackStripe(stack)
        world = World(stack, bench, load, network, stripe, settings)
        world.disks, world.missing = found, missing
        world.standby = standby_of(stack, bench, cleaning, missing, only)
        load.onboard(4, 3, lambda tenant: stack.ctl("tenant", "update", tenant, "--tier", "paid", "--payment-method",
                                                    "active"))
        shopper = Shopper(stack, load, bench, stripe, seed)
        regime = Regime(world, seed, gaps, pace, only, limit)
        for kind, reason in regime.skipped.items():
            print("skip %s: %s" % (kind, reason))
        verdict = None
        try:
            took = under_faults(stack, world, load, shopper, regime, seconds)
            verdict = LongVerdict(seed, load, regime, took)
            judge(verdict, stack, bench, load, shopper, regime, world)
        except Failure as error:
            verdict = verdict or LongVerdict(seed, load, regime, seconds)
            verdict.violations += regime.violations + [str(error)]
    check(verdict.successes > 0, "not one call succeeded\n%s" % verdict)
    return verdict
