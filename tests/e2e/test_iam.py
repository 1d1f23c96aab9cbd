"""Packs iam and settings: contract 1 (keys), 3 (packs, dry_run)."""

import datetime
import re
import time
import uuid

from client import SCORE, SCORE_PARAMS, refused, succeeded
from database import METERED
from checks import check, equal, parallel
from test_usage import clock_shifted, quota_rows

SCOPES = ["manage.read", "manage.domain", "manage.iam", "manage.webhooks", "manage.settings", "manage.governance"]
LIST, CREATE, UPDATE = "iam.keys.list", "iam.keys.create", "iam.keys.update"
REVOKE, ROTATE = "iam.keys.revoke", "iam.keys.rotate"
MEMBERS = {"api_key_id", "key_prefix", "name", "scopes", "rate_limit", "created_at", "expires_at", "revoked_at",
           "status"}
KEY = re.compile(r"^ock_[0-9A-Za-z]{36,}$")


def make(bench, tenant, *scopes, key=None, **more):
    params = {"name": "k", "scopes": list(scopes) or ["manage.read"], **more}
    made = succeeded(bench.call(key or tenant.key, CREATE, params)).data
    bench.keys.add(made["api_key"])
    return made


def listed(bench, tenant, **params):
    return succeeded(bench.call(tenant.key, LIST, params)).data


def one(bench, tenant, key_id):
    return next(entry for entry in listed(bench, tenant) if entry["api_key_id"] == key_id)


def own_id(bench, tenant):
    return listed(bench, tenant)[0]["api_key_id"]


def usable(bench, key):
    return bench.call(key, "meta.version").status == 200


def moment(bench, offset):
    """The time at this offset from the program's clock, in RFC 3339."""
    return bench.db.value("select acp.rfc3339(acp.now() + :'o'::interval)", o=offset)


def dry(bench, tenant, name, params):
    """Makes a dry run, which must change no table but the audit log; returns its impact."""
    before = bench.db.fingerprints(without=METERED)
    reply = succeeded(bench.call(tenant.key, name, params, dry_run=True))
    equal(bench.db.fingerprints(without=METERED), before, "tables after the dry run")
    equal(reply.json["dry_run"], True, "dry_run")
    bench.audit(reply, dry_run=True, billable=False, status="success")
    wanted = {"creates", "updates", "deletes", "side_effects", "risk", "warnings"}
    check(wanted <= set(reply.data), "impact\n%s" % reply)
    return reply.data


def only_changes(impact, *filled):
    """Checks that all lists of the impact except these are empty."""
    for name in ("creates", "updates", "deletes", "side_effects", "warnings"):
        if name not in filled:
            equal(impact[name], [], name)


# Keys -----------------------------------------------------------------------------------------------------------------

def test_create_and_list(bench):
    """Contract 1, 3: a new key is shown once. The list shows the keys, oldest first, never a secret."""
    tenant = bench.onboard()
    params = {"name": "worker \u00e4", "scopes": ["manage.read", "manage.domain"], "expires_at": "2099-01-01T00:00:00Z",
              "rate_limit": 50}
    reply = succeeded(bench.call(tenant.key, CREATE, params))
    made = reply.data
    bench.keys.add(made["api_key"])
    equal(set(made), MEMBERS | {"api_key"}, "members")
    check(KEY.match(made["api_key"]), "form of the key")
    equal(made["key_prefix"], made["api_key"][:12], "key_prefix")
    equal({name: made[name] for name in ("name", "scopes", "rate_limit", "status", "revoked_at")},
          {"name": "worker \u00e4", "scopes": ["manage.read", "manage.domain"], "rate_limit": 50, "status": "active",
           "revoked_at": None}, "the key")
    check(made["expires_at"].startswith("2099-01-01T00:00:00"), "expires_at")
    bench.audit(reply, pack="iam", billable=False, status="success")
    made.pop("api_key")
    equal([set(entry) for entry in listed(bench, tenant)], [MEMBERS] * 2, "members of the list")
    equal(listed(bench, tenant)[1], made, "the key as listed")
    first = listed(bench, tenant, limit=1)
    equal(listed(bench, tenant, limit=1, after=first[0]["api_key_id"]), [made], "next page")
    equal(listed(bench, tenant, after=made["api_key_id"]), [], "after the last")


