"""Idempotency: contract 3 (idempotency, claim and replay) and 2 (codes 200, 409, 422)."""

import contextlib
import json
import time
import uuid

from client import CREATE, SCORE, SCORE_PARAMS, refused, succeeded
from fcgi import Responder
from checks import check, equal, parallel
from test_actions_dir import Folder, action, call
from test_usage import clock_shifted, quota_rows

KEYS_CREATE = "iam.keys.create"
LIST = "domain.leadscoring.models.list"
MODEL = {"name": "m", "model_type": "ml"}
NEW_KEY = {"name": "k", "scopes": ["manage.read"]}
FUNCTIONS = """
drop schema if exists e2e_echo cascade;
create schema e2e_echo;
create table e2e_echo.ran (tenant_id uuid);
create function e2e_echo.echo(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as $$
begin
	insert into e2e_echo.ran values (t);
	return p->'value';
end
$$;
grant usage on schema e2e_echo to acp_app;
grant insert on e2e_echo.ran to acp_app;
grant execute on function e2e_echo.echo(uuid, jsonb, jsonb) to acp_app;
"""


@contextlib.contextmanager
def echo(bench, **members):
    """A responder whose billable action e2e.echo returns params.value."""
    bench.need_own_stack("needs its own action")
    bench.db.execute(FUNCTIONS)
    entry = action("e2e.echo", {"kind": "sql", "function": "e2e_echo.echo"}, **members)
    try:
        with Folder(echo=entry) as folder, Responder(bench.stack, actions_dir=folder.path) as responder:
            yield responder
    finally:
        bench.db.execute("drop schema e2e_echo cascade")


def fresh():
    """An unused idempotency key."""
    return "idem-%s" % uuid.uuid4()


def replayed(bench, first, again):
    """Checks that the reply is the stored one of an earlier success, marked by its code, its header and its audit
    row."""
    succeeded(again)
    equal(again.code, "IDEMPOTENT_REPLAY", "code")
    equal(again.header("Idempotency-Replayed"), "true", "Idempotency-Replayed")
    check("code" not in first.json and not first.header("Idempotency-Replayed"), "the first is a replay\n%s" % first)
    equal(json.dumps(again.data, sort_keys=True), json.dumps(first.data, sort_keys=True), "data of the replay")
    equal(again.json["dry_run"], False, "dry_run")
    bench.audit(again, status="success", error_code="IDEMPOTENT_REPLAY", billable=False)


def twice(bench, tenant, name, params, **members):
    key = fresh()
    replies = [succeeded(bench.call(tenant.key, name, params, idempotency_key=key, **members)) for _ in range(3)]
    for again in replies[1:]:
        replayed(bench, replies[0], again)
    return replies[0]


def models(bench, tenant):
    return bench.db.value("select count(*) from acp.leadscoring_models where tenant_id = :'id'", id=tenant.id)


def claims(bench, tenant):
    return bench.db.value("select count(*) from acp.idempotency where tenant_id = :'id'", id=tenant.id)


def test_replay(bench):
    """Contract 3: the same key and request return the same data again. There is one effect, one billed row, one used
    call."""
    tenant = bench.onboard()
    first = twice(bench, tenant, CREATE, MODEL)
    equal(models(bench, tenant), 1, "models")
    equal(bench.tenant_rows(tenant, "billable"), 1, "billable rows")
    equal(bench.tenant_rows(tenant), 3, "audit rows")
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")
    bench.audit(first, status="success", error_code=None, billable=True)


def test_replay_of_an_array(bench):
    """An array is replayed as stored, even if the same request would now have another result."""
    tenant = bench.onboard()
    key = fresh()
    first = succeeded(bench.call(tenant.key, LIST, {}, idempotency_key=key))
    equal(first.data, [], "data")
    succeeded(bench.call(tenant.key, CREATE, MODEL))
    replayed(bench, first, bench.call(tenant.key, LIST, {}, idempotency_key=key))
    equal(len(twice(bench, tenant, LIST, {}).data), 1, "models listed")


def test_replay_of_null_false_zero(bench):
    """All results, including null, false and 0, are replayed; each call ran once."""
    tenant = bench.onboard()
    values = [None, False, 0, "", [], {}, True, -0.5, 9007199254740991, [None, {"a": [False, 0]}], "\u00e4\U0001f600\n"]
    with echo(bench) as responder:
        for value in values:
            key = fresh()
            ask = lambda: call(responder, tenant.key, "e2e.echo", {"value": value}, idempotency_key=key)
            first = succeeded(ask())
            check("data" in first.json, "no data\n%s" % first)
            equal(json.dumps(first.data), json.dumps(value), "data")
            replayed(bench, first, ask())
        equal(bench.db.value("select count(*) from e2e_echo.ran"), len(values), "times that the handler ran")


