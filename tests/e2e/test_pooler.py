"""PgBouncer in transaction mode between the responder and PostgreSQL: contract 4."""

import contextlib
import os
import re
import shutil
import sys
import time
import uuid

import pytest

from checks import Skip, check, until

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import durability
from oracle import Oracle
from workload import Load


@contextlib.contextmanager
def pooled(bench, settings=None):
    """Restarts the stack with PgBouncer. If it already has it (--pooler), nothing changes."""
    bench.need_own_stack("puts PgBouncer in front of its database")
    if not shutil.which("pgbouncer"):
        raise Skip("pgbouncer is not installed")
    before = bench.stack.pooler
    bench.stack.pooler = True
    bench.stack.up(conf=settings.name if settings else None)
    try:
        yield
    finally:
        bench.stack.pooler = before
        bench.stack.up()


def pool_size(bench):
    """The maximum number of connections of the stack's PgBouncer to PostgreSQL."""
    path = os.path.join(bench.stack.env["ACP_STATE"], "etc", "pgbouncer.ini")
    with open(path, encoding="utf-8") as file:
        return int(re.search(r"^default_pool_size = (\d+)$", file.read(), re.M).group(1))


@pytest.mark.slow
def test_no_call_fails(bench):
    """Contract 4: behind PgBouncer in transaction mode no call fails, none is done twice, and counts are exact,
    although each statement may use another server connection without prepared statements. acpctl migrate leaves no lock
    there."""
    with durability.write_settings() as settings, pooled(bench, settings):
        load = Load(bench.stack.url, 24, int(time.time()), "pooler-%s" % uuid.uuid4().hex[:8])
        since = bench.db.value("select acp.now() as now")
        load.onboard(4, 3, lambda tenant: bench.stack.ctl("tenant", "update", tenant, "--tier", "paid",
                                                          "--payment-method", "active"))
        load.start()
        time.sleep(4)
        servers = bench.db.value("select count(*) from pg_stat_activity where usename = 'acp_app'")
        load.stop()
        oracle = Oracle(bench, load, since, durability.FREE_LIMIT, durability.RESERVATION_TTL)
        violations = oracle.check()
        check(not violations, "\n".join(violations))
        failed = [answer for answer in load.answers() if answer.status is None or answer.status >= 500]
        check(not failed, "%d calls failed, for example %s" % (len(failed), failed and failed[0]))
        size = pool_size(bench)
        check(1 < servers <= size, "%d connections to PostgreSQL, of a pool of %d" % (servers, size))
        # With a role that may not migrate, it ends early, but not before it has taken its lock.
        bench.stack.program("acpctl", "migrate", environment={"ACP_DATABASE_URL": bench.stack.setting("database_url")})
        # A lock that migrate left in a session of PgBouncer stays. Others belong to short transactions of the responder.
        held = "select count(*) from pg_locks where locktype = 'advisory'"
        until(10, "no advisory lock is held after acpctl migrate", lambda: bench.db.value(held) == 0)


@pytest.mark.slow
def test_kills(bench):
    """Contract 4: after responders and PostgreSQL behind PgBouncer were killed, the effect of every answered call is
    there, once."""
    with durability.write_settings() as settings, pooled(bench, settings):
        verdict = durability.run(bench.stack, settings, seed=int(time.time()), seconds=8, clients=16, gaps=(0.3, 1.2))
        bench.keys.update(verdict.keys)
        check(not verdict.violations, str(verdict))
