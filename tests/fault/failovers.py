"""The failover test: load, a primary that fails, a promoted standby, and the verdict of the oracle."""

import random
import time
import uuid

from client import CREATE, Bench
from cluster import Cluster
from durability import FREE_LIMIT, RESERVATION_TTL, SETTINGS, Verdict
from checks import Failure, check, until
from oracle import Oracle, wait_for_journal
from workload import Load, pay

KINDS = ["killed", "vanished"]
RECOVERY = 30  # seconds after the promotion in which a call must succeed again
WITHOUT_STANDBY = 1.5  # seconds of calls that only the primary stores, for --lose-commits


def written_after(answers, fault):
    """Returns the time of the answer to the first writing call that began after the fault, or None."""
    return min((a.ended for a in answers if a.request.action == CREATE and not a.request.dry_run and a.status == 200
                and a.started >= fault.at), default=None)


def recovery(answers, fault, until):
    ended = written_after(answers, fault)
    late = [a.ended for a in answers if a.status == 503 and fault.back <= a.started < until]
    return ("failover, primary %s: standby promoted after %.2f s; first new call that writes answered %.2f s after the "
            "primary went away, %.2f s after the promotion; %d calls begun after that answered 503, the last %s" % (
                fault.kind, fault.back - fault.at, ended - fault.at, ended - fault.back, len(late),
                "%.2f s after it" % (max(late) - fault.back) if late else "none"))


def fail_over(cluster, load, kind, pause, lose):
    if lose:
        cluster.detach()
        time.sleep(WITHOUT_STANDBY)
    fault = cluster.fail_over(kind, pause)
    until(RECOVERY, "calls that write succeed after the standby's promotion (%s)" % kind,
          lambda: written_after(load.answers(), fault), 0.1)


def run(stack, seed, failovers, clients, gaps=(2, 5), pauses=(0, 2), silence=(2, 4), lose=False):
    """Makes the given number of failovers under load. After each but the last, the old primary is rebuilt as a standby.
    Returns the Verdict."""
    choice = random.Random("%s/failover" % seed)
    with Cluster(stack, SETTINGS) as cluster:
        bench = Bench(stack)
        load = Load(stack.url, clients, seed, "failover-%s" % uuid.uuid4().hex[:8])
        since = bench.db.value("select acp.now() as now")
        load.onboard(4, 3, pay(stack))
        responders = sorted(stack.responders())
        start = time.monotonic()
        load.start()
        try:
            for number in range(failovers):
                time.sleep(choice.uniform(*gaps))
                fail_over(cluster, load, KINDS[number % len(KINDS)], choice.uniform(*pauses), lose)
                # A vanished server stays silent for a while: connections to it must not be used again.
                time.sleep(choice.uniform(*silence))
                cluster.fence()
                if number < failovers - 1:
                    cluster.attach()
        finally:
            load.stop()
        verdict = Verdict(seed, load, cluster, time.monotonic() - start)
        check(sorted(stack.responders()) == responders, "the processes of the responder have changed since the start")
        verdict.notes.append("the responder's processes have not changed")
        ends = [fault.at for fault in cluster.faults[1:]] + [time.monotonic()]
        verdict.notes += [recovery(verdict.answers, fault, end) for fault, end in zip(cluster.faults, ends)]
        try:
            verdict.notes.append(wait_for_journal(stack, 5 if lose else 60))
        except Failure as error:  # rows of lost tenants
            verdict.violations.append(str(error))
        oracle = Oracle(bench, load, since, FREE_LIMIT, RESERVATION_TTL)
        try:
            oracle.check()
        except Failure as error:  # a call of the oracle itself was refused
            oracle.violations.append(str(error))
        verdict.violations += oracle.violations
        verdict.notes += oracle.notes
    check(verdict.successes > 0, "not one call succeeded\n%s" % verdict)
    return verdict
