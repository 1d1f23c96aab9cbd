"""API keys: contract 1 (identity) and the row INVALID_API_KEY of contract 2."""

import datetime
import time
import uuid

from client import MANAGE, NIL, refused, succeeded
from checks import check, equal, parallel, until
from test_onboarding import BASE62, check_digits

# A well-formed key that no tenant has.
UNKNOWN = "ock_" + "0Zz9" * 7 + "ab"
UNKNOWN += check_digits(UNKNOWN)


def version(bench, key=None, headers=()):
    return bench.call(key, "meta.version", None, headers)


def bearer(key, scheme="Bearer"):
    return {"Authorization": "%s %s" % (scheme, key)}


def other_digit(digit):
    return BASE62[(BASE62.index(digit) + 1) % 62]


def malformed(key):
    """Malformed variants of a key."""
    return [key[:-1], key + "A", key[:-1] + other_digit(key[-1]), key[:10] + other_digit(key[10]) + key[11:],
            "ock-" + key[4:], key[4:], "sk_" + key[4:], key.upper(), key + "%00", "x", "ock_", "\xff" * 40, "A" * 4000,
            "' or '1'='1", key[:20] + " " + key[20:], '"%s"' % key]


def all_refusals(bench):
    """Maps each way to lack a usable key to its reply."""
    tenant, suspended = bench.onboard(), bench.onboard()
    revoked, revoked_id = bench.make_key(tenant, "manage.read")
    bench.stack.ctl("key", "revoke", revoked_id)
    bench.stack.ctl("tenant", "update", suspended.id, "--status", "suspended")
    closed = bench.onboard()
    bench.stack.ctl("tenant", "update", closed.id, "--status", "closed")
    expired, expired_id = bench.make_key(tenant, "manage.read")
    bench.db.execute("update acp.api_keys set expires_at = acp.now() where api_key_id = :'id'", id=expired_id)
    replies = {"none": version(bench), "unknown": version(bench, UNKNOWN), "revoked": version(bench, revoked),
               "expired": version(bench, expired), "suspended": version(bench, suspended.key),
               "closed": version(bench, closed.key), "other scheme": version(bench, None, bearer(tenant.key, "Basic")),
               "empty bearer": version(bench, None, {"Authorization": "Bearer "}),
               "two that differ": version(bench, tenant.key, bearer(UNKNOWN))}
    replies.update(("malformed %d" % n, version(bench, text)) for n, text in enumerate(malformed(tenant.key)))
    return replies


def test_one_refusal_for_all(bench):
    """Contract 2: a key that is missing, malformed, mistyped, unknown, revoked, expired or of a suspended tenant gets
    the same reply and one row."""
    replies = all_refusals(bench)
    first = None
    for name, reply in replies.items():
        refused(reply, 401, "INVALID_API_KEY")
        shown = ({k: v for k, v in reply.json.items() if k != "request_id"},
                 {k: v for k, v in reply.headers.items() if k not in ("X-Request-Id", "Date")})
        first = first or shown
        equal(shown, first, "the reply to: " + name)
        check((reply.header("WWW-Authenticate") or "").startswith("Bearer"), "WWW-Authenticate\n%s" % reply)
    bench.audit_each(replies.values(), tenant_id=NIL, status="denied", error_code="INVALID_API_KEY", api_key_id=None,
                     actor_type="anonymous", actor_id=None, tier=None, billable=False, action="meta.version")


def test_rows_of_unknown_callers_show_null(bench):
    """Contract 3: in the reports, tenant_id is null for unknown callers."""
    reply = refused(version(bench), 401, "INVALID_API_KEY")
    row = bench.db.row("select tenant_id from acp_report.audit_logs where request_id = :'id'", id=reply.request_id)
    equal(row["tenant_id"], None, "tenant_id")


def test_both_headers(bench):
    """Contract 1: X-API-Key and Authorization: Bearer (in any case) are equivalent; both may be sent if they agree."""
    tenant = bench.onboard()
    for key, headers in [(tenant.key, {}), (None, bearer(tenant.key)), (None, bearer(tenant.key, "bearer")),
                         (None, bearer(tenant.key, "BEARER")), (tenant.key, bearer(tenant.key))]:
        bench.audit(succeeded(version(bench, key, headers)), tenant_id=tenant.id, actor_id=tenant.key[:12])


def test_headers_that_differ(bench):
    """Contract 1: two different credentials are refused, even if both are valid."""
    tenant = bench.onboard()
    second, _ = bench.make_key(tenant, "manage.read")
    for key, other in [(tenant.key, second), (tenant.key, UNKNOWN), (UNKNOWN, tenant.key), (tenant.key, "x")]:
        refused(version(bench, key, bearer(other)), 401, "INVALID_API_KEY")