def test_replay_of_a_key(bench):
    """Contract 3, 1: the replay of iam.keys.create returns the same api_key. It works, and there is only one."""
    tenant = bench.onboard()
    first = twice(bench, tenant, KEYS_CREATE, NEW_KEY)
    bench.keys.add(first.data["api_key"])
    succeeded(bench.call(first.data["api_key"], LIST))
    equal(len(succeeded(bench.call(tenant.key, "iam.keys.list")).data), 2, "keys")


def test_stored_result_is_unreadable(bench):
    """Contract 1, 3: a key is never stored in any table or in the log, not even for its replay."""
    tenant = bench.onboard()
    secret = twice(bench, tenant, KEYS_CREATE, NEW_KEY).data["api_key"]
    dump = bench.db.dump()
    check(tenant.id in dump, "the dump is incomplete")
    for form in (secret, secret.encode().hex(), secret[12:-6], secret[12:-6].encode().hex()):
        check(form not in dump, "the key, or a part of it, is in a table")
    if bench.stack.log:
        with open(bench.stack.log, encoding="utf-8", errors="replace") as file:
            check(secret not in file.read(), "the key is in the log")


def test_header_and_member_are_one(bench):
    """The Idempotency-Key header and the body's member are equivalent; different values get 400."""
    tenant = bench.onboard()
    key = fresh()
    first = succeeded(bench.call(tenant.key, CREATE, MODEL, {"Idempotency-Key": key}))
    replayed(bench, first, bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    replayed(bench, first, bench.call(tenant.key, CREATE, MODEL, {"Idempotency-Key": key}, idempotency_key=key))
    other = bench.call(tenant.key, CREATE, MODEL, {"Idempotency-Key": key}, idempotency_key=fresh())
    refused(other, 400, "VALIDATION_ERROR", "/idempotency_key")
    bench.audit(first, idempotency_key=key)
    for bad in ("", "x" * 256, 1, None, True, ["a"]):
        refused(bench.call(tenant.key, CREATE, MODEL, idempotency_key=bad), 400, "VALIDATION_ERROR", "/idempotency_key")
    refused(bench.call(tenant.key, CREATE, MODEL, {"Idempotency-Key": "x" * 256}), 400, "VALIDATION_ERROR",
            "/idempotency_key")
    succeeded(bench.call(tenant.key, LIST, {}, idempotency_key="x" * 255))
    equal(claims(bench, tenant), 2, "claims")


def test_another_request(bench):
    """Contract 2: the same key with another request gets 422 and has no effect; the first reply stays."""
    tenant = bench.onboard()
    key = fresh()
    first = succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    for params in ({**MODEL, "name": "M"}, {**MODEL, "description": "d"}, {**MODEL, "weights": {}}):
        other = refused(bench.call(tenant.key, CREATE, params, idempotency_key=key), 422, "IDEMPOTENCY_MISMATCH")
        bench.audit(other, billable=False, error_code="IDEMPOTENCY_MISMATCH")
    replayed(bench, first, bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")


def test_same_request_in_other_words(bench):
    """Contract 3: requests are compared in canonical form; member order and spelling of values do not matter."""
    tenant = bench.onboard()
    key = fresh()
    text = '{"action": "%s", "idempotency_key": "%s", "params": %s}'
    forms = ['{"name":"m","model_type":"ml","weights":{"a":1,"b":0.5}}',
             '{ "weights": {"b": 5e-1, "a": 1.0}, "model_type": "\\u006dl", "name": "m" }']
    first, again = [bench.send("POST", "/api/manage", text % (CREATE, key, form), key=tenant.key) for form in forms]
    replayed(bench, succeeded(first), again)


def test_keys_are_of_tenant_and_action(bench):
    """Contract 3: idempotency is per (tenant, action, key). The same key of another tenant or action is independent."""
    one, two = bench.onboard(), bench.onboard()
    key = fresh()
    ids = [succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=key)).data["model_id"]
           for tenant in (one, two)]
    check(ids[0] != ids[1], "two tenants have the same model")
    reply = succeeded(bench.call(one.key, LIST, {}, idempotency_key=key))
    check("code" not in reply.json, "a replay of another action\n%s" % reply)