def test_keys_work_as_scoped(bench):
    """Contract 3: deny by default: a new key may do only what its scopes allow."""
    tenant = bench.onboard()
    key = make(bench, tenant, "manage.domain")["api_key"]
    succeeded(bench.score(key))
    for name in (LIST, "settings.get", "webhooks.list", "domain.leadscoring.models.list"):
        bench.audit(refused(bench.call(key, name), 403, "SCOPE_DENIED"), status="denied", error_code="SCOPE_DENIED")


def test_scopes_that_the_caller_lacks(bench):
    """Contract 3: a key can never grant a scope that it lacks, by create, update or rotate."""
    tenant = bench.onboard()
    strong = make(bench, tenant, "manage.iam", "manage.domain")
    weak = make(bench, tenant, "manage.iam", "manage.read")
    for dry_run in (False, True):
        for scopes in (["manage.domain"], ["manage.read", "manage.governance"]):
            calls = [(CREATE, {"name": "k", "scopes": scopes}),
                     (UPDATE, {"api_key_id": weak["api_key_id"], "scopes": scopes})]
            for name, params in calls:
                reply = refused(bench.call(weak["api_key"], name, params, dry_run=dry_run), 403, "SCOPE_DENIED")
                bench.audit(reply, status="denied")
        rotate = bench.call(weak["api_key"], ROTATE, {"api_key_id": strong["api_key_id"]}, dry_run=dry_run)
        refused(rotate, 403, "SCOPE_DENIED")
    equal(len(listed(bench, tenant)), 3, "keys")
    equal(one(bench, tenant, weak["api_key_id"])["scopes"], ["manage.iam", "manage.read"], "scopes")
    check(one(bench, tenant, strong["api_key_id"])["expires_at"] is None, "the key with more scopes was rotated")
    succeeded(bench.call(weak["api_key"], CREATE, {"name": "k", "scopes": ["manage.iam"]}))


def test_bad_params(bench):
    """Unknown scopes, a past expiry and unknown members are refused; the error names the invalid member."""
    tenant = bench.onboard()
    good = {"name": "k", "scopes": ["manage.read"]}
    bad = [({"scopes": ["manage.everything"]}, "/params/scopes/0"),
           ({"scopes": ["manage.read", "*"]}, "/params/scopes/1"),
           ({"scopes": []}, "/params/scopes"), ({"scopes": ["manage.read"] * 2}, "/params/scopes"),
           ({"expires_at": moment(bench, "-1 second")}, "/params/expires_at"),
           ({"expires_at": "2099-02-30T00:00:00Z"}, "/params/expires_at"),
           ({"expires_at": "soon"}, "/params/expires_at"),
           ({"expires_at": None}, "/params/expires_at"), ({"name": ""}, "/params/name"),
           ({"name": None}, "/params/name"),
           ({"rate_limit": 0}, "/params/rate_limit"), ({"rate_limit": 1001}, "/params/rate_limit"), ({"rate_limit": 0.5}, "/params/rate_limit"),
           ({"new_hash": "00"}, "/params/new_hash"), ({"new_id": str(uuid.uuid4())}, "/params/new_id")]
    key_id = own_id(bench, tenant)
    for change, field in bad:
        refused(bench.call(tenant.key, CREATE, {**good, **change}), 400, "VALIDATION_ERROR", field)
        refused(bench.call(tenant.key, UPDATE, {"api_key_id": key_id, **change}), 400, "VALIDATION_ERROR", field)
    refused(bench.call(tenant.key, UPDATE, {"api_key_id": key_id}), 400, "VALIDATION_ERROR", "/params")
    equal(len(listed(bench, tenant)), 1, "keys")


def test_dry_create(bench):
    """Contract 3: a dry run of create describes the key that would be created. It creates and shows no key."""
    tenant = bench.onboard()
    params = {"name": "k", "scopes": ["manage.read"]}
    impact = dry(bench, tenant, CREATE, params)
    only_changes(impact, "creates")
    equal(len(impact["creates"]), 1, "creates")
    equal({name: impact["creates"][0].get(name) for name in ("type", "name", "scopes", "count")},
          {"type": "api_key", "name": "k", "scopes": ["manage.read"], "count": 1}, "creates")
    check("ock_" not in str(impact) and "new_hash" not in str(impact), "a key, or its hash, in the impact: %r" % impact)
    refused(bench.call(tenant.key, CREATE, {**params, "expires_at": moment(bench, "-1 day")}, dry_run=True), 400,
            "VALIDATION_ERROR", "/params/expires_at")