def test_two_keys_of_one_header(bench):
    """Contract 1: a request with X-API-Key twice is refused; none of them is chosen."""
    tenant = bench.onboard()
    second, _ = bench.make_key(tenant, "manage.read")
    for first, then in [(tenant.key, second), (tenant.key, UNKNOWN), (UNKNOWN, tenant.key)]:
        reply = version(bench, None, [("X-API-Key", first), ("X-API-Key", then)])
        check(reply.status in (400, 401), "status\n%s" % reply)


def test_keys_elsewhere_are_no_keys(bench):
    """Contract 1: a key in the query, a cookie or the body is ignored."""
    key = bench.onboard().key
    body = {"action": "meta.version"}
    for path, headers in [(MANAGE + "?api_key=" + key, {}), (MANAGE + "?X-API-Key=" + key, {}),
                          (MANAGE, {"Cookie": "X-API-Key=" + key}), (MANAGE, {"X-Kernel-Key": key})]:
        refused(bench.send("POST", path, body, headers), 401, "INVALID_API_KEY")


def test_every_key_endpoint_refuses_alike(bench):
    """Contract 2: GET /api/usage answers with the same 401."""
    with_key = [{k: v for k, v in reply.json.items() if k != "request_id"} for reply in
                (version(bench, UNKNOWN), bench.get("/api/usage", UNKNOWN), bench.get("/api/usage"))]
    check(with_key[0] == with_key[1] == with_key[2], "bodies %s" % with_key)


def test_revoked_within_100_ms(bench):
    """Contract 1: 100 ms after acpctl key revoke returns, no process accepts the key; other keys still work."""
    tenant = bench.onboard()
    key, key_id = bench.make_key(tenant, "manage.read")
    for reply in parallel(16, lambda _: version(bench, key)):
        succeeded(reply)
    bench.stack.ctl("key", "revoke", key_id)
    time.sleep(0.1)
    for reply in parallel(32, lambda _: version(bench, key)):
        refused(reply, 401, "INVALID_API_KEY")
    succeeded(version(bench, tenant.key))
    again = bench.stack.program("acpctl", "key", "revoke", key_id)
    check(again.returncode == 1 and "revoked before" in again.stderr, "a second revoke: %s" % again)


def test_suspended_and_back(bench):
    """Contract 1: a key works while its tenant is active, and works again after the tenant is reactivated."""
    tenant = bench.onboard()
    for status in ["suspended", "active", "closed", "active"]:
        bench.stack.ctl("tenant", "update", tenant.id, "--status", status)
        time.sleep(0.1)
        for reply in parallel(16, lambda _: version(bench, tenant.key)):
            equal(reply.status, 200 if status == "active" else 401, status)


def moment(seconds):
    """The time seconds from now, in the form that acpctl accepts."""
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).isoformat()


def test_key_expires(bench):
    """Contract 1: a key works until its expiry and is refused from then on."""
    tenant = bench.onboard()
    key, key_id = bench.make_key(tenant, "manage.read", "--expires", moment(1.5))
    left = "select expires_at > acp.now() as good from acp.api_keys where api_key_id = :'id'"
    before = version(bench, key)
    if bench.db.value(left, id=key_id):
        succeeded(before)
    refused(until(10, "the key's expiry", lambda: (lambda r: r if r.status != 200 else None)(version(bench, key))), 401,
            "INVALID_API_KEY")
    equal(bench.db.value(left, id=key_id), False, "the key was refused before its expiry; still valid")
    succeeded(version(bench, tenant.key))


def test_expiry_in_the_past(bench):
    """Contract 1: acpctl refuses to create a key with a past expiry or an unknown scope, and stores nothing."""
    tenant = bench.onboard()
    options = ["key", "create", "--tenant", tenant.id, "--name", "n", "--scopes"]
    cases = [(["manage.read", "--expires", moment(-1)], 1), (["manage.read", "--expires", "2000-01-01"], 1),
             (["manage.read", "--expires", "someday"], 64), (["manage.everything"], 64), ([""], 64)]
    for more, status in cases:
        done = bench.stack.program("acpctl", *options, *more)
        equal((done.returncode, done.stdout), (status, ""), "acpctl key create %s: status and output" % more)
        check(done.stderr.strip(), "no reason given: %s" % more)
    equal(bench.db.value("select count(*) from acp.api_keys where tenant_id = :'id'", id=tenant.id), 1, "keys")


def test_key_of_acpctl_has_the_form(bench):
    """Contract 1: a key of acpctl key create has the same form, and works only for its scopes."""
    tenant = bench.onboard()
    key, key_id = bench.make_key(tenant, "manage.read manage.domain")
    equal(key[-6:], check_digits(key[:-6]), "check digits")
    bench.audit(succeeded(bench.score(key)), api_key_id=key_id, tenant_id=tenant.id)
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used of the tenant after a call with another key")


def test_unknown_tenant(bench):
    """acpctl key create refuses a tenant that does not exist, with a message."""
    done = bench.stack.program("acpctl", "key", "create", "--tenant", str(uuid.uuid4()), "--name", "n", "--scopes",
                               "manage.read")
    check(done.returncode == 1 and "no tenant has" in done.stderr, "%s" % done)
