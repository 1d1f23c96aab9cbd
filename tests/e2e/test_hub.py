"""Repo B over HTTP: contract 2.2 (other kernels), 1 (three credentials, never interchangeable)."""

import json
import uuid

from client import NIL, refused, succeeded
from fcgi import Responder, ask
from checks import check, equal, parallel
from hub import BASE, Hub, authorization, event

ENDPOINTS = ["tenants/create", "tenants/update", "usage", "usage/reserve", "usage/settle", "usage/prices", "audit-ingest", "audit-query",
             "authorize", "heartbeat", "policy-propose", "revoke"]


def now(bench):
    return bench.db.value("select to_char(acp.now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")


def make_tenant(bench, hub):
    body = {"agent_id": bench.agent_id(), "email": "kernel@example.com"}
    return succeeded(hub.post("tenants/create", body)).json["tenant_uuid"]


def quota(bench, tenant):
    rows = bench.db.rows("select used, reserved from acp.usage_quota where tenant_id = :'id'", id=tenant)
    return (rows[0]["used"], rows[0]["reserved"]) if rows else (0, 0)


def reserve(hub, tenant, event_id, ts):
    return succeeded(hub.post("usage/reserve", {"tenant_id": tenant, "event_id": event_id, "ts": ts})).json


def settle(hub, tenant, event_id, ts, outcome="success", **more):
    return hub.post("usage/settle", {"tenant_id": tenant, "event_id": event_id, "ts": ts, "outcome": outcome, **more})


# Access --------------------------------------------------------------------------------------------------------------

def test_only_the_kernel_key(bench):
    """Contract 1: the hub refuses a request with no key, a wrong key, a tenant's key, or its own key in X-API-Key."""
    hub = Hub(bench)
    tenant = bench.onboard()
    tries = [(), [("Authorization", "Bearer " + hub.key[:-1])], [("Authorization", "Bearer " + hub.key + "x")],
             [("Authorization", "Bearer " + tenant.key)], [("X-API-Key", hub.key)], [("X-API-Key", tenant.key)],
             [("Authorization", "Bearer " + hub.key), ("X-API-Key", tenant.key)],
             [("Authorization", "Basic " + hub.key)], [("Authorization", "Bearer")]]
    for name in ENDPOINTS + ["nothing"]:
        texts = {refused(bench.send("POST", BASE + name, {}, headers), 401, "INVALID_API_KEY").json["error"]
                 for headers in tries}
        equal(len(texts), 1, "texts of the refusals")


def test_the_kernel_key_opens_nothing_else(bench):
    """Contract 1: the kernel key is not accepted as an API key."""
    hub = Hub(bench)
    before = bench.audit_count()
    for headers in ([("Authorization", "Bearer " + hub.key)], [("X-API-Key", hub.key)]):
        refused(bench.send("POST", "/api/manage", {"action": "meta.version"}, headers), 401, "INVALID_API_KEY")
        refused(bench.send("GET", "/api/usage", headers=headers), 401, "INVALID_API_KEY")
    equal(bench.audit_count(), before + 2, "rows of unknown callers")


def test_off_without_a_key(bench):
    """Contract 2.2: without kernel_key there is no hub: the reply is 404 for any credential."""
    hub = Hub(bench)
    with Responder(bench.stack) as responder:
        for name in ENDPOINTS:
            reply = responder.ask("POST", BASE + name, b"{}", {"Content-Type": "application/json",
                                                              "Authorization": "Bearer " + hub.key})
            refused(reply, 404, "NOT_FOUND")


def test_short_or_similar_key_stops_the_program(bench):
    """Contract 1: a kernel key that could be guessed, or looks like an API key, is refused at startup."""
    for value in ("short", "x" * 31, "ock_" + "x" * 40):
        done = bench.stack.program("acp.fcgi", "--check-config", environment={"ACP_KERNEL_KEY": value})
        equal(done.returncode, 78, "exit status for %r" % value)
        check("kernel_key" in done.stderr and value not in done.stderr, "message: %s" % done.stderr)