def test_update(bench):
    """Update changes exactly the given members; its dry run lists exactly these."""
    tenant = bench.onboard()
    made = make(bench, tenant, "manage.read", "manage.domain")
    changed = {"name": "new name", "scopes": ["manage.read"], "rate_limit": 7}
    impact = dry(bench, tenant, UPDATE, {"api_key_id": made["api_key_id"], **changed})
    only_changes(impact, "updates")
    equal(impact["updates"], [{"type": "api_key", "api_key_id": made["api_key_id"], "changes": changed}], "updates")
    reply = succeeded(bench.call(tenant.key, UPDATE, {"api_key_id": made["api_key_id"], **changed}))
    wanted = {name: value for name, value in made.items() if name != "api_key"}
    equal(reply.data, {**wanted, **changed}, "the key")
    equal(one(bench, tenant, made["api_key_id"]), reply.data, "the key, as listed")
    refused(bench.score(made["api_key"]), 403, "SCOPE_DENIED")
    bench.audit(reply, result_meta={"resource_type": "api_key", "resource_id": made["api_key_id"]})


def test_expiry(bench):
    """Contract 1: from expires_at on, a key is refused like an unknown one. An expired key cannot be reactivated."""
    tenant = bench.onboard()
    made = make(bench, tenant, "manage.read", expires_at=moment(bench, "1 hour"))
    check(usable(bench, made["api_key"]), "a key before its expiry is refused")
    with clock_shifted(bench, "61 minutes"):
        refused(bench.call(made["api_key"], "meta.version"), 401, "INVALID_API_KEY")
        equal(one(bench, tenant, made["api_key_id"])["status"], "expired", "status")
        for name, more in ((UPDATE, {"expires_at": moment(bench, "1 day")}), (ROTATE, {})):
            refused(bench.call(tenant.key, name, {"api_key_id": made["api_key_id"], **more}), 400, "VALIDATION_ERROR",
                    "/params/api_key_id")


def test_revoke(bench):
    """Contract 1: a revoked key is refused. The dry run of revoke names the key; revoking again changes nothing."""
    tenant = bench.onboard()
    made = make(bench, tenant)
    params = {"api_key_id": made["api_key_id"]}
    impact = dry(bench, tenant, REVOKE, params)
    only_changes(impact, "updates")
    equal(impact["updates"], [{"type": "api_key", "name": "k", "changes": {"status": "revoked"}, **params}], "updates")
    check(usable(bench, made["api_key"]), "revoked by a dry run")
    gone = succeeded(bench.call(tenant.key, REVOKE, params)).data
    equal((gone["status"], gone["revoked_at"] is None), ("revoked", False), "status")
    refused(bench.call(made["api_key"], "meta.version"), 401, "INVALID_API_KEY")
    equal(succeeded(bench.call(tenant.key, REVOKE, params)).data, gone, "revoked again")
    only_changes(dry(bench, tenant, REVOKE, params))
    for name in (UPDATE, ROTATE):
        refused(bench.call(tenant.key, name, {"name": "x", **params} if name == UPDATE else params), 400,
                "VALIDATION_ERROR", "/params/api_key_id")
    absent = {"api_key_id": str(uuid.uuid4())}
    refused(bench.call(tenant.key, REVOKE, absent), 404, "NOT_FOUND")


def test_changes_hold_everywhere_at_once(bench):
    """Contract 1: a revocation or a change of scopes applies in every process to calls that start 100 ms after the
    answer."""
    tenant = bench.onboard()
    for _ in range(5):
        made = make(bench, tenant, "manage.read", "manage.domain")
        params = {"api_key_id": made["api_key_id"]}
        equal({reply.status for reply in parallel(8, lambda _: bench.score(made["api_key"]))}, {200}, "before")
        succeeded(bench.call(tenant.key, UPDATE, {**params, "scopes": ["manage.read"]}))
        time.sleep(0.1)
        equal({reply.status for reply in parallel(8, lambda _: bench.score(made["api_key"]))}, {403}, "without the scope")
        succeeded(bench.call(tenant.key, REVOKE, params))
        time.sleep(0.1)
        equal({reply.status for reply in parallel(8, lambda _: bench.score(made["api_key"]))}, {401}, "revoked")


