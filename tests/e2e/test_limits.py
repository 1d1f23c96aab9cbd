"""Rate limits, ceilings, client addresses: contract 2 (429, CEILING_EXCEEDED) and 3 (order)."""

import json
import re
import secrets
import time
import uuid

from client import SCORE, SCORE_PARAMS, refused, succeeded
from fcgi import Responder
from checks import check, equal, parallel, spread
from test_usage import quota_rows

KEYS_CREATE = "iam.keys.create"
NEW_KEY = {"name": "k", "scopes": ["manage.read"]}
CREATES = 20  # calls of iam.keys.create and of iam.keys.revoke, per key and minute
CEILING = 25  # keys per tenant
POLICY = re.compile(r'^"[a-z-]+";q=(\d+);w=60$')
STATE = re.compile(r'^"[a-z-]+";r=(\d+);t=(\d+)$')


def create(bench, key, **members):
    return bench.call(key, KEYS_CREATE, NEW_KEY, **members)


def rate(reply):
    """(quota, remaining, seconds) of the RateLimit fields, which must have the syntax of the draft."""
    fields = [reply.headers.get_all(name) or [] for name in ("RateLimit-Policy", "RateLimit")]
    equal([len(field) for field in fields], [1, 1], "RateLimit-Policy and RateLimit")
    policy, state = POLICY.match(fields[0][0]), STATE.match(fields[1][0])
    check(policy and state, "syntax of the RateLimit fields\n%s" % reply)
    return int(policy.group(1)), int(state.group(1)), int(state.group(2))


def limited(reply, quota):
    """Checks a refusal by the rate limit, and all fields that tell the client when to retry."""
    refused(reply, 429, "RATE_LIMITED")
    seconds = int(reply.header("Retry-After"))
    check(1 <= seconds <= 61, "Retry-After\n%s" % reply)
    equal(rate(reply), (quota, 0, seconds), "quota, remaining, seconds")
    return seconds


def live_keys(bench, tenant):
    return bench.db.value("select acp.live_count(:'id', 'keys')", id=tenant.id)


def test_fields(bench):
    """Contract 2: replies have RateLimit-Policy and RateLimit (draft 10). Each call leaves one less; the default is
    1000/min."""
    tenant = bench.onboard()
    for left in (999, 998, 997):
        reply = succeeded(bench.score(tenant.key))
        equal(rate(reply)[:2], (1000, left), "quota and remaining")
        check(reply.header("Retry-After") is None, "Retry-After\n%s" % reply)
    equal(rate(succeeded(create(bench, tenant.key)))[:2], (CREATES, CREATES - 1), "of another action")


def test_exact_over_processes(bench):
    """The limit is exact over all processes of one host: of 60 calls by 8 threads 20 pass; the others are
    denied."""
    tenant = bench.onboard()
    replies = spread(8, range(60), lambda _: create(bench, tenant.key))
    passed = [reply for reply in replies if reply.status == 200]
    denied = [reply for reply in replies if reply.status != 200]
    equal(len(passed), CREATES, "calls that passed")
    for reply in denied:
        limited(reply, CREATES)
    equal(sorted(rate(reply)[1] for reply in passed), list(range(CREATES)), "remaining")
    bench.audit_each(passed, status="success")
    bench.audit_each(denied, status="denied", error_code="RATE_LIMITED", billable=False, action=KEYS_CREATE,
                     tenant_id=tenant.id)
    equal(live_keys(bench, tenant), CREATES + 1, "keys")


def test_others_are_unaffected(bench):
    """Limits are per key and action. Another action, another key of the tenant and another tenant are not
    affected."""
    tenant = bench.onboard()
    other, _ = bench.make_key(tenant, "manage.read manage.iam")
    replies = spread(8, range(CREATES + 1), lambda _: create(bench, tenant.key, dry_run=True))
    equal(sorted(reply.status for reply in replies), [200] * CREATES + [429], "statuses")
    limited(create(bench, tenant.key), CREATES)
    succeeded(bench.call(tenant.key, "iam.keys.list"))
    succeeded(create(bench, other))
    succeeded(create(bench, bench.onboard().key))


def test_revoke(bench):
    """Iam.keys.revoke is limited to 20 a minute."""
    tenant = bench.onboard()
    victim = succeeded(create(bench, tenant.key)).data["api_key_id"]
    revoke = lambda _=None: bench.call(tenant.key, "iam.keys.revoke", {"api_key_id": victim})
    equal(sorted(reply.status for reply in spread(8, range(25), revoke)), [200] * 20 + [429] * 5, "statuses")
    limited(revoke(), 20)


