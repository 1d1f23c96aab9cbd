"""Short form of tests/fault/kill: contract 3 (the row of an answered success is on disk; exact at any concurrency)."""

import os
import sys
import time

import pytest

from checks import check

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import durability


@pytest.mark.slow
def test_kills_under_load(bench):
    """Contract 3: SIGKILL of responders and PostgreSQL during calls of many kinds. Afterwards every answer has exactly
    one row, nothing was done twice, no allowance was exceeded and no place in it is lost."""
    bench.need_own_stack("kills everything repeatedly")
    with durability.write_settings() as settings:
        bench.stack.up(conf=settings.name)
        try:
            verdict = durability.run(bench.stack, settings, seed=int(time.time()), seconds=12, clients=16,
                                     gaps=(0.3, 1.2))
        finally:
            bench.stack.up()
    bench.keys.update(verdict.keys)
    check(not verdict.violations, str(verdict))
    check(verdict.faults and verdict.faults[0].kind == "postgres", "PostgreSQL was not killed\n%s" % verdict)