def test_revoking_oneself(bench):
    """A key may revoke itself; the dry run warns about it."""
    tenant = bench.onboard()
    made = make(bench, tenant, "manage.iam")
    reply = bench.call(made["api_key"], REVOKE, {"api_key_id": made["api_key_id"]}, dry_run=True)
    equal(len(succeeded(reply).data["warnings"]), 1, "warnings")
    succeeded(bench.call(made["api_key"], REVOKE, {"api_key_id": made["api_key_id"]}))
    refused(bench.call(made["api_key"], LIST), 401, "INVALID_API_KEY")


# Rotation -------------------------------------------------------------------------------------------------------------

def test_rotate(bench):
    """Both keys work for the grace period, with one quota. Then the old key ends and the new one still works."""
    tenant = bench.onboard()
    old = make(bench, tenant, "manage.domain", "manage.read", rate_limit=77)
    params = {"api_key_id": old["api_key_id"], "grace_seconds": 3600}
    reply = succeeded(bench.call(tenant.key, ROTATE, params))
    new = reply.data
    bench.keys.add(new["api_key"])
    check(new["api_key"] != old["api_key"] and new["api_key_id"] != old["api_key_id"], "the same key again")
    equal([(new[name], new["replaces"]["api_key_id"]) for name in ("name", "scopes", "rate_limit", "expires_at")],
          [(old[name], old["api_key_id"]) for name in ("name", "scopes", "rate_limit", "expires_at")], "the new key")
    ends = datetime.datetime.fromisoformat(new["replaces"]["expires_at"].replace("Z", "+00:00"))
    made = datetime.datetime.fromisoformat(new["created_at"].replace("Z", "+00:00"))
    equal(round((ends - made).total_seconds()), 3600, "grace period")
    for key in (old["api_key"], new["api_key"], new["api_key"]):
        succeeded(bench.score(key))
    equal(quota_rows(bench, tenant), [{"used": 3, "reserved": 0}], "quota")
    with clock_shifted(bench, "59 minutes"):
        check(usable(bench, old["api_key"]) and usable(bench, new["api_key"]), "a key ended too early")
    with clock_shifted(bench, "61 minutes"):
        refused(bench.score(old["api_key"]), 401, "INVALID_API_KEY")
        succeeded(bench.score(new["api_key"]))
    # In the last hour of a month the last call belongs to the next one.
    equal(sum(row["used"] for row in quota_rows(bench, tenant)), 4, "calls used")


def test_rotate_at_once_and_by_default(bench):
    """Grace_seconds 0 ends the old key at once. The default is 24 hours. An earlier expiry stays."""
    tenant = bench.onboard()
    old = make(bench, tenant)
    succeeded(bench.call(tenant.key, ROTATE, {"api_key_id": old["api_key_id"], "grace_seconds": 0}))
    check(not usable(bench, old["api_key"]), "the old key works")
    soon = make(bench, tenant, expires_at=moment(bench, "1 hour"))
    reply = succeeded(bench.call(tenant.key, ROTATE, {"api_key_id": soon["api_key_id"]}))
    equal(reply.data["replaces"]["expires_at"], soon["expires_at"], "an expiry before the end of the grace period")
    late = make(bench, tenant)
    new = succeeded(bench.call(tenant.key, ROTATE, {"api_key_id": late["api_key_id"]})).data
    with clock_shifted(bench, "23 hours 59 minutes"):
        check(usable(bench, late["api_key"]), "the old key ended too early")
    with clock_shifted(bench, "24 hours 1 minute"):
        check(not usable(bench, late["api_key"]) and usable(bench, new["api_key"]), "after a day")


