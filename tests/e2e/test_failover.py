"""Short form of tests/fault/failover: the primary goes away under calls, its standby takes over, and all goes on."""

import os
import shutil
import sys
import time
from types import SimpleNamespace

import pytest

from checks import check, equal, only_on
from stack import OwnStack, free_port

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import failovers


def own_stack(bench):
    """Failover of a database other than that of the other tests."""
    place = os.path.join(os.path.dirname(bench.stack.dir), "failover")
    shutil.rmtree(place, ignore_errors=True)
    return OwnStack(SimpleNamespace(server=bench.stack.server, port=free_port(), dir=place, prefix=bench.stack.prefix,
                                    workers=None))


@pytest.mark.slow
@only_on(["lighttpd"], "what is tested is between the responder and PostgreSQL")
def test_failover_under_load(bench):
    """Contract 3 and 4: with synchronous_commit = remote_apply the primary is killed, then the next one falls silent,
    and a standby takes over: nothing answered is lost, nothing is done twice, the same processes go on."""
    bench.need_own_stack("makes a standby of its database")
    stack = own_stack(bench)
    try:
        verdict = failovers.run(stack, seed=int(time.time()), failovers=2, clients=8, gaps=(1, 2), pauses=(0, 0.5),
                                silence=(1, 2))
    finally:
        stack.down()
    check(not verdict.violations, str(verdict))
    equal([fault.kind for fault in verdict.faults], ["killed", "vanished"], "failovers")
    for note in verdict.notes:
        if note.startswith("failover"):
            print("     " + note)
    stack.purge()