def test_concurrent_first_calls(bench):
    """32 concurrent first calls with one key have one effect and one billed row. The other 31 get 409 or the
    replay."""
    tenant = bench.onboard()
    key = fresh()
    replies = parallel(32, lambda _: bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    first = [reply for reply in replies if reply.status == 200 and "code" not in reply.json]
    equal(len(first), 1, "calls that ran")
    for reply in replies:
        if reply.status == 200 and reply is not first[0]:
            replayed(bench, first[0], reply)
        elif reply is not first[0]:
            refused(reply, 409, "IDEMPOTENCY_CONFLICT")
    bench.audit_each(replies, tenant_id=tenant.id, action=CREATE, idempotency_key=key)
    equal(models(bench, tenant), 1, "models")
    equal(bench.tenant_rows(tenant, "billable"), 1, "billed rows")
    equal(bench.tenant_rows(tenant), 32, "audit rows")
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")
    equal(quota_rows(bench, tenant), [{"used": 1, "reserved": 0}], "quota")
    replayed(bench, first[0], bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))


def test_concurrent_key_creation(bench):
    """For a secret: concurrent first calls create one key, and all that receive it receive the same text."""
    tenant = bench.onboard()
    key = fresh()
    replies = parallel(16, lambda _: bench.call(tenant.key, KEYS_CREATE, NEW_KEY, idempotency_key=key))
    equal({reply.status for reply in replies} - {200, 409}, set(), "other statuses")
    equal(len({reply.data["api_key"] for reply in replies if reply.status == 200}), 1, "different keys")
    equal(len(succeeded(bench.call(tenant.key, "iam.keys.list")).data), 2, "keys")


def test_failed_call_leaves_the_key_free(bench):
    """Contract 3: if a later stage refuses a call, the earlier ones leave nothing behind; the key is still unused."""
    tenant = bench.onboard()
    key = fresh()
    no_model = {"model_id": str(uuid.uuid4()), "leads": SCORE_PARAMS["leads"]}
    for _ in range(2):
        refused(bench.call(tenant.key, SCORE, no_model, idempotency_key=key), 404, "NOT_FOUND")
    refused(bench.call(tenant.key, SCORE, {}, idempotency_key=key), 400, "VALIDATION_ERROR")
    equal(claims(bench, tenant), 0, "claims")
    first = succeeded(bench.call(tenant.key, SCORE, SCORE_PARAMS, idempotency_key=key))
    replayed(bench, first, bench.call(tenant.key, SCORE, SCORE_PARAMS, idempotency_key=key))


def age_claim(bench, tenant, key, lease):
    """Makes the claim look like one of a call that never ended because its process was killed."""
    bench.db.execute("update acp.idempotency set state = 'running', sealed = null, owner = gen_random_uuid(), "
                     "lease_until = acp.now() + :'lease'::interval where tenant_id = :'id' and key = :'key'",
                     id=tenant.id, key=key, lease=lease)


def test_crashed_claim(bench):
    """The claim of a crashed call gets 409 until its lease expires. Then the key works for any request again."""
    tenant = bench.onboard()
    key = fresh()
    ask = lambda params=MODEL: bench.call(tenant.key, CREATE, params, idempotency_key=key)
    succeeded(ask())
    age_claim(bench, tenant, key, "1 hour")
    waiting = refused(ask(), 409, "IDEMPOTENCY_CONFLICT")
    check(waiting.header("Retry-After"), "no Retry-After\n%s" % waiting)
    refused(ask({**MODEL, "name": "other"}), 422, "IDEMPOTENCY_MISMATCH")
    age_claim(bench, tenant, key, "-1 second")
    winners = [reply for reply in parallel(8, lambda _: ask()) if reply.status == 200 and "code" not in reply.json]
    equal(len(winners), 1, "calls that took the claim over")
    replayed(bench, winners[0], ask())
    age_claim(bench, tenant, key, "-1 second")
    succeeded(ask({**MODEL, "name": "other"}))
    refused(ask(), 422, "IDEMPOTENCY_MISMATCH")


def test_claim_of_a_crash(bench):
    """A claim without a result (the row that a killed process leaves) is free after its lease."""
    tenant = bench.onboard()
    key = fresh()
    bench.db.execute("insert into acp.idempotency (tenant_id, action, key, fingerprint, state, owner, lease_until, "
                     "created_at, expires_at) values (:'id', :'action', :'key', repeat('0', 64), 'running', "
                     "gen_random_uuid(), acp.now() - interval '1 second', acp.now() - interval '2 minutes', "
                     "acp.now() + interval '23 hours')",
                     id=tenant.id, action=CREATE, key=key)
    first = bench.call(tenant.key, CREATE, MODEL, idempotency_key=key)
    replayed(bench, succeeded(first), bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))


