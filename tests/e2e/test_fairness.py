"""Contract 6: what one tenant does costs another nothing. Shares of calls, upstream calls and connections; limits of
refused calls and of reads; a full pool is not an absent server. tests/fairness/run measures what this tests by rules."""

import json
import threading
import time
import uuid

import pytest

from checks import check, equal, parallel, until
from client import CREATE, ONBOARD, SCORE, SCORE_PARAMS, refused, succeeded
from fcgi import STDIN, Responder, begin, parsed, read_reply, record
from stack import children
from stripe import StandIn
from test_actions_dir import Folder, Upstream, action, behind, call

FUNCTIONS = """
create schema if not exists e2e_fair;
create or replace function e2e_fair.hold(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as
$$ begin
	perform pg_advisory_xact_lock_shared(4711);
	return '{}';
end $$;
grant usage on schema e2e_fair to acp_app;
grant execute on function e2e_fair.hold(uuid, jsonb, jsonb) to acp_app;
"""
WAITING = "select count(*) from pg_stat_activity where usename = 'acp_app' and wait_event_type = 'Lock'"
HOLD = action("e2e.hold", {"kind": "sql", "function": "e2e_fair.hold"}, billable=False)
LARGE = 4 << 20


def share_refused(reply, words):
    """A call beyond a share: 429 with Retry-After; nothing was done."""
    refused(reply, 429, "RATE_LIMITED")
    check(words in reply.json["error"], "the sentence does not say %r\n%s" % (words, reply))
    equal(reply.header("Retry-After"), "1", "Retry-After")


class Held:
    """Holds the lock that e2e.hold waits for, and lets calls of a tenant wait for it; a context manager."""

    def __init__(self, bench, responder, tenant, count):
        self.bench, self.responder, self.tenant, self.count = bench, responder, tenant, count
        self.replies = []

    def _call(self):
        self.replies.append(call(self.responder, self.tenant.key, "e2e.hold"))

    def __enter__(self):
        self.session = self.bench.db.session()
        self.session.execute("select pg_advisory_lock(4711);")
        self.threads = [threading.Thread(target=self._call) for _ in range(self.count)]
        for thread in self.threads:
            thread.start()
        return self

    def waiting(self):
        """Calls that hold a connection."""
        return self.bench.db.value("select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 "
                                   "and not granted")

    def release(self):
        self.session.execute("select pg_advisory_unlock(4711);")
        for thread in self.threads:
            thread.join()

    def __exit__(self, *_):
        self.session.__exit__()
        for thread in self.threads:
            thread.join()


# Calls ----------------------------------------------------------------------------------------------------------------

def test_calls_of_a_tenant(bench):
    """Contract 6: a tenant runs at most tenant_calls calls at a time, over all of its keys. A further one gets 429, has
    an audit row, and leaves nothing behind; another tenant is served."""
    tenant, other = bench.onboard(), bench.onboard()
    second, _ = bench.make_key(tenant, "manage.domain")
    with Upstream() as upstream, behind(bench, upstream, {"tenant_calls": "2"}, billable=False) as responder:
        upstream.wait = 1.5
        waiting = [threading.Thread(target=call, args=(responder, key, "e2e.http")) for key in (tenant.key, second)]
        for thread in waiting:
            thread.start()
        until(10, "both calls have reached the upstream", lambda: len(upstream.seen) == 2)
        reply = call(responder, second, "e2e.http", idempotency_key="fair")
        share_refused(reply, "2 calls of this tenant are running")
        bench.audit(reply, status="denied", error_code="RATE_LIMITED", action="e2e.http")
        upstream.wait = 0
        succeeded(call(responder, other.key, "e2e.http"))
        for thread in waiting:
            thread.join()
        succeeded(call(responder, second, "e2e.http", idempotency_key="fair"))
        equal(len(upstream.seen), 4, "calls that reached the upstream")