def test_override(bench):
    """A key's own rate_limit replaces the default at once. A refused call uses no allowance and is not
    billed."""
    tenant = bench.onboard()
    key_id = bench.audit(bench.call(tenant.key, "iam.keys.list"))["api_key_id"]
    succeeded(bench.call(tenant.key, "iam.keys.update", {"api_key_id": key_id, "rate_limit": 3}))
    replies = spread(8, range(12), lambda _: bench.score(tenant.key))
    equal(sorted(reply.status for reply in replies), [200] * 3 + [429] * 9, "statuses")
    for reply in replies:
        if reply.status == 429:
            limited(reply, 3)
    equal(bench.usage(tenant.key)["calls_used"], 3, "calls_used")
    equal(quota_rows(bench, tenant), [{"used": 3, "reserved": 0}], "quota")
    equal(bench.tenant_rows(tenant, "billable"), 3, "billable rows")
    reply = bench.call(tenant.key, SCORE, SCORE_PARAMS, idempotency_key=str(uuid.uuid4()))
    limited(reply, 3)
    equal(bench.db.value("select count(*) from acp.idempotency where tenant_id = :'id' and state = 'running'",
                         id=tenant.id), 0, "claims")
    equal([create(bench, tenant.key, dry_run=True).status for _ in range(4)], [200] * 3 + [429], "iam.keys.create")
    succeeded(bench.call(tenant.key, "iam.keys.update", {"api_key_id": key_id, "rate_limit": 1000}))
    equal(rate(succeeded(bench.score(tenant.key)))[:2], (1000, 996), "quota and remaining afterwards")


def test_a_key_made_with_a_limit(bench):
    """Iam.keys.create accepts rate_limit, which applies only to the new key."""
    tenant = bench.onboard()
    params = {"name": "k", "scopes": ["manage.domain"], "rate_limit": 2}
    made = succeeded(bench.call(tenant.key, KEYS_CREATE, params)).data
    bench.keys.add(made["api_key"])
    equal([bench.score(made["api_key"]).status for _ in range(3)], [200, 200, 429], "statuses")
    succeeded(bench.score(tenant.key))


def test_what_is_counted(bench):
    """Design: a call that a later rule denies, or that never reached the stage, does not count against the rate."""
    tenant = bench.onboard()
    key_id = bench.audit(bench.call(tenant.key, "iam.keys.list"))["api_key_id"]
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "0")
    succeeded(bench.call(tenant.key, "iam.keys.update", {"api_key_id": key_id, "rate_limit": 2}))
    for _ in range(5):
        refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
    for _ in range(2):
        refused(bench.call(tenant.key, SCORE, {}), 400, "VALIDATION_ERROR")
    limited(bench.score(tenant.key), 2)


def test_retry_after(bench):
    """Contract 2: Retry-After says when the next call is possible again. tests/unit/shm/test_ratelimit.c tests that it
    then is, and that the window slides; here that would take a minute."""
    tenant = bench.onboard()
    key, _ = bench.make_key(tenant, "manage.domain")
    bench.db.execute("update acp.api_keys set rate_limit = 2 where tenant_id = :'id'", id=tenant.id)
    succeeded(bench.score(key))
    time.sleep(2)
    succeeded(bench.score(key))
    seconds = limited(bench.score(key), 2)
    check(57 <= seconds <= 60, "Retry-After %d, 2 s after the first of two calls" % seconds)


# Ceilings -------------------------------------------------------------------------------------------------------------

def test_ceiling_of_keys(bench):
    """A tenant has at most 25 live keys, exact with 8 concurrent creators. CEILING_EXCEEDED is 403, audited as
    denied."""
    tenant = bench.onboard()
    makers = [tenant.key] + [bench.make_key(tenant, "manage.iam manage.read")[0] for _ in range(2)]
    replies = spread(8, range(42), lambda number: create(bench, makers[number % 3]))
    passed = [reply for reply in replies if reply.status == 200]
    equal(len(passed), CEILING - 3, "keys that were created")
    denied = [refused(reply, 403, "CEILING_EXCEEDED") for reply in replies if reply.status != 200]
    bench.audit_each(denied, status="denied", error_code="CEILING_EXCEEDED", billable=False)
    equal(live_keys(bench, tenant), CEILING, "keys")
    fresh = makers[1]
    refused(create(bench, fresh, dry_run=True), 403, "CEILING_EXCEEDED")
    rotated = bench.call(fresh, "iam.keys.rotate", {"api_key_id": passed[0].data["api_key_id"]})
    refused(rotated, 403, "CEILING_EXCEEDED")
    equal(live_keys(bench, tenant), CEILING, "keys after the refusals")
    succeeded(bench.call(fresh, "iam.keys.revoke", {"api_key_id": passed[0].data["api_key_id"]}))
    succeeded(create(bench, fresh, dry_run=True))
    equal(sorted(reply.status for reply in parallel(8, lambda n: create(bench, makers[n % 3]))), [200] + [403] * 7,
          "statuses when one place is free")
    equal(live_keys(bench, bench.onboard()), 1, "another tenant's keys")