def test_expiry(bench):
    """Contract 3: a reply is kept for 24 hours. Until then the call is replayed; after that it runs and is billed."""
    tenant = bench.paid_tenant()
    key = fresh()
    ask = lambda params=MODEL: succeeded(bench.call(tenant.key, CREATE, params, idempotency_key=key))
    first = ask()
    with clock_shifted(bench, "23 hours 59 minutes"):
        replayed(bench, first, ask())
    with clock_shifted(bench, "24 hours 1 second"):
        second = ask({**MODEL, "name": "another request"})
        check("code" not in second.json, "a replay after 24 h\n%s" % second)
        check(second.data["model_id"] != first.data["model_id"], "the first model again")
        replayed(bench, second, ask({**MODEL, "name": "another request"}))
    equal(bench.tenant_rows(tenant, "billable"), 2, "billable rows")


def test_free_limit(bench):
    """Contract 3: replays are not counted, not billed and never refused by the quota. A refused call claims nothing."""
    tenant = bench.onboard()
    key, unused = fresh(), fresh()
    first = succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    replayed(bench, first, bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    for _ in range(99):
        succeeded(bench.score(tenant.key))
    refused(bench.call(tenant.key, CREATE, MODEL, idempotency_key=unused), 402, "UPGRADE_REQUIRED")
    for _ in range(3):
        replayed(bench, first, bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    equal(claims(bench, tenant), 1, "claims")
    equal(bench.usage(tenant.key)["calls_used"], 100, "calls_used")
    equal(bench.tenant_rows(tenant, "billable"), 100, "billable rows")
    bench.stack.ctl("tenant", "update", tenant.id, "--tier", "paid", "--payment-method", "active")
    time.sleep(0.1)  # after that, a change by another program is in effect
    check("code" not in succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=unused)).json, "a replay")


def test_ceiling(bench):
    """Replays are never refused by a ceiling."""
    tenant = bench.onboard()
    key = fresh()
    first = succeeded(bench.call(tenant.key, KEYS_CREATE, NEW_KEY, idempotency_key=key))
    bench.db.execute("select acp.key_create(:'id', gen_random_uuid(), sha256(gen_random_uuid()::text::bytea), "
                     "'ock_xxxxxxxx', 'filler', '{manage.read}', null) from generate_series(1, 23)", id=tenant.id)
    refused(bench.call(tenant.key, KEYS_CREATE, NEW_KEY), 403, "CEILING_EXCEEDED")
    replayed(bench, first, bench.call(tenant.key, KEYS_CREATE, NEW_KEY, idempotency_key=key))


def test_dry_run(bench):
    """Contract 3: a dry run claims nothing and is never a replay, before or after the real call with its key."""
    tenant = bench.onboard()
    key = fresh()
    dry = lambda: succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=key, dry_run=True))
    for _ in range(2):
        reply = dry()
        check("code" not in reply.json and reply.json["dry_run"] is True, "not a dry run\n%s" % reply)
    equal(claims(bench, tenant), 0, "claims")
    first = succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    replayed(bench, first, bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    check("creates" in dry().data, "a dry run got the stored reply")


def test_replay_needs_the_right(bench):
    """Contract 3 (order): the scope is checked before the claim, so a key without it gets no stored reply."""
    tenant = bench.onboard()
    key = fresh()
    succeeded(bench.call(tenant.key, CREATE, MODEL, idempotency_key=key))
    reader, _ = bench.make_key(tenant, "manage.read")
    refused(bench.call(reader, CREATE, MODEL, idempotency_key=key), 403, "SCOPE_DENIED")


def test_replay_grants_nothing(bench):
    """Contract 3 (packs): a key cannot grant a scope that it lacks, nor get such a key from another key's stored
    reply."""
    tenant = bench.onboard()
    key = fresh()
    params = {"name": "k", "scopes": ["manage.domain"]}
    succeeded(bench.call(tenant.key, KEYS_CREATE, params, idempotency_key=key))
    narrow, _ = bench.make_key(tenant, "manage.iam")
    refused(bench.call(narrow, KEYS_CREATE, params), 403, "SCOPE_DENIED")
    reply = bench.call(narrow, KEYS_CREATE, params, idempotency_key=key)
    check(reply.status >= 400, "a key without manage.domain received one that has it\n%s" % reply.request)