def test_upstream_shares(bench):
    """Contract 6: at most tenant_upstream_calls calls of a tenant, concurrency calls of an action (half of
    upstream_calls unless set) and upstream_calls calls in all wait for upstreams at a time."""
    cases = [({"tenant_upstream_calls": "3"}, {}, 3, "3 calls of this tenant are waiting for upstreams"),
             ({}, {"concurrency": 2}, 2, "2 calls of e2e.http are running"),
             ({"upstream_calls": "6"}, {}, 3, "3 calls of e2e.http are running"),
             ({"upstream_calls": "2"}, {"concurrency": 9}, 2, "all 2 places")]
    tenant = bench.onboard()
    for settings, handler, most, words in cases:
        with Upstream() as upstream, behind(bench, upstream, settings, handler, billable=False) as responder:
            upstream.wait = 1.5
            replies = parallel(most + 2, lambda _: call(responder, tenant.key, "e2e.http"))
            equal(sorted(reply.status for reply in replies), [200] * most + [429] * 2, "statuses with %s" % words)
            for reply in replies:
                if reply.status == 429:
                    share_refused(reply, words)
            equal(len(upstream.seen), most, "calls that reached the upstream")


def test_slow_upstream_keeps_no_thread(bench):
    """Contract 6: calls that wait for an upstream leave their threads to others: with two workers, a health check and
    another tenant's call are answered while eight calls wait."""
    tenant, other = bench.onboard(), bench.onboard()
    with Upstream() as upstream, behind(bench, upstream, {"workers": "2"}, {"timeout_ms": 20000},
                                        billable=False) as responder:
        upstream.wait = 3
        threads = [threading.Thread(target=call, args=(responder, tenant.key, "e2e.http")) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(10, "all calls have reached the upstream", lambda: len(upstream.seen) == 8)
        began = time.monotonic()
        equal(responder.ask("GET", "/healthz").status, 200, "/healthz")
        succeeded(call(responder, other.key, "meta.version"))
        check(all(thread.is_alive() for thread in threads), "the calls had ended before, %.1f s" %
              (time.monotonic() - began))
        for thread in threads:
            thread.join()


def test_health_while_all_wait(bench):
    """Contract 6: /healthz is answered while all workers and all connections are taken by calls that wait for a lock."""
    bench.db.execute(FUNCTIONS)
    tenant = bench.onboard()
    with Folder(hold=HOLD) as folder, Responder(bench.stack, actions_dir=folder.path, processes="1", workers="2",
                                                db_connections="3", tenant_db_connections="3",
                                                db_timeout="8000") as responder:
        with Held(bench, responder, tenant, 6) as held:
            until(10, "calls wait for the lock", lambda: held.waiting() >= 2)
            equal(responder.ask("GET", "/healthz").status, 200, "/healthz")
            check(all(thread.is_alive() for thread in held.threads), "the calls had ended before")
            held.release()


def test_large_bodies_of_strangers(bench):
    """Contract 6: of one address, at most 32 requests with more than 128 KiB wait for their turn to be read."""
    body = json.dumps({"action": SCORE, "params": {"a": "\u00e9" * 40000}}).encode()
    with Responder(bench.stack, processes="1", workers="32") as responder:
        waiting = [begin(responder.socket, "POST", "/api/manage", body, {"Content-Type": "application/json"})
                   for _ in range(100)]
        for connection in waiting:
            connection.sendall(record(STDIN))
        equal(responder.ask("GET", "/healthz").status, 200, "/healthz")
        replies = [parsed(read_reply(connection), "a large body") for connection in waiting]
        for connection in waiting:
            connection.close()
    refused_ones = [reply for reply in replies if reply.status == 429]
    check(len(refused_ones) >= 10, "%d of %d were refused" % (len(refused_ones), len(replies)))
    for reply in refused_ones:
        share_refused(reply, "32 requests of your address")
    equal({reply.code for reply in replies}, {"RATE_LIMITED", "INVALID_API_KEY"}, "codes")


# The database ---------------------------------------------------------------------------------------------------------

def test_connections_of_a_tenant(bench):
    """Contract 6: handlers of one tenant hold at most tenant_db_connections connections. Its further calls wait, then
    get 429; another tenant's calls, with and without SQL, go on, and PostgreSQL does not count as away."""
    bench.db.execute(FUNCTIONS)
    tenant, other = bench.onboard(), bench.onboard()
    with Folder(hold=HOLD) as folder, Responder(bench.stack, actions_dir=folder.path, processes="1", db_connections="4",
                                                tenant_db_connections="2", db_timeout="2500") as responder:
        with Held(bench, responder, tenant, 6) as held:
            until(10, "calls wait for the lock", lambda: held.waiting() == 2)
            for _ in range(5):
                succeeded(call(responder, other.key, "meta.version"))
                succeeded(call(responder, other.key, "domain.leadscoring.models.list"))
            equal(held.waiting(), 2, "connections that the calls of one tenant hold")
            until(10, "the others have waited long enough", lambda: len(held.replies) >= 4)
            held.release()
        for reply in held.replies:
            if reply.status == 429:
                share_refused(reply, "")
        # Two calls have the connections. They may give up before the others do, and then two of those have them.
        statuses = [reply.status for reply in held.replies]
        check(statuses.count(429) >= 2 and set(statuses) <= {200, 429, 503}, "statuses %s" % statuses)
        equal(bench.tenant_rows(tenant, "action = 'e2e.hold'"), 6, "audit rows of the calls")


def test_repeatable_calls_of_a_tenant(bench):
    """Contract 6: calls with an idempotency key that cannot be stored yet hold at most tenant_db_connections connections.
    Another tenant's calls that write go on."""
    tenant, other = bench.onboard(), bench.onboard()
    succeeded(bench.score(tenant.key))
    with Responder(bench.stack, processes="1", db_connections="4", tenant_db_connections="2",
                   db_timeout="2500") as responder:
        calls = [threading.Thread(target=call, args=(responder, tenant.key, SCORE, SCORE_PARAMS),
                                  kwargs={"idempotency_key": str(uuid.uuid4())}) for _ in range(6)]
        with bench.db.session() as session:
            session.execute("begin; select from acp.usage_quota where tenant_id = '%s' for update;" % tenant.id)
            for thread in calls:
                thread.start()
            until(10, "calls wait for their tenant", lambda: bench.db.value(WAITING) == 2)
            for _ in range(5):
                succeeded(call(responder, other.key, CREATE, {"name": "m", "model_type": "ml"}))
            equal(bench.db.value(WAITING), 2, "connections that the calls of one tenant hold")
        for thread in calls:
            thread.join()


def test_full_pool_is_not_an_absent_server(bench):
    """Contract 6: when every connection is busy, a call waits for one; the server does not count as away, so the next
    call is not refused at once."""
    bench.db.execute(FUNCTIONS)
    tenant, other = bench.onboard(), bench.onboard()
    with Folder(hold=HOLD) as folder, Responder(bench.stack, actions_dir=folder.path, processes="1", db_connections="2",
                                                tenant_db_connections="2", db_timeout="1000") as responder:
        with Held(bench, responder, tenant, 2) as held:
            until(10, "both connections are taken", lambda: held.waiting() >= 1)
            parallel(4, lambda _: call(responder, other.key, "meta.version"))
            held.release()
        for _ in range(10):
            succeeded(call(responder, other.key, "meta.version"))
        check("was away a moment ago" not in responder.read_log(), "the server counted as away")


# Refusals and reads ---------------------------------------------------------------------------------------------------

def test_refused_calls_have_a_limit(bench):
    """Contract 6: calls that a rule refuses do not count against the rate limit, but a tenant whose calls are refused
    more often than rate_limit a minute gets 429, whatever refuses them."""
    tenant, other = bench.onboard(), bench.onboard()
    with Responder(bench.stack, rate_limit="20") as responder:
        bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "0")
        statuses = [call(responder, tenant.key, SCORE, SCORE_PARAMS).status for _ in range(30)]
        equal(statuses, [402] * 20 + [429] * 10, "statuses")
        reply = call(responder, tenant.key, "meta.version")
        refused(reply, 429, "RATE_LIMITED")
        check(int(reply.header("Retry-After")) > 1, "no useful Retry-After")
        succeeded(call(responder, other.key, "meta.version"))