def test_ceiling_of_webhooks(bench):
    """A tenant has at most 20 webhooks, exact with 8 concurrent creators, also for dry runs. Deleting one makes
    room for one."""
    tenant = bench.onboard()
    params = {"url": "https://example.com/hook", "events": ["key.created"]}
    make = lambda _=None, **members: bench.call(tenant.key, "webhooks.create", params, **members)
    replies = spread(8, range(28), make)
    equal(sorted(reply.status for reply in replies), [200] * 20 + [403] * 8, "statuses")
    refused(make(dry_run=True), 403, "CEILING_EXCEEDED")
    hook = next(reply.data["webhook_id"] for reply in replies if reply.status == 200)
    succeeded(bench.call(tenant.key, "webhooks.delete", {"webhook_id": hook}))
    succeeded(make())
    refused(make(), 403, "CEILING_EXCEEDED")
    bench.db.execute("delete from acp.webhooks where tenant_id = :'id'", id=tenant.id)


# Client addresses -----------------------------------------------------------------------------------------------------

def address(bench, reply):
    return bench.audit(reply)["ip_address"]


def test_forwarded_for_is_not_believed(bench):
    """The client address is REMOTE_ADDR. X-Forwarded-For is used only from configured proxies, by default
    none."""
    tenant = bench.onboard()
    for forged in ("203.0.113.9", "203.0.113.9, 127.0.0.1", "::1", "'; drop table x"):
        reply = bench.call(tenant.key, "meta.version", headers={"X-Forwarded-For": forged})
        equal(address(bench, succeeded(reply)), "127.0.0.1", "ip_address with %s" % forged)


def ask(responder, key, forwarded):
    headers = {"Content-Type": "application/json", "X-API-Key": key, "X-Forwarded-For": forwarded}
    return succeeded(responder.ask("POST", "/api/manage", b'{"action":"meta.version"}', headers))


def test_forwarded_for_of_a_proxy(bench):
    """From a configured proxy, the last address that is not a proxy's is used, whatever the client put before
    it."""
    bench.need_own_stack("starts a responder")
    tenant = bench.onboard()
    cases = {"203.0.113.9": "203.0.113.9", "198.51.100.1, 203.0.113.9": "203.0.113.9",
             "198.51.100.1, 203.0.113.9, 10.1.2.3": "203.0.113.9", "2001:db8::5": "2001:db8::5"}
    with Responder(bench.stack, trusted_proxies="127.0.0.1 10.0.0.0/8") as responder:
        for forwarded, wanted in cases.items():
            equal(address(bench, ask(responder, tenant.key, forwarded)), wanted, "ip_address with " + forwarded)
    with Responder(bench.stack, trusted_proxies="192.0.2.1") as responder:
        equal(address(bench, ask(responder, tenant.key, "203.0.113.9")), "127.0.0.1", "ip_address, from no proxy")


def onboard(responder, client):
    body = json.dumps({"agent_id": "e2e-%s" % uuid.uuid4(), "email": "a@example.com"}).encode()
    return responder.ask("POST", "/api/onboard/leadscoring", body,
                         {"Content-Type": "application/json", "X-Forwarded-For": client})


def test_onboarding_limits(bench):
    """Contract 2.1: onboarding is limited per address and in total. Beyond that: 429 with Retry-After, no
    tenant."""
    bench.need_own_stack("starts a responder")
    tenants = lambda: bench.db.value("select count(*) from acp.tenants")
    settings = {"trusted_proxies": "127.0.0.1", "onboard_per_ip": "3", "onboard_total": "5", "key_pepper_file": None,
                "key_pepper": secrets.token_hex(32)}
    with Responder(bench.stack, **settings) as responder:
        before = tenants()
        replies = parallel(8, lambda _: onboard(responder, "203.0.113.1"))
        equal(sorted(reply.status for reply in replies), [201] * 3 + [429] * 5, "from one address")
        denied = next(reply for reply in replies if reply.status == 429)
        check(0 < int(refused(denied, 429, "RATE_LIMITED").header("Retry-After")) <= 3660, "Retry-After\n%s" % denied)
        bench.audit(denied, status="denied", error_code="RATE_LIMITED", ip_address="203.0.113.1")
        equal([onboard(responder, "203.0.113.2").status for _ in range(3)], [201, 201, 429], "from another, up to the total")
        refused(onboard(responder, "203.0.113.3"), 429, "RATE_LIMITED")
        equal(tenants() - before, 5, "tenants")