def test_paths_and_methods(bench):
    """Contract 2: unknown paths get NOT_FOUND, other methods METHOD_NOT_ALLOWED with Allow, other media types 415."""
    hub = Hub(bench)
    refused(hub.post("nothing", {}), 404, "NOT_FOUND")
    refused(hub.post("usage/", {}), 404, "NOT_FOUND")
    for name in ENDPOINTS:
        readable = name in ("usage", "audit-query")
        headers = [("Authorization", "Bearer " + hub.key)]
        reply = refused(bench.send("DELETE", BASE + name, headers=headers), 405, "METHOD_NOT_ALLOWED")
        equal(reply.header("Allow"), "GET, HEAD, POST" if readable else "POST", "Allow of " + name)
        if not readable:
            refused(bench.send("GET", BASE + name, headers=headers), 405, "METHOD_NOT_ALLOWED")
        refused(bench.send("POST", BASE + name, "{}", headers, content_type="text/plain"), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_strict_bodies(bench):
    """Contract 2: duplicate names, invalid UTF-8, trailing bytes and unknown members are refused without any effect."""
    hub = Hub(bench)
    before = bench.db.fingerprints(["acp.audit_logs"])
    for body in ('{"agent_id":"a","agent_id":"b","email":"a@example.com"}', b'{"agent_id":"\xff"}', "{} {}", "", "[]", "null"):
        refused(hub.post("tenants/create", body), 400, "VALIDATION_ERROR")
    body = {"agent_id": bench.agent_id(), "email": "a@example.com"}
    refused(hub.post("tenants/create", {**body, "teir": "paid"}), 400, "VALIDATION_ERROR", "/teir")
    refused(hub.post("tenants/create", {**body, "email": "a"}), 400, "VALIDATION_ERROR", "/email")
    refused(hub.post("tenants/create", {**body, "agent_id": "a b"}), 400, "VALIDATION_ERROR", "/agent_id")
    refused(hub.post("tenants/create", {**body, "product": "other"}), 400, "VALIDATION_ERROR", "/product")
    equal(bench.db.fingerprints(["acp.audit_logs"]), before, "the tables")


# Tenants -------------------------------------------------------------------------------------------------------------

def test_create(bench):
    """Contract 2.2: tenants/create creates a free tenant without a key. The same agent_id again gets only the code."""
    hub = Hub(bench)
    body = {"agent_id": bench.agent_id(), "email": "kernel@example.com", "organization_name": "Kernel Ltd"}
    reply = succeeded(hub.post("tenants/create", body))
    equal(set(reply.json), {"ok", "request_id", "tenant_uuid", "tier", "created_at"}, "members")
    row = bench.db.row("select * from acp.tenants where agent_id = :'id'", id=body["agent_id"])
    equal((row["tenant_id"], row["tier"], row["organization_name"]), (reply.json["tenant_uuid"], "free", "Kernel Ltd"), "row")
    again = refused(hub.post("tenants/create", body), 409, "ALREADY_ONBOARDED")
    equal(set(again.json), {"ok", "request_id", "error", "code"}, "members of the refusal")
    equal(bench.db.value("select count(*) from acp.api_keys where tenant_id = :'id'", id=row["tenant_id"]), 0, "keys")
    bench.audit(reply, tenant_id=NIL, actor_type="system", action="hub.tenants.create", status="success", billable=False,
                result_meta={"tenant_id": row["tenant_id"]})
    bench.audit(again, tenant_id=NIL, actor_type="system", status="error", error_code="ALREADY_ONBOARDED")
    equal(bench.db.value("select count(*) from acp.audit_logs where tenant_id = :'id'", id=row["tenant_id"]), 0, "own rows")


def test_create_is_idempotent_with_a_key(bench):
    """Contract 3: the same Idempotency-Key and body return the same tenant; another body is a mismatch."""
    hub = Hub(bench)
    body = {"agent_id": bench.agent_id(), "email": "kernel@example.com"}
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    replies = parallel(8, lambda _: hub.post("tenants/create", body, headers))
    equal({(r.status, r.json["tenant_uuid"], r.json["created_at"]) for r in replies}.__len__(), 1, "different replies")
    refused(hub.post("tenants/create", {**body, "email": "other@example.com"}, headers), 422, "IDEMPOTENCY_MISMATCH")
    equal(bench.db.value("select count(*) from acp.tenants where agent_id = :'id'", id=body["agent_id"]), 1, "tenants")


def test_update(bench):
    """Contract 2.2: tenants/update sets only the given members, at once for every process."""
    hub = Hub(bench)
    tenant = bench.onboard()
    reply = succeeded(hub.post("tenants/update", {"tenant_id": tenant.id, "tier": "paid", "payment_method_status": "active",
                                                  "stripe_customer_id": "cus_e2e"}))
    equal((reply.json["tier"], reply.json["payment_method_status"], reply.json["stripe_customer_id"]),
          ("paid", "active", "cus_e2e"), "reply")
    bench.audit(succeeded(bench.score(tenant.key)), tier="paid")
    bench.audit(reply, tenant_id=NIL, action="hub.tenants.update", result_meta={
        "tenant_id": tenant.id, "changed": ["payment_method_status", "stripe_customer_id", "tier"]})
    succeeded(hub.post("tenants/update", {"tenant_id": tenant.id, "status": "suspended"}))
    refused(bench.score(tenant.key), 401, "INVALID_API_KEY")
    row = bench.db.row("select tier, stripe_customer_id from acp.tenants where tenant_id = :'id'", id=tenant.id)
    equal((row["tier"], row["stripe_customer_id"]), ("paid", "cus_e2e"), "members that were not given")
    refused(hub.post("tenants/update", {"tenant_id": tenant.id}), 400, "VALIDATION_ERROR")
    refused(hub.post("tenants/update", {"tenant_id": tenant.id, "tier": "gold"}), 400, "VALIDATION_ERROR", "/tier")
    refused(hub.post("tenants/update", {"tenant_id": str(uuid.uuid4()), "tier": "free"}), 404, "NOT_FOUND")


def test_revoke(bench):
    """Contract 2.2: revoke ends one key or all keys of a tenant; each call has its audit row. A repeated request answers
    what the first one did."""
    hub = Hub(bench)
    tenant = bench.onboard()
    key, key_id = bench.make_key(tenant, "manage.read")
    succeeded(bench.call(key, "meta.version"))
    equal(succeeded(hub.post("revoke", {"api_key_id": key_id})).json["revoked"], [key_id], "revoked")
    refused(bench.call(key, "meta.version"), 401, "INVALID_API_KEY")
    succeeded(bench.call(tenant.key, "meta.version"))
    again = succeeded(hub.post("revoke", {"api_key_id": key_id}))
    equal(again.json["revoked"], [key_id], "revoked again")
    bench.audit(again, action="hub.revoke",
                result_meta={"tenant_id": tenant.id, "resource_type": "api_key", "count": 0})
    reply = succeeded(hub.post("revoke", {"tenant_id": tenant.id}))
    equal(succeeded(hub.post("revoke", {"tenant_id": tenant.id})).json["revoked"], reply.json["revoked"],
          "revoked of the tenant again")
    equal(len(reply.json["revoked"]), 1, "revoked of the tenant")
    refused(bench.call(tenant.key, "meta.version"), 401, "INVALID_API_KEY")
    bench.audit(reply, action="hub.revoke", tenant_id=NIL,
                result_meta={"tenant_id": tenant.id, "resource_type": "api_key", "count": 1})
    for body in ({}, {"tenant_id": tenant.id, "api_key_id": key_id}):
        refused(hub.post("revoke", body), 400, "VALIDATION_ERROR")
    refused(hub.post("revoke", {"api_key_id": str(uuid.uuid4())}), 404, "NOT_FOUND")
    refused(hub.post("revoke", {"tenant_id": str(uuid.uuid4())}), 404, "NOT_FOUND")


def test_changes_with_a_key(bench):
    """Contract 2.2: a change that is repeated with its Idempotency-Key is made once, answers the same, and has its audit
    row. Another body is a mismatch; another key is another change."""
    hub = Hub(bench)
    tenant = bench.onboard()
    propose = {"tenant_id": tenant.id, "policy": {"name": "n", "decision": "deny", "action": "a.*"}}
    changes = {"policy-propose": propose, "tenants/update": {"tenant_id": tenant.id, "tier": "paid"},
               "revoke": {"tenant_id": tenant.id}}
    for name, body in changes.items():
        header = {"Idempotency-Key": str(uuid.uuid4())}
        first, second = (succeeded(hub.post(name, body, header)) for _ in range(2))
        equal({**second.json, "request_id": None}, {**first.json, "request_id": None}, "%s again" % name)
        equal(bench.audit(second)["result_meta"].get("replay"), True, "%s: replay" % name)
        refused(hub.post(name, {**body, "tenant_id": bench.onboard().id}, header), 422, "IDEMPOTENCY_MISMATCH")
        refused(hub.post(name, body, {"Idempotency-Key": "x" * 256}), 400, "VALIDATION_ERROR", "/idempotency_key")
    count = lambda: bench.db.value("select count(*) from acp.policy_proposals where tenant_id = :'id'", id=tenant.id)
    equal(count(), 1, "proposals")
    for _ in range(2):
        succeeded(hub.post("policy-propose", propose, {"Idempotency-Key": str(uuid.uuid4())}))
    equal(count(), 3, "proposals with other keys")


# Usage ---------------------------------------------------------------------------------------------------------------

def test_usage(bench):
    """Contract 2.2: usage by GET or POST returns the same object that the tenant itself reads."""
    hub = Hub(bench)
    tenant = bench.onboard()
    succeeded(bench.score(tenant.key))
    own = bench.usage(tenant.key)
    month = own["period_start"][:7]
    following = own["period_end"][:10]
    asked = [hub.post("usage", {"tenant_id": tenant.id}), hub.get("usage?tenant_id=" + tenant.id),
             hub.get("usage?tenant_id=%s&period=%s" % (tenant.id, month)),
             hub.get("usage?tenant_id=%s&period_start=%s-01&period_end=%s" % (tenant.id, month, following)),
             hub.post("usage", {"tenant_id": tenant.id, "period_start": own["period_start"], "period_end": own["period_end"]})]
    for reply in asked:
        got = dict(succeeded(reply).json)
        del got["request_id"]
        equal(got, {name: value for name, value in own.items() if name not in ("request_id", "scopes")}, "usage")
    equal(succeeded(hub.get("usage?tenant_id=%s&period=2020-01" % tenant.id)).json["calls_used"], 0, "another month")
    refused(hub.get("usage"), 400, "VALIDATION_ERROR", "/tenant_id")
    refused(hub.get("usage?tenant_id=%s&tenant_id=%s" % (tenant.id, tenant.id)), 400, "VALIDATION_ERROR", "/tenant_id")
    refused(hub.get("usage?tenant_id=%s&period=2026-13" % tenant.id), 400, "VALIDATION_ERROR", "/period")
    refused(hub.get("usage?tenant_id=%s&period_start=%s-02" % (tenant.id, month)), 400, "VALIDATION_ERROR", "/period_start")
    refused(hub.get("usage?tenant_id=%s&period_start=%s-01&period_end=%s-15" % (tenant.id, month, month)), 400,
            "VALIDATION_ERROR", "/period_end")
    refused(hub.get("usage?tenant_id=" + str(uuid.uuid4())), 404, "NOT_FOUND")


def test_reserve_is_exact(bench):
    """Contract 3: the reserved places never exceed the allowance, however many kernels reserve at once."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    ts = now(bench)
    bench.db.execute("update acp.tenants set calls_limit = 5 where tenant_id = :'id'", id=tenant)
    ids = [str(uuid.uuid4()) for _ in range(16)]
    places = parallel(16, lambda n: reserve(hub, tenant, ids[n], ts))
    equal(sum(place["allowed"] for place in places), 5, "places")
    equal(quota(bench, tenant), (0, 5), "used, reserved")
    held = [ids[n] for n in range(16) if places[n]["allowed"]]
    equal(reserve(hub, tenant, held[0], ts)["allowed"], True, "reserved again")
    equal(quota(bench, tenant), (0, 5), "used, reserved after reserving again")
    succeeded(settle(hub, tenant, held[0], ts, "failure"))
    equal(quota(bench, tenant), (0, 4), "after a failure")
    for event_id in held[1:]:
        succeeded(settle(hub, tenant, event_id, ts))
    equal(quota(bench, tenant), (4, 0), "after four successes")
    equal(succeeded(settle(hub, tenant, held[1], ts)).json["calls_used"], 4, "the same success again")
    fifth = str(uuid.uuid4())
    equal(reserve(hub, tenant, fifth, ts)["allowed"], True, "the fifth place")
    refused(settle(hub, tenant, str(uuid.uuid4()), ts), 402, "UPGRADE_REQUIRED")
    succeeded(settle(hub, tenant, held[1], ts, "failure"))
    equal(quota(bench, tenant), (3, 1), "after a success that its kernel could not commit")
    succeeded(settle(hub, tenant, fifth, ts, "failure"))
    succeeded(hub.post("audit-ingest", [{**event(tenant, ts), "event_id": each} for each in held[2:]]), 202)
    equal(quota(bench, tenant), (3, 0), "after the rows")


def test_reserve_paid_and_unknown(bench):
    """Contract 3: a paid tenant needs no place; an unknown tenant gets none."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    succeeded(hub.post("tenants/update", {"tenant_id": tenant, "tier": "paid", "payment_method_status": "active"}))
    place = reserve(hub, tenant, str(uuid.uuid4()), now(bench))
    equal((place["allowed"], place["tier"], place["calls_limit"]), (True, "paid", None), "place")
    equal(quota(bench, tenant), (0, 0), "used, reserved")
    body = {"tenant_id": str(uuid.uuid4()), "event_id": str(uuid.uuid4()), "ts": now(bench)}
    refused(hub.post("usage/reserve", body), 404, "NOT_FOUND")


# Audit ---------------------------------------------------------------------------------------------------------------

def test_ingest(bench):
    """Contract 2.2: an event is stored once and counted once. Members that are not columns are dropped."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    one = event(tenant, now(bench), api_version="v9", headers={"cookie": "x"})
    reply = succeeded(hub.post("audit-ingest", one), 202)
    equal((reply.json["accepted"], reply.json["duplicates"]), (1, 0), "accepted, duplicates")
    row = bench.db.row("select * from acp.audit_logs where event_id = :'id'", id=one["event_id"])
    for column in ("event_id", "request_id", "tenant_id", "integration", "pack", "action", "request_hash", "status",
                   "billable", "billing_unit", "billing_quantity", "tier", "ip_address", "result_meta", "dry_run"):
        equal(row[column], one[column], column)
    equal((row["actor_type"], row["actor_id"], row["api_key_id"]),
          ("api_key", "ock_0123abcd", one["actor"]["api_key_id"]), "actor")
    again = succeeded(hub.post("audit-ingest", [one, one]), 202)
    equal((again.json["accepted"], again.json["duplicates"]), (0, 2), "accepted, duplicates")
    usage = succeeded(hub.get("usage?tenant_id=" + tenant)).json
    equal((usage["calls_used"], usage["by_action"][0]["quantity"]), (1, 3), "counted")
    equal(quota(bench, tenant), (1, 0), "used, reserved")
    equal(bench.db.value("select count(*) from acp.audit_logs where request_id = :'id'", id=reply.request_id), 0,
          "rows of the hub itself")


def test_ingest_after_settle(bench):
    """Contract 3: a call that usage/settle has counted is not counted again with its row. A call that only reserved a
    place is counted then."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    ts = now(bench)
    settled, held, failed = event(tenant, ts), event(tenant, ts), event(tenant, ts, status="error", billable=False)
    for each in (settled, held, failed):
        reserve(hub, tenant, each["event_id"], ts)
    succeeded(settle(hub, tenant, settled["event_id"], ts))
    equal(quota(bench, tenant), (1, 2), "before the rows")
    succeeded(hub.post("audit-ingest", [settled, held, failed]), 202)
    equal(quota(bench, tenant), (2, 0), "after the rows")
    succeeded(settle(hub, tenant, held["event_id"], ts))
    equal(quota(bench, tenant), (2, 0), "after a late settle")
    equal(bench.db.value("select count(*) from acp.usage_settled where tenant_id = :'id'", id=tenant), 0, "leftovers")


def test_ingest_many_at_once(bench):
    """Contract 2.2: one body can have 1000 events. The same batch from eight kernels at once is stored and counted
    once."""
    hub = Hub(bench)
    tenants = [make_tenant(bench, hub) for _ in range(4)]
    bench.db.execute("update acp.tenants set calls_limit = 250 where tenant_id = any (:'ids')", ids="{%s}" % ",".join(tenants))
    ts = now(bench)
    events = [event(tenants[n % 4], ts) for n in range(1000)]
    order = [events[n::3] for n in range(3)]
    batches = [events, events[::-1], [e for part in order for e in part], events] * 2
    replies = parallel(8, lambda n: hub.post("audit-ingest", batches[n]))
    for reply in replies:
        succeeded(reply, 202)
    equal(sum(r.json["accepted"] for r in replies), 1000, "accepted")
    equal(sum(r.json["duplicates"] for r in replies), 7000, "duplicates")
    for tenant in tenants:
        equal(quota(bench, tenant), (250, 0), "used, reserved")
        equal(succeeded(hub.get("usage?tenant_id=" + tenant)).json["calls_used"], 250, "calls_used")
    refused(hub.post("audit-ingest", events + [event(tenants[0], ts)]), 400, "VALIDATION_ERROR")
    refused(hub.post("audit-ingest", []), 400, "VALIDATION_ERROR")


def test_ingest_large_body(bench):
    """Contract 2.2: a body of a kernel may be longer than one of a tenant, up to a limit, and only with the kernel
    key."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    ts = now(bench)
    long_text = "x" * 1800
    events = [event(tenant, ts, status="error", billable=False, error_message_redacted=long_text) for _ in range(1000)]
    succeeded(hub.post("audit-ingest", events), 202)
    refused(hub.post("audit-ingest", b" " * (5 << 20)), 413, "PAYLOAD_TOO_LARGE")
    refused(hub.post("usage", b" " * (300 << 10)), 413, "PAYLOAD_TOO_LARGE")
    refused(bench.send("POST", BASE + "audit-ingest", b" " * (1 << 20), [("Authorization", "Bearer x" + hub.key)]), 401,
            "INVALID_API_KEY")


def test_ingest_checks_each_field(bench):
    """Contract 3: a value that does not fit the audit row is refused with its position, and nothing of the array is
    stored."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    ts = now(bench)
    wrong = [({"event_id": "x"}, "event_id"), ({"request_id": None}, "request_id"), ({"tenant_id": "x"}, "tenant_id"),
             ({"ts": "yesterday"}, "ts"), ({"ts": "0000-01-01T00:00:00Z"}, "ts"), ({"ts": 5}, "ts"), ({"ts": None}, "ts"),
             ({"ts": "2999-01-01T00:00:00Z"}, "ts"), ({"ts": 1000000000123}, "ts"), ({"integration": ""}, "integration"), ({"action": "x" * 256}, "action"),
             ({"actor": {"type": "robot"}}, "actor/type"), ({"actor": None}, "actor/type"), ({"status": "ok"}, "status"),
             ({"request_hash": "A" * 64}, "request_hash"), ({"ip_address": "1.2.3.400"}, "ip_address"),
             ({"billing_unit": "hour"}, "billing_unit"), ({"billing_quantity": -1}, "billing_quantity"),
             ({"billing_quantity": 0.5}, "billing_quantity"), ({"tier": "gold"}, "tier"), ({"tier": None}, "billable"),
             ({"status": "error"}, "billable"), ({"dry_run": True}, "billable"), ({"latency_ms": -1}, "latency_ms"),
             ({"policy_decision_id": "x"}, "policy_decision_id"), ({"result_meta": []}, "result_meta")]
    for change, field in wrong:
        body = [event(tenant, ts), {**event(tenant, ts), **change}]
        refused(hub.post("audit-ingest", body), 400, "VALIDATION_ERROR", "/1/" + field)
    missing = event(tenant, ts)
    del missing["ts"]
    refused(hub.post("audit-ingest", missing), 400, "VALIDATION_ERROR", "/ts")
    refused(hub.post("audit-ingest", [event(tenant, ts), 7]), 400, "VALIDATION_ERROR", "/1")
    equal(bench.db.value("select count(*) from acp.audit_logs where tenant_id = :'id'", id=tenant), 0, "rows")


def test_ingest_redacts_again(bench):
    """Contract 3: credentials that a kernel left in its events are not stored."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    key = bench.onboard().key
    one = event(tenant, now(bench), billable=False, status="error", error_message_redacted="with sk_live_abc123DEF and " + key,
                result_meta={"note": "Bearer abcdef", "password": "p", "id": "kept"}, idempotency_key="whsec_abcdef")
    succeeded(hub.post("audit-ingest", one), 202)
    row = bench.db.row("select * from acp.audit_logs where event_id = :'id'", id=one["event_id"])
    equal(row["error_message_redacted"], "with [REDACTED] and [REDACTED]", "message")
    equal(row["result_meta"], {"note": "[REDACTED]", "password": "[REDACTED]", "id": "kept"}, "result_meta")
    equal(row["idempotency_key"], "[REDACTED]", "idempotency_key")


def test_ingest_of_an_unknown_tenant(bench):
    """Contract 6: a free call of a tenant that the hub does not know, of which the hub was not asked, is stored and not
    billable. The other rows of its batch are stored."""
    hub = Hub(bench)
    good = event(make_tenant(bench, hub), now(bench))
    strange = event(str(uuid.uuid4()), now(bench))
    strange["result_meta"] = {**strange["result_meta"], "usage_check": "failed_open"}
    reply = succeeded(hub.post("audit-ingest", [strange, good]), 202)
    equal(reply.json["accepted"], 2, "accepted")
    row = bench.db.row("select * from acp.audit_logs where event_id = :'id'", id=strange["event_id"])
    equal((row["billable"], row["result_meta"]["usage_check"]), (False, "failed_open_over_limit"), "its row")


def test_ingest_minimal_event(bench):
    """Contract 3: an event of an unknown caller, without billing members and with its time in milliseconds, is not
    billable."""
    hub = Hub(bench)
    ts = bench.db.value("select floor(extract(epoch from acp.now()))::bigint * 1000 + 123")
    one = {"event_id": str(uuid.uuid4()), "request_id": str(uuid.uuid4()), "ts": ts, "tenant_id": None,
           "integration": "e2e-kernel", "actor": {"type": "anonymous"}, "status": "denied", "error_code": "INVALID_API_KEY"}
    succeeded(hub.post("audit-ingest", one), 202)
    row = bench.db.row("select *, extract(epoch from ts)::numeric(14,3)::text as at from acp.audit_logs where event_id = :'id'",
                       id=one["event_id"])
    equal((row["tenant_id"], row["billable"], row["billing_quantity"], row["at"]), (NIL, False, 1, "%d.123" % (ts // 1000)), "row")


def test_query(bench):
    """Contract 2.2: audit-query filters by tenant, action prefix, status and time. Its pages have no gap and no
    repetition."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    other = make_tenant(bench, hub)
    day = bench.db.value("select to_char(acp.now() - interval '200 days', 'YYYY-MM-DD')")
    events = [event(tenant, day + "T03:04:%02d.%06dZ" % (n // 5, n // 10), billable=False, pack="e2e", action="a_b.%d" % (n % 3),
                    status=("success", "error", "denied")[n % 3]) for n in range(25)]
    succeeded(hub.post("audit-ingest", events + [event(other, day + "T03:04:02Z")]), 202)
    wanted = sorted(events, key=lambda e: (e["ts"], e["event_id"]), reverse=True)
    found, cursor = [], None
    for _ in range(10):
        more = "&cursor=" + cursor if cursor else ""
        page = succeeded(hub.get("audit-query?tenant_id=%s&limit=4%s" % (tenant, more))).json
        found += page["events"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    equal([e["event_id"] for e in found], [e["event_id"] for e in wanted], "events over the pages")
    equal(found[0]["actor"], {"type": "api_key", "id": "ock_0123abcd", "api_key_id": wanted[0]["actor"]["api_key_id"]}, "actor")

    def ids(**filters):
        return {e["event_id"] for e in succeeded(hub.post("audit-query", {"tenant_id": tenant, **filters})).json["events"]}

    equal(ids(status="error"), {e["event_id"] for e in events if e["status"] == "error"}, "by status")
    equal(ids(action_prefix="a_b.1"), {e["event_id"] for e in events if e["action"] == "a_b.1"}, "by action")
    equal(ids(action_prefix="a%"), set(), "by action, with a pattern character in the prefix")
    between = {"from": day + "T03:04:02Z", "to": day + "T03:04:03Z"}
    equal(ids(**between), {e["event_id"] for e in events if "03:04:02" in e["ts"]}, "by time")
    equal(succeeded(hub.post("audit-query", {"tenant_id": NIL, "limit": 1})).json["events"][0]["tenant_id"], None, "nil tenant")
    for body, field in (({"limit": 0}, "/limit"), ({"limit": 1001}, "/limit"), ({"cursor": "x"}, "/cursor"), ({"to": "x"}, "/to"),
                        ({"status": "x"}, "/status"), ({"from": "0001-01-01T00:00:00Z"}, "/from"), ({"tenant": tenant}, "/tenant")):
        refused(hub.post("audit-query", body), 400, "VALIDATION_ERROR", field)


def test_query_gives_what_ingest_takes(bench):
    """Contract 3: audit-query returns events in the form that audit-ingest accepts."""
    hub = Hub(bench)
    tenant = bench.onboard()
    succeeded(bench.score(tenant.key))
    events = succeeded(hub.get("audit-query?tenant_id=" + tenant.id)).json["events"]
    equal(len(events), 1, "events")
    reply = succeeded(hub.post("audit-ingest", events), 202)
    equal((reply.json["accepted"], reply.json["duplicates"]), (0, 1), "accepted, duplicates")


# Policies ------------------------------------------------------------------------------------------------------------

def test_authorize(bench):
    """Contract 2.2: without a policy the decision is allow. A published policy decides for its tenant only. A suspended
    tenant is denied."""
    hub = Hub(bench)
    tenant, other = make_tenant(bench, hub), make_tenant(bench, hub)
    allowed = succeeded(hub.authorize(tenant)).json
    equal(allowed["decision"], "allow", "without a policy")
    check({"decision_id", "policy_version", "decision_ttl_ms"} <= set(allowed), "members: %s" % sorted(allowed))
    proposed = succeeded(hub.post("policy-propose", {"tenant_id": tenant, "policy": {
        "name": "no models", "decision": "deny", "action": "domain.leadscoring.models.*", "reason": "frozen"}}))
    equal(succeeded(hub.authorize(tenant)).json["decision"], "allow", "while it is only proposed")
    bench.audit(proposed, action="hub.policy-propose", tenant_id=NIL, actor_type="system")
    policy = str(uuid.uuid4())
    bench.db.execute("select acp.proposal_decide(:'id', 'approved'), acp.policy_publish(:'id', :'policy')",
                     id=proposed.json["proposal_id"], policy=policy)
    try:
        denied = succeeded(hub.authorize(tenant)).json
        equal((denied["decision"], denied["reason"], denied["policy_id"]), ("deny", "frozen", policy), "decision")
        check(denied["policy_version"] > allowed["policy_version"], "policy_version did not grow")
        equal(succeeded(hub.authorize(tenant, "meta.version")).json["decision"], "allow", "another action")
        equal(succeeded(hub.authorize(other)).json["decision"], "allow", "another tenant")
    finally:
        bench.db.execute("select acp.policy_enable(:'policy', false)", policy=policy)
    succeeded(hub.post("tenants/update", {"tenant_id": tenant, "status": "suspended"}))
    equal(succeeded(hub.authorize(tenant)).json["decision"], "deny", "a suspended tenant")
    refused(hub.authorize(str(uuid.uuid4())), 404, "NOT_FOUND")
    refused(hub.authorize(tenant, amuont=7), 400, "VALIDATION_ERROR", "/amuont")


def test_authorize_approval(bench):
    """Contract 2.2: require_approval names an approval for exactly this call. Once approved, usage/settle uses it up,
    once."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    policy, ts = str(uuid.uuid4()), now(bench)
    actor = {"type": "api_key", "id": str(uuid.uuid4())}
    bench.db.execute("select acp.policy_add(:'policy', :'tenant', '{\"name\": \"n\", \"decision\": \"require_approval\"}')",
                     policy=policy, tenant=tenant)
    try:
        asked = succeeded(hub.authorize(tenant, actor=actor, event_id=str(uuid.uuid4()))).json
        equal(asked["decision"], "require_approval", "first")
        again = succeeded(hub.authorize(tenant, actor=actor, event_id=str(uuid.uuid4()))).json
        equal(again["approval_id"], asked["approval_id"], "approval of the same call")
        bench.db.execute("select acp.approval_decide(:'id', 'approved')", id=asked["approval_id"])
        equal(succeeded(hub.authorize(tenant, actor=actor)).json["decision"], "allow", "once approved")
        equal(succeeded(hub.authorize(tenant)).json["decision"], "require_approval", "another actor")
        use = {"reserved": False, "approval_id": asked["approval_id"]}
        event = str(uuid.uuid4())
        for _ in range(2):  # a kernel whose first answer was lost asks again
            succeeded(settle(hub, tenant, event, ts, **use))
        refused(settle(hub, tenant, str(uuid.uuid4()), ts, **use), 403, "APPROVAL_REQUIRED")
        succeeded(settle(hub, tenant, str(uuid.uuid4()), ts, **use, outcome="failure"))
        refused(settle(hub, tenant, str(uuid.uuid4()), ts, **use), 403, "APPROVAL_REQUIRED")
        succeeded(settle(hub, tenant, event, ts, **use, outcome="failure"))
        succeeded(settle(hub, tenant, str(uuid.uuid4()), ts, **use))
        user = succeeded(hub.authorize(tenant, actor={"type": "user", "id": "alice"})).json
        equal((user["decision"], user.get("approval_id")), ("require_approval", None), "an actor without a key")
    finally:
        bench.db.execute("select acp.policy_enable(:'policy', false)", policy=policy)


def test_authorize_ceiling(bench):
    """Contract 6: as many calls of a tenant wait for an approval as the hub's setting permits, whichever kernel asks."""
    hub = Hub(bench)
    tenant, policy = make_tenant(bench, hub), str(uuid.uuid4())
    bench.db.execute("select acp.policy_add(:'policy', :'tenant', '{\"name\": \"n\", \"decision\": \"require_approval\"}')",
                     policy=policy, tenant=tenant)
    try:
        with Responder(bench.stack, kernel_key=hub.key, ceiling_approvals="2") as responder:
            replies = [ask(responder.socket, "POST", BASE + "authorize", json.dumps(authorization(tenant)).encode(),
                           {"Content-Type": "application/json", "Authorization": "Bearer " + hub.key}).json
                       for _ in range(3)]
        equal([(reply["decision"], reply.get("code")) for reply in replies],
              [("require_approval", None)] * 2 + [("deny", "CEILING_EXCEEDED")], "decisions")
    finally:
        bench.db.execute("select acp.policy_enable(:'policy', false)", policy=policy)


def test_propose_checks_the_policy(bench):
    """Contract 2.2: policy-propose accepts the same policies as governance.propose_policy."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    for policy, field in (({"name": "n"}, "/policy/decision"), ({"name": "n", "decision": "maybe"}, "/policy/decision"),
                          ({"name": "n", "decision": "deny", "time_window": {"timezone": "Mars/Base"}},
                           "/policy/time_window/timezone")):
        refused(hub.post("policy-propose", {"tenant_id": tenant, "policy": policy}), 400, "VALIDATION_ERROR", field)
    body = {"tenant_id": str(uuid.uuid4()), "policy": {"name": "n", "decision": "deny"}}
    refused(hub.post("policy-propose", body), 404, "NOT_FOUND")


def test_heartbeat(bench):
    """Contract 2.2: heartbeat stores the kernel and returns the hub's time and policy version."""
    hub = Hub(bench)
    kernel = "e2e-%s" % uuid.uuid4()
    for version in ("1.0", "1.1"):
        reply = succeeded(hub.post("heartbeat", {"kernel_id": kernel, "version": version, "actions_count": 7, "packs": ["a"]}))
        check({"policy_version", "now"} <= set(reply.json), "members: %s" % sorted(reply.json))
    row = bench.db.row("select * from acp.kernels where kernel_id = :'id'", id=kernel)
    equal((row["version"], row["info"]), ("1.1", {"actions_count": 7, "packs": ["a"]}), "kernel")
    refused(hub.post("heartbeat", {"version": "1"}), 400, "VALIDATION_ERROR", "/kernel_id")
    refused(hub.post("heartbeat", {"kernel_id": kernel, "info": "x" * 20000}), 413, "PAYLOAD_TOO_LARGE")


def test_reads_leave_no_row(bench):
    """Decision: a read of the hub has a log line and no audit row."""
    hub = Hub(bench)
    tenant = make_tenant(bench, hub)
    before = bench.db.value("select count(*) from acp.audit_logs")
    replies = [hub.get("usage?tenant_id=" + tenant), hub.post("audit-query", {"limit": 1}), hub.authorize(tenant),
               hub.post("heartbeat", {"kernel_id": "e2e"})]
    equal(bench.db.value("select count(*) from acp.audit_logs"), before, "rows")
    if bench.stack.log:
        with open(bench.stack.log, encoding="utf-8") as file:
            log = file.read()
        for reply in replies:
            equal(log.count(succeeded(reply).request_id), 1, "lines of the log")
        check(hub.key not in log, "the kernel key is in the log")