def test_reads_have_a_limit(bench):
    """Contract 6: GET /api/usage and GET /api/billing/invoice share a limit per tenant (rate_limit_reads)."""
    tenant, other = bench.onboard(), bench.onboard()
    with Responder(bench.stack, rate_limit_reads="4") as responder:
        paths = ["/api/usage", "/api/billing/invoice"] * 3
        replies = [responder.ask("GET", path, headers={"X-API-Key": tenant.key}) for path in paths]
        equal([reply.status for reply in replies], [200] * 4 + [429] * 2, "statuses")
        refused(replies[-1], 429, "RATE_LIMITED")
        check(int(replies[-1].header("Retry-After")) > 1, "no useful Retry-After")
        equal(responder.ask("GET", "/api/usage", headers={"X-API-Key": other.key}).status, 200, "another tenant")


# Strangers ------------------------------------------------------------------------------------------------------------

def test_slow_payments_keep_no_thread(bench):
    """Contract 6: while Stripe is slow, onboardings wait for it without keeping threads from others."""
    tenant = bench.onboard()
    with StandIn() as stripe, Responder(bench.stack, workers="2", **stripe.settings()) as responder:
        stripe.control(slow={"path": "/v1/customers", "seconds": 3, "times": -1})

        def onboard():
            body = json.dumps({"agent_id": "fair-%s" % uuid.uuid4(), "email": "fair@example.com"}).encode()
            reply = succeeded(responder.ask("POST", ONBOARD, body, {"Content-Type": "application/json"}), 201)
            bench.keys.add(reply.json["api_key"])

        def served_while_they_wait():
            """False: this machine was too slow to see it this time."""
            before = len(stripe.requests("POST"))
            threads = [threading.Thread(target=onboard) for _ in range(6)]
            for thread in threads:
                thread.start()
            until(20, "an onboarding asks Stripe", lambda: len(stripe.requests("POST")) > before + 1)
            succeeded(call(responder, tenant.key, "meta.version"))
            equal(responder.ask("GET", "/healthz").status, 200, "/healthz")
            seen = all(thread.is_alive() for thread in threads)
            for thread in threads:
                thread.join()
            return seen

        until(60, "a call is served while onboardings wait", served_while_they_wait)


