"""POST /api/onboard/{product}: contract 1 (keys), 2 (codes), 2.1."""

import hashlib
import json
import re
import uuid
import zlib

from client import NIL, ONBOARD, refused, succeeded
from checks import check, equal, parallel, until
from written import keys_written_down, logs_of, read

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_FORM = re.compile(r"(ock_)([0-9A-Za-z]{30,})([0-9A-Za-z]{6})")


def check_digits(text):
    """The CRC-32 of the text in six base62 digits (contract 1)."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits


def application(bench, **more):
    return {"agent_id": bench.agent_id(), "email": "agent@example.com", **more}


def test_created(bench):
    """Contract 2.1: the reply is 201 with every member. The tenant is free, with 100 calls; the reply says that
    payments are not configured."""
    body = application(bench, organization_name="Zürich & Söhne 株式会社")
    reply = succeeded(bench.onboard_reply(body), 201)
    got = reply.json
    equal((got["onboarded"], got["tier"], got["free_calls_remaining"]), (True, "free", 100), "first members")
    for member in ("api_key_id", "tenant_uuid"):
        equal(str(uuid.UUID(got[member])), got[member], member)
    check(got["instructions"]["setup_steps"] and all(isinstance(s, str) for s in got["instructions"]["setup_steps"]),
          "setup_steps\n%s" % reply)
    check(got["instructions"]["documentation_url"].startswith("http"), "documentation_url\n%s" % reply)
    check(set(got["upgrade_info"]) == {"message", "upgrade_url"}, "upgrade_info\n%s" % reply)
    check("Stripe is not configured" in got["upgrade_info"]["message"],
          "the message does not say that payments are not configured\n%s" % reply)
    equal(got["pricing"], {"per_call": 0.001, "currency": "USD", "billing_period": "monthly"}, "pricing")
    tenant = bench.db.row("select * from acp.tenants where tenant_id = :'id'", id=got["tenant_uuid"])
    equal({name: tenant[name] for name in body if name != "email"}, {n: body[n] for n in body if n != "email"},
          "tenant")
    equal((tenant["billing_email"], tenant["tier"], tenant["payment_method_status"], tenant["product"],
           tenant["status"]),
          (body["email"], "free", "none", "leadscoring", "active"), "tenant")


def test_example_request_works(bench):
    """Contract 2.1: instructions.example_request is a call that succeeds unchanged."""
    example = bench.onboard().reply.json["instructions"]["example_request"]
    check(example["url"].endswith("/api/manage"), "url %s" % example["url"])
    reply = bench.send("POST", "/api/manage", json.dumps(example["body"]), example["headers"], content_type=None)
    succeeded(reply)
    bench.audit(reply, status="success", billable=True)


def test_key_form(bench):
    """Contract 1: a key is <prefix><30 or more base62><CRC-32 in base62>, random and different each time."""
    keys = {bench.onboard().key for _ in range(5)}
    equal(len(keys), 5, "different keys")
    for key in keys:
        form = KEY_FORM.fullmatch(key)
        check(form, "the key of %d characters does not have the form" % len(key))
        equal(form.group(3), check_digits(form.group(1) + form.group(2)), "check digits")
        check(len(set(form.group(2))) > 10, "the secret has too few different characters")


def test_key_is_stored_as_prefix_only(bench):
    """Contract 1: only the first 12 characters and a 32-byte HMAC are stored, not a plain hash of the key."""
    tenant = bench.onboard()
    row = bench.db.row("select key_prefix, encode(key_hash, 'hex') as hash, scopes, revoked_at, expires_at "
                       "from acp.api_keys where tenant_id = :'id'", id=tenant.id)
    equal(row["key_prefix"], tenant.key[:12], "key_prefix")
    equal((len(row["hash"]), row["revoked_at"], row["expires_at"]), (64, None, None), "key row")
    check(row["hash"] != hashlib.sha256(tenant.key.encode()).hexdigest(), "the hash has no pepper")
    check("manage.read" in row["scopes"] and "manage.domain" in row["scopes"], "scopes %s" % row["scopes"])


def test_audit_row(bench):
    """Contract 3: an onboarding has one audit row, of the unknown tenant, which names the new tenant."""
    reply = bench.onboard().reply
    row = bench.audit(reply, tenant_id=NIL, action="onboard.leadscoring", status="success", billable=False, tier=None,
                      actor_type="anonymous", error_code=None, dry_run=False)
    equal(row["result_meta"]["resource_id"], reply.json["tenant_uuid"], "resource_id")
    check(row["ip_address"] == "127.0.0.1" and row["latency_ms"] > 0, "ip_address, latency_ms: %s" % row)


def test_bad_emails(bench):
    """Contract 2.1: an email without valid syntax, or of more than 254 characters, gets 400 with field /email."""
    bad = ["", "x", "@", "a@", "@b.co", "a@b", "a b@c.de", "a@b..co", "a@.co", "a@-b.co", "a@b-.co", ".a@b.co",
           "a.@b.co",
           "a..b@c.de", "a@b.co ", " a@b.co", "a@b@c.de", "a@b.co\n", "a\tb@c.de", "a@b_c.de", "a@b.c.", "é@b.co",
           "<a@b.co>", "a@" + "b" * 64 + ".co", "a" * 65 + "@b.co", "a@" + ".".join(["b" * 60] * 4) + ".example.com"]
    replies = [bench.onboard_reply(application(bench, email=email)) for email in bad]
    for reply in replies:
        refused(reply, 400, "VALIDATION_ERROR", "/email")
    bench.audit_each(replies, tenant_id=NIL, status="error", error_code="VALIDATION_ERROR", billable=False)


def test_good_emails(bench):
    """Contract 2.1: ordinary addresses are accepted."""
    for email in ["a@b.co", "first.last+tag@sub.example.co.uk", "o'hara_x-1@example-2.org", "A" * 64 + "@example.com"]:
        succeeded(bench.onboard_reply(application(bench, email=email)), 201)


def test_agent_id(bench):
    """Contract 2.1: an agent_id that is not 1 to 128 characters of [A-Za-z0-9._:-] gets 400 with field /agent_id."""
    refused(bench.onboard_reply({"email": "a@b.co"}), 400, "VALIDATION_ERROR", "/agent_id")
    for agent_id in ["", "a" * 129, "a b", "a/b", "ä", "a\n", "a;b", "a\u0001", "a@b", None, 5, True, [], {}]:
        refused(bench.onboard_reply({"agent_id": agent_id, "email": "a@b.co"}), 400, "VALIDATION_ERROR", "/agent_id")
    longest = (bench.agent_id() + ":A.z_9-" + "x" * 128)[:128]
    succeeded(bench.onboard_reply(application(bench, agent_id=longest)), 201)


def test_wrong_types(bench):
    """Contract 2.1: email and organization_name are strings; the body is an object."""
    for value in [None, 5, True, [], {}]:
        refused(bench.onboard_reply(application(bench, email=value)), 400, "VALIDATION_ERROR", "/email")
    refused(bench.onboard_reply({"agent_id": bench.agent_id()}), 400, "VALIDATION_ERROR", "/email")
    for value in [5, True, [], {}]:
        refused(bench.onboard_reply(application(bench, organization_name=value)), 400, "VALIDATION_ERROR",
                "/organization_name")
    for body in ["[]", '"x"', "5", "null", "true", "", "{", "{}x"]:
        refused(bench.onboard_reply(body), 400, "VALIDATION_ERROR")


def test_organization_name_length(bench):
    """Contract 2.1: organization_name has at most 255 characters (not bytes)."""
    refused(bench.onboard_reply(application(bench, organization_name="x" * 256)), 400, "VALIDATION_ERROR",
            "/organization_name")
    succeeded(bench.onboard_reply(application(bench, organization_name="字" * 255)), 201)


def test_large_bodies(bench):
    """Contract 2: valid JSON up to 16 KiB (onboard_max_body_bytes) has its members checked: 400. A larger body gets
    413. Each has one audit row."""
    small = refused(bench.onboard_reply(application(bench, organization_name="x" * 15000)), 400, "VALIDATION_ERROR",
                    "/organization_name")
    replies = [refused(bench.onboard_reply(application(bench, organization_name="x" * size)), 413, "PAYLOAD_TOO_LARGE")
               for size in (20480, 262144, 2 * 1024 * 1024)]
    bench.audit_each([small] + replies, tenant_id=NIL, status="error", action="onboard.leadscoring")


def test_get(bench):
    """Contract 2: GET gets 405 with Allow: POST, and has one audit row."""
    reply = refused(bench.get(ONBOARD), 405, "METHOD_NOT_ALLOWED")
    equal(reply.header("Allow"), "POST", "Allow")
    bench.audit(reply, tenant_id=NIL, status="error", error_code="METHOD_NOT_ALLOWED")


def test_content_type(bench):
    """Contract 2: another content type, or none, gets 415."""
    body = json.dumps(application(bench))
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", None]:
        reply = bench.send("POST", ONBOARD, body, content_type=kind)
        refused(reply, 415, "UNSUPPORTED_MEDIA_TYPE")
    equal(bench.db.value("select count(*) from acp.agents where agent_id = :'id'", id=json.loads(body)["agent_id"]), 0,
          "tenants created")


def test_unknown_product(bench):
    """Contract 2: an unknown product gets 404, whatever the body."""
    for product in ["nothing", "leadscoring2", "", "leadscoring/x", "LEADSCORING"]:
        refused(bench.onboard_reply(application(bench), path="/api/onboard/" + product), 404, "NOT_FOUND")


def test_same_agent_id(bench):
    """Contract 2.1: the same agent_id again, with the same or another e-mail, gets 409 without any credential."""
    tenant = bench.onboard()
    for email in ["agent@example.com", "other@example.com"]:
        reply = refused(bench.onboard_reply({"agent_id": tenant.agent_id, "email": email}), 409, "ALREADY_ONBOARDED")
        text = reply.body.decode() + str(reply.headers)
        check(not KEY_FORM.search(text) and tenant.id not in text and "ock_" not in text, "shows too much\n%s" % reply)
        equal(set(reply.json), {"ok", "request_id", "error", "code"}, "members")
        bench.audit(reply, tenant_id=NIL, status="error", error_code="ALREADY_ONBOARDED")
    equal(bench.db.value("select count(*) from acp.api_keys where tenant_id = :'id'", id=tenant.id), 1, "keys")


def without_request_id(body):
    """A reply without its request_id, which differs between replies."""
    return {name: value for name, value in body.items() if name != "request_id"}


def test_idempotency_key(bench):
    """Contract 2.1: the same Idempotency-Key and body return the same reply, with the same key, which works."""
    body, header = application(bench), {"Idempotency-Key": "e2e-%s" % uuid.uuid4()}
    first = succeeded(bench.onboard_reply(body, header), 201)
    check(first.header("Idempotency-Replayed") is None, "the first reply is a replay\n%s" % first)
    again = succeeded(bench.onboard_reply(dict(reversed(list(body.items()))), header), 201)
    equal(again.header("Idempotency-Replayed"), "true", "Idempotency-Replayed")
    equal(without_request_id(again.json), without_request_id(first.json), "the reply")
    succeeded(bench.call(again.json["api_key"], "meta.version"))
    equal(bench.db.value("select count(*) from acp.tenants where agent_id = :'id'", id=body["agent_id"]), 1, "tenants")
    equal(bench.db.value("select count(*) from acp.api_keys where tenant_id = :'id'", id=first.json["tenant_uuid"]), 1,
          "keys")
    bench.audit_each([first, again], tenant_id=NIL, status="success", action="onboard.leadscoring")


def test_idempotency_key_other_body(bench):
    """Contract 2.1: the same Idempotency-Key with another body gets 422 and creates nothing."""
    body, header = application(bench), {"Idempotency-Key": "e2e-%s" % uuid.uuid4()}
    succeeded(bench.onboard_reply(body, header), 201)
    for other in [dict(body, email="other@example.com"), dict(body, agent_id=bench.agent_id()),
                  dict(body, organization_name="x")]:
        reply = refused(bench.onboard_reply(other, header), 422, "IDEMPOTENCY_MISMATCH")
        check("ock_" not in reply.body.decode(), "shows a key\n%s" % reply)
        bench.audit(reply, tenant_id=NIL, status="error", error_code="IDEMPOTENCY_MISMATCH")


def test_other_idempotency_key(bench):
    """Contract 2.1: the same agent_id with another Idempotency-Key gets 409, as without one."""
    body = application(bench)
    succeeded(bench.onboard_reply(body, {"Idempotency-Key": str(uuid.uuid4())}), 201)
    refused(bench.onboard_reply(body, {"Idempotency-Key": str(uuid.uuid4())}), 409, "ALREADY_ONBOARDED")


def test_bad_idempotency_key(bench):
    """Contract 2.1: an Idempotency-Key, with which anybody gets the same API key, has at most 255 characters and is not
    guessable: at least 20 characters, at least 10 of them different. A refused one creates nothing."""
    body = application(bench)
    for value in ["x" * 256, "schl\u00fcssel", "1", "order-1", "a" * 22, "abcdefghi" * 3, "abcdefghijklmnopqrs",
                  "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"]:
        reply = refused(bench.onboard_reply(body, {"Idempotency-Key": value}), 400, "VALIDATION_ERROR",
                        "/idempotency_key")
        check(value in ("x" * 256, "schl\u00fcssel") or "UUID" in reply.json["error"], "%s" % reply)
    for value in (str(uuid.uuid4()) + "x" * 255)[:255], str(uuid.uuid4()), uuid.uuid4().hex:
        succeeded(bench.onboard_reply(application(bench), {"Idempotency-Key": value}), 201)
    succeeded(bench.onboard_reply(body), 201)


def test_idempotency_key_after_a_day(bench):
    """Contract 2.1: after 24 h the Idempotency-Key can be used again; the agent_id is still taken."""
    body, header = application(bench), {"Idempotency-Key": "e2e-%s" % uuid.uuid4()}
    succeeded(bench.onboard_reply(body, header), 201)
    equal(bench.db.value("select count(*) from acp.idempotency where action = 'onboard.leadscoring' and "
                         "expires_at between created_at + interval '23:59' and created_at + interval '24:01' and "
                         "created_at > acp.now() - interval '1 minute' and reply->>'tenant_id' = "
                         "(select tenant_id::text from acp.agents where agent_id = :'id')", id=body["agent_id"]), 1,
          "rows that expire after 24 h")
    bench.db.execute("update acp.idempotency set expires_at = acp.now() where reply->>'tenant_id' = "
                     "(select tenant_id::text from acp.agents where agent_id = :'id')", id=body["agent_id"])
    refused(bench.onboard_reply(body, header), 409, "ALREADY_ONBOARDED")


def test_race_with_idempotency_key(bench):
    """Contract 2.1: 16 concurrent requests with one Idempotency-Key create one tenant and one key; all receive that
    key."""
    body, header = application(bench), {"Idempotency-Key": "e2e-%s" % uuid.uuid4()}
    replies = parallel(16, lambda _: bench.onboard_reply(body, header))
    for reply in replies:
        succeeded(reply, 201)
    equal(len({(r.json["api_key"], r.json["tenant_uuid"], r.json["api_key_id"]) for r in replies}), 1,
          "different replies")
    equal(sum(r.header("Idempotency-Replayed") is None for r in replies), 1, "replies that are not a replay")
    equal(bench.db.value("select count(*) from acp.api_keys k join acp.agents a using (tenant_id) where agent_id = "
                         ":'id'",
                         id=body["agent_id"]), 1, "keys")
    bench.audit_each(replies, status="success")
    succeeded(bench.call(replies[0].json["api_key"], "meta.version"))


def test_race_for_agent_id(bench):
    """Contract 2.1: of 16 concurrent requests with the same agent_id, exactly one gets 201, the others 409."""
    body = application(bench)
    replies = parallel(16, lambda _: bench.onboard_reply(body))
    equal(sorted(reply.status for reply in replies), [201] + [409] * 15, "statuses")
    equal(bench.db.value("select count(*) from acp.tenants where agent_id = :'id'", id=body["agent_id"]), 1, "tenants")
    bench.audit_each(replies, tenant_id=NIL)


def test_key_is_nowhere(bench):
    """Contract 1: the key is neither in any table of the database nor in a log, in plain text, hex, base64 or as a
    plain hash."""
    name = "e2e-%s" % uuid.uuid4()
    body = application(bench)
    tenant_key = succeeded(bench.onboard_reply(body, {"Idempotency-Key": name}), 201).json["api_key"]
    bench.onboard_reply(body, {"Idempotency-Key": name})
    last = bench.score(tenant_key)
    bench.call(tenant_key, "no.such.%s" % tenant_key, {"api_key": tenant_key, "note": "my key is %s." % tenant_key})
    everything = bench.db.dump()
    check(last.request_id in everything, "the dump is incomplete")
    logs = logs_of(bench.stack)
    if logs:
        until(10, "the log line of a request", lambda: last.request_id in read(bench.stack.log))
    for place, text in [("the database", everything), *((log, read(path)) for log, path in logs.items())]:
        check(name not in text, "an Idempotency-Key of an onboarding is in %s in plain text" % place)
    equal(keys_written_down(bench, everything), [], "places and keys")
