"""Short form of tests/fault/instant: contract 1 (changes of keys and tenants take effect on every process)."""

import os
import sys
import time

import pytest

from checks import check, equal

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import changes


@pytest.mark.slow
def test_changes_are_known_everywhere(bench):
    """Contract 1: keys are revoked, scopes changed, tenants upgraded. No call in any process that starts 100 ms or more
    after the answer to the change sees the old state."""
    bench.need_own_stack("uses its database with the program's role")
    verdict = changes.run(bench.stack, seed=int(time.time()), count=40, lanes=2)
    check(not verdict.violations, str(verdict))
    equal(len(verdict.changes), 40, "changes")