def test_dry_rotate(bench):
    """Contract 3: a dry run of rotate describes the new key and the change of the old one."""
    tenant = bench.onboard()
    old = make(bench, tenant)
    impact = dry(bench, tenant, ROTATE, {"api_key_id": old["api_key_id"], "grace_seconds": 60})
    only_changes(impact, "creates", "updates")
    equal(impact["creates"], [{"type": "api_key", "name": "k", "scopes": ["manage.read"], "count": 1}], "creates")
    equal([(entry["type"], entry["api_key_id"], set(entry["changes"])) for entry in impact["updates"]],
          [("api_key", old["api_key_id"], {"expires_at"})], "updates")


# Team and settings ----------------------------------------------------------------------------------------------------

def test_team(bench):
    """Contract 3: team.invite adds a member to team.list. Inviting again changes the role. Addresses are compared
    in lower case."""
    tenant = bench.onboard()
    person = {"email": "Ann@Example.com", "role": "viewer"}
    invite = lambda **more: bench.call(tenant.key, "iam.team.invite", {**person, **more})
    impact = dry(bench, tenant, "iam.team.invite", person)
    only_changes(impact, "creates")
    equal(impact["creates"], [{"type": "team_member", "email": "ann@example.com", "role": "viewer"}], "creates")
    first = succeeded(invite()).data
    equal((first["email"], first["role"], first["status"]), ("ann@example.com", "viewer", "invited"), "the member")
    only_changes(dry(bench, tenant, "iam.team.invite", {**person, "role": "admin"}), "updates")
    again = succeeded(invite(email="ann@EXAMPLE.com", role="admin")).data
    equal(succeeded(bench.call(tenant.key, "iam.team.list")).data, [again], "team")
    equal(again, {**first, "role": "admin"}, "the member")
    for bad, field in (({"email": "ann"}, "/params/email"), ({"role": "god"}, "/params/role")):
        refused(invite(**bad), 400, "VALIDATION_ERROR", field)


def test_settings(bench):
    """Contract 3: settings.update changes the given settings, null unsets one, the rest stays; settings.get shows
    them."""
    tenant = bench.onboard()
    get = lambda: succeeded(bench.call(tenant.key, "settings.get")).data
    put = lambda **values: bench.call(tenant.key, "settings.update", {"settings": values})
    first = get()
    equal(first, {"organization_name": None, "billing_email": "agent@example.com", "timezone": None, "locale": None,
                  "metadata": {}}, "settings at first")
    values = {"organization_name": "Acme", "timezone": "Europe/Berlin", "locale": "de-DE", "metadata": {"a": "b"}}
    equal(succeeded(put(**values)).data, {**first, **values}, "settings")
    succeeded(put(billing_email="new@example.com", organization_name=None, locale=None))
    wanted = {**first, **values, "billing_email": "new@example.com", "organization_name": None, "locale": None}
    equal(get(), wanted, "settings after the second update")
    for bad, field in (({"timezone": "Mars/Olympus"}, "/params/settings/timezone"),
                       ({"billing_email": "no"}, "/params/settings/billing_email"),
                       ({"billing_email": None}, "/params/settings/billing_email"),
                       ({"locale": "deutsch"}, "/params/settings/locale"), ({"tier": "paid"}, "/params/settings/tier"),
                       ({}, "/params/settings"), ({"metadata": {"a": 1}}, "/params/settings/metadata/a")):
        refused(put(**bad), 400, "VALIDATION_ERROR", field)
    equal(get(), wanted, "settings after the refusals")


def test_dry_settings(bench):
    """Contract 3: the dry run of settings.update lists only the settings that would change."""
    tenant = bench.onboard()
    settings = {"timezone": "UTC", "billing_email": "agent@example.com", "locale": None}
    impact = dry(bench, tenant, "settings.update", {"settings": settings})
    only_changes(impact, "updates")
    equal(impact["updates"], [{"type": "settings", "changes": {"timezone": "UTC"}}], "updates")
    only_changes(dry(bench, tenant, "settings.update", {"settings": {"billing_email": "agent@example.com"}}))


def test_iam_is_not_billed(bench):
    """Contract 3: only leadscoring is billable. Other packs use no free calls, and work after these are used up."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "0")
    refused(bench.call(tenant.key, SCORE, SCORE_PARAMS), 402, "UPGRADE_REQUIRED")
    make(bench, tenant)
    for name in (LIST, "iam.team.list", "settings.get"):
        bench.audit(succeeded(bench.call(tenant.key, name)), billable=False)
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")
