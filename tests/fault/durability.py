"""The kill test: load, faults, and the verdict of the oracle."""

import os
import re
import statistics
import subprocess
import tempfile
import time
import uuid
from collections import Counter, defaultdict

from client import Bench
from database import Database, clean_environment
from faults import Injector
from checks import check
from oracle import Oracle, wait_for_journal
from workload import UNKNOWN, Load, pay

RESERVATION_TTL = 5
FREE_LIMIT = 100
# Reservations and claims of dead calls must expire while the test runs. Only the allowance is limited.
SETTINGS = """reservation_ttl = %d
idempotency_lease = 5
rate_limit = 1000000
ceiling_keys = 1000
free_calls_limit = %d
""" % (RESERVATION_TTL, FREE_LIMIT)


def write_settings():
    """Writes the settings to a file for deploy/lib/stack up --conf; the file exists as long as the object."""
    file = tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-fault-")
    file.write(SETTINGS)
    file.flush()
    return file


def knows_setting(stack, name):
    """True if the program has this setting. Older programs are tested as well."""
    done = subprocess.run([os.path.join(stack.sbin, "acp.fcgi"), "--print-config"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment())
    return re.search(r"^%s = " % re.escape(name), done.stdout, re.M) is not None


def lose_commits(stack, on):
    """on: answers no longer wait for the disk, so a kill of PostgreSQL loses commits, and the oracle must find that.
    Also resets it when off, because a kept scratch folder may have it on."""
    change = "set synchronous_commit = off" if on else "reset synchronous_commit"
    Database(stack.database_url).execute("alter role acp_app %s" % change)
    stack.restart_responder()


class Verdict:
    def __init__(self, seed, load, injector, seconds):
        self.seed = seed
        self.seconds = seconds
        self.answers = load.answers()
        self.faults = injector.faults
        self.violations = []
        self.notes = []
        self.keys = set()

    def count(self, test):
        return sum(1 for answer in self.answers if test(answer.status))

    @property
    def successes(self):
        return self.count(lambda status: status is not UNKNOWN and status < 300)

    def _calls(self):
        statuses = Counter(answer.status for answer in self.answers)
        unknown = statuses.pop(UNKNOWN, 0)
        parts = ["%d: %d" % pair for pair in sorted(statuses.items())]
        web_server = sum(answer.web_server for answer in self.answers)
        return ("calls: %d (%.0f/s); 2xx %d, 402 %d, 503 %d, unknown %d (%d of them answered by the web server "
                "itself); by status: %s") % (
                    len(self.answers), len(self.answers) / self.seconds, self.successes, statuses[402], statuses[503],
                    unknown, web_server, ", ".join(parts))

    def recoveries(self):
        """Returns for each kind and kill: seconds until it was started again; until the next success of a call that
        began after the kill; the longest time without success before the next kill."""
        good = [(a.started, a.ended) for a in self.answers if a.good]
        ends = sorted(ended for _, ended in good)
        limits = [fault.at for fault in self.faults[1:]] + ends[-1:]
        found = defaultdict(list)
        for fault, limit in zip(self.faults, limits):
            first = min((ended for started, ended in good if started >= fault.at), default=None)
            if first is None:
                continue
            last = max(limit, first)
            seen = [fault.at] + [end for end in ends if fault.at < end <= last]
            gap = max(after - before for before, after in zip(seen, seen[1:]))
            found[fault.kind].append((fault.back - fault.at, first - fault.at, gap))
        return found

    def lines(self):
        kills = Counter(fault.kind for fault in self.faults)
        yield "seed %s, %.0f s" % (self.seed, self.seconds)
        yield "kills: %d (%s)" % (len(self.faults), ", ".join("%s %d" % pair for pair in kills.most_common()))
        yield self._calls()
        for kind, times in self.recoveries().items():
            yield "%s: %s" % (kind, "; ".join(
                "%s median %.3f s, max %.3f s" % (what, statistics.median(values), max(values))
                for what, values in zip(("from kill to started again", "from kill to next success",
                                         "longest without a success"), zip(*times))))
        yield from self.notes
        for violation in self.violations:
            yield "VIOLATION %s" % violation
        yield "violations: %d" % len(self.violations)

    def __str__(self):
        return "\n".join(self.lines())


def run(stack, settings, seed, seconds, clients, gaps=(1, 5), journal_seconds=60):
    """Runs on a running stack with those settings: kills, waits for recovery, and returns the Verdict."""
    bench = Bench(stack)
    load = Load(stack.url, clients, seed, "fault-%s" % uuid.uuid4().hex[:8])
    since = bench.db.value("select acp.now() as now")
    load.onboard(4, 3, pay(stack))
    injector = Injector(stack, seed, gaps)
    start = time.monotonic()
    load.start()
    injector.start()
    time.sleep(seconds)
    injector.stop()
    time.sleep(0.5)  # some final calls without faults
    load.stop()
    verdict = Verdict(seed, load, injector, time.monotonic() - start)
    stack.up(conf=settings.name)
    verdict.notes.append(wait_for_journal(stack, journal_seconds))
    oracle = Oracle(bench, load, since, FREE_LIMIT, RESERVATION_TTL)
    verdict.violations = oracle.check()
    verdict.notes += oracle.notes
    verdict.keys = {account.key for account in load.accounts()[:5]}
    check(verdict.successes > 0, "not one call succeeded\n%s" % verdict)
    return verdict