def memory_of(responder):
    """Bytes of memory of its processes."""
    pages = 0
    for pid in [responder.process.pid, *children(responder.process.pid)]:
        with open("/proc/%d/statm" % pid, encoding="ascii") as file:
            pages += int(file.read().split()[1])
    return pages * 4096


@pytest.mark.slow
def test_memory_of_large_replies(bench):
    """Contract 6: memory of large replies is given back."""
    tenant = bench.onboard()
    with Upstream() as upstream, behind(bench, upstream, None, {"max_reply_bytes": 16777216, "timeout_ms": 30000},
                                        billable=False) as responder:
        succeeded(call(responder, tenant.key, "e2e.http"))
        before = memory_of(responder)
        upstream.body = json.dumps({"data": "x" * LARGE}).encode()
        for _ in range(2):
            for reply in parallel(8, lambda _: call(responder, tenant.key, "e2e.http")):
                equal(reply.status, 200, "status")
        until(10, "the memory is given back", lambda: memory_of(responder) - before < 16 << 20)


def test_tenants_with_one_address(bench):
    """Contract 6: with onboard_per_email, so many free tenants may have one e-mail address, in any case and at any
    concurrency. Repeating an onboarding, and other addresses, are not affected."""
    address = "a-%s@example.com" % uuid.uuid4()

    def onboard(responder, email, key):
        body = json.dumps({"agent_id": key, "email": email}).encode()
        return responder.ask("POST", ONBOARD, body, {"Content-Type": "application/json", "Idempotency-Key": key})

    with Responder(bench.stack, onboard_per_email="2") as responder:
        keys = ["fair-%s" % uuid.uuid4() for _ in range(9)]
        replies = parallel(8, lambda n: onboard(responder, address[:n].upper() + address[n:], keys[n]))
        created = [n for n, reply in enumerate(replies) if reply.status == 201]
        bench.keys.update(replies[n].json["api_key"] for n in created)
        equal(len(created), 2, "tenants with one address")
        n = created[0]
        again = succeeded(onboard(responder, address[:n].upper() + address[n:], keys[n]), 201)
        equal(again.json["api_key"], replies[n].json["api_key"], "the key of the repeated onboarding")
        reply = onboard(responder, address, keys[8])
        refused(reply, 403, "CEILING_EXCEEDED")
        bench.audit(reply, status="denied", error_code="CEILING_EXCEEDED")
        bench.keys.add(succeeded(onboard(responder, "other-" + address, keys[8]), 201).json["api_key"])
