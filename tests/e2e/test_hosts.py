"""Two responders as on two hosts: each has its own processes, shared memory and journal; they share one database."""

import contextlib
import json
import os
import sys
import tempfile
import threading
import time

import pytest

from client import CREATE, SCORE, SCORE_PARAMS
from fcgi import Responder, can_stand_apart
from checks import Load, Skip, check, equal, parallel, spread, until

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
from faults import kill_postgres

SCORING = {"action": SCORE, "params": SCORE_PARAMS}
VERSION = {"action": "meta.version"}


@contextlib.contextmanager
def two_hosts(bench, **settings):
    bench.need_own_stack("starts two more responders on its database")
    if not can_stand_apart():
        raise Skip("separate shared memory needs root, or user namespaces")
    with contextlib.ExitStack() as opened:
        hosts = []
        for _ in range(2):
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="acp-host-"))
            responder = Responder(bench.stack, apart=True, journal_dir=os.path.join(folder, "journal"), workers="16",
                                  **settings)
            hosts.append(opened.enter_context(responder))
        yield hosts


def call(host, key, body):
    return host.call(key, json.dumps(body).encode())


def answers(hosts, key, bodies):
    """Sends the bodies to the hosts in turn, on 32 threads; returns the statuses."""
    numbered = list(enumerate(bodies))
    return [reply.status for reply in spread(32, numbered, lambda item: call(hosts[item[0] % 2], key, item[1]))]


def test_memory_is_apart(bench):
    """The hosts share only the database: a count in one host's memory does not affect the other."""
    tenant = bench.onboard()
    with two_hosts(bench, rate_limit="3") as hosts:
        equal([call(hosts[0], tenant.key, VERSION).status for _ in range(4)], [200, 200, 200, 429], "statuses of one")
        equal(call(hosts[1], tenant.key, VERSION).status, 200, "status of the other")


def test_allowance_is_exact(bench):
    """Contract 3: call 101 never passes, on any number of hosts. Calls that write reserve places; others are counted at
    the end."""
    with two_hosts(bench) as hosts:
        for bodies in ([SCORING] * 150,
                       [{"action": CREATE, "params": {"name": "m%d" % n, "model_type": "linear"}} for n in range(150)]):
            tenant = bench.onboard()
            statuses = answers(hosts, tenant.key, bodies)
            equal([statuses.count(200), statuses.count(402)], [100, 50], "calls that succeeded and that were refused")
            equal(bench.tenant_rows(tenant, "billable"), 100, "billable rows")
            equal(bench.usage(tenant.key)["calls_used"], 100, "calls_used")


def test_rate_limit_is_divided(bench):
    """README: with rate_limit_hosts = 2 each host allows half of the limit, so both together never exceed it."""
    tenant = bench.paid_tenant()
    bench.db.execute("update acp.api_keys set rate_limit = null where tenant_id = :'id'", id=tenant.id)
    with two_hosts(bench, rate_limit="40", rate_limit_hosts="2") as hosts:
        statuses = answers(hosts, tenant.key, [VERSION] * 100)
        equal([statuses.count(200), statuses.count(429)], [40, 60], "calls that were allowed and that were refused")
        reply = call(hosts[0], tenant.key, VERSION)
        check('q=20;' in reply.header("RateLimit-Policy"), "the host does not announce its share\n%s" % reply)


def test_one_idempotency_key(bench):
    """Contract 3: of concurrent first calls with one key on two hosts, exactly one runs."""
    tenant = bench.paid_tenant()
    with two_hosts(bench) as hosts:
        for number in range(10):
            body = {"action": CREATE, "params": {"name": "twin-%d" % number, "model_type": "linear"},
                    "idempotency_key": "twin-%d" % number}
            replies = parallel(8, lambda n, body=body: call(hosts[n % 2], tenant.key, body))
            fresh = [reply for reply in replies if reply.status == 200 and reply.code is None]
            equal(len(fresh), 1, "calls that ran")
            check({reply.status for reply in replies} <= {200, 409}, "%s" % [reply.status for reply in replies])
    equal(bench.tenant_rows(tenant, "billable"), 10, "billable rows")


@pytest.mark.slow
def test_revoked_on_the_other_host(bench):
    """Contract 1: 100 ms after one host has answered the revocation of a key, the other one refuses it, even if it is
    busy and has the key in its cache."""
    tenant = bench.paid_tenant()
    with two_hosts(bench) as hosts:
        with Load(6, lambda: call(hosts[1], tenant.key, VERSION).status):  # busy
            for number in range(15):
                key, key_id = bench.make_key(tenant, "manage.read")
                seen = []
                stop = threading.Event()

                def watch(key=key, seen=seen, stop=stop):
                    while not stop.is_set():
                        began = time.monotonic()
                        seen.append((began, call(hosts[1], key, VERSION).status))

                thread = threading.Thread(target=watch, daemon=True)
                thread.start()
                until(10, "the other host knows the key", lambda seen=seen: len(seen) >= 5)
                reply = call(hosts[0], tenant.key, {"action": "iam.keys.revoke", "params": {"api_key_id": key_id}})
                answered = time.monotonic()
                check(reply.status == 200, "%s" % reply)
                time.sleep(0.2)
                until(20, "a call from 100 ms on", lambda seen=seen, since=answered + 0.1: seen[-1][0] >= since)
                stop.set()
                thread.join(30)
                late = [status for began, status in seen if began >= answered + 0.1]
                check(late and set(late) == {401}, "key %d: statuses from 100 ms on: %s" % (number, late))
                equal(seen[0][1], 200, "status before")


def test_two_journals(bench):
    """Contract 3: while PostgreSQL is down, each host keeps its rows in its journal. Afterwards both store them, and a
    free tenant has exactly its 100 billable calls."""
    tenant = bench.onboard()
    with two_hosts(bench, key_cache_stale="600") as hosts:
        answers(hosts, tenant.key, [SCORING] * 80)
        kill_postgres(bench.stack)
        try:
            statuses = answers(hosts, tenant.key, [SCORING] * 60)
        finally:
            bench.stack.restart_postgres()
        kept = statuses.count(200)
        check(kept >= 40, "%d of 60 calls were answered without PostgreSQL" % kept)
        until(60, "the rows of both journals are in PostgreSQL", lambda: bench.tenant_rows(tenant, "status = 'success'")
              == 80 + kept, 0.2)
    equal(bench.tenant_rows(tenant, "billable"), 100, "billable rows")
    equal(bench.usage(tenant.key)["calls_used"], 100, "calls_used")
