"""Short form of tests/fault/failover: the primary fails during calls, its standby takes over, and service continues."""

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
    """A separate stack, so that the failover does not affect the database of the other tests."""
    place = os.path.join(os.path.dirname(bench.stack.dir), "failover")
    shutil.rmtree(place, ignore_errors=True)
    return OwnStack(SimpleNamespace(server=bench.stack.server, port=free_port(), dir=place, prefix=bench.stack.prefix,
                                    workers=None))


@pytest.mark.slow
@only_on(["lighttpd"], "it tests the responder and PostgreSQL, not the web server")
def test_failover_under_load(bench):
    """Contract 3 and 4: with synchronous_commit = remote_apply, the primary is killed, then its successor stops
    responding; each time a standby takes over. Nothing answered is lost, nothing is done twice, the same processes
    continue."""
    bench.need_own_stack("creates a standby of its database")
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
