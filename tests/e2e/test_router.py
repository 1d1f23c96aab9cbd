"""POST /api/manage: contract 3, without usage (test_usage.py) and unreadable bodies (test_malformed.py)."""

import hashlib
import json
import time
import uuid

from client import CREATE, MANAGE, NIL, SCORE, SCORE_PARAMS, refused, succeeded
from database import METERED
from checks import check, equal, parallel, slowness
from fcgi import Responder

ACTIONS = {"meta.actions", "meta.version", CREATE, "domain.leadscoring.models.list",
           "domain.leadscoring.questions.upsert_bulk", "domain.leadscoring.questions.list", SCORE}
UPSERT = "domain.leadscoring.questions.upsert_bulk"
IMPACT = {"creates", "updates", "deletes", "side_effects", "risk", "warnings", "estimated_cost"}
REDACTED = "[REDACTED]"


def canonical_hash(value):
    """The SHA-256 of the RFC 8785 form. This serialization is correct for ASCII names, integers and plain text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# Envelope and order ---------------------------------------------------------------------------------------------------

def test_success_reply(bench):
    """Contract 3: a success has ok, request_id, data, dry_run and constraints_applied, and its audit row has all
    columns."""
    tenant = bench.onboard()
    reply = succeeded(bench.score(tenant.key))
    equal(set(reply.json), {"ok", "request_id", "data", "dry_run", "constraints_applied"}, "members")
    equal((reply.json["dry_run"], reply.header("Content-Type")), (False, "application/json"), "dry_run, Content-Type")
    check(isinstance(reply.json["constraints_applied"], list), "constraints_applied\n%s" % reply)
    equal(reply.header("Cache-Control"), "no-store", "Cache-Control")
    key = bench.db.row("select api_key_id from acp.api_keys where tenant_id = :'id'", id=tenant.id)
    row = bench.audit(reply, tenant_id=tenant.id, pack="domain.leadscoring", action=SCORE, actor_type="api_key",
                      actor_id=tenant.key[:12], api_key_id=key["api_key_id"], status="success", error_code=None,
                      error_message_redacted=None, ip_address="127.0.0.1", idempotency_key=None, dry_run=False,
                      policy_decision_id=None, trace_id=None, billable=True, billing_unit="row", billing_quantity=1,
                      tier="free", request_hash=canonical_hash({"action": SCORE, "params": SCORE_PARAMS}))
    check(0 < row["latency_ms"] < 60000, "latency_ms %s" % row["latency_ms"])
    age = bench.db.value("select extract(epoch from acp.now() - ts) as age from acp.audit_logs where event_id = :'id'",
                         id=row["event_id"])
    check(0 <= age < 60, "ts is %s s ago" % age)


def test_envelope_errors(bench):
    """Contract 2, 3: each member of the envelope is checked, and named in field if invalid. Each refusal has one audit
    row."""
    key = bench.onboard().key
    good = {"action": "meta.version"}
    cases = [({}, "/action"), ({"action": ""}, "/action"), ({"action": None}, "/action"), ({"action": 5}, "/action"),
             ({"action": ["meta.version"]}, "/action"), ({"params": {}}, "/action"),
             ({**good, "params": []}, "/params"), ({**good, "params": "x"}, "/params"),
             ({**good, "params": None}, "/params"), ({**good, "params": 0}, "/params"),
             ({**good, "dry_run": "true"}, "/dry_run"), ({**good, "dry_run": 1}, "/dry_run"),
             ({**good, "dry_run": None}, "/dry_run"), ({**good, "idempotency_key": 5}, "/idempotency_key"),
             ({**good, "idempotency_key": ""}, "/idempotency_key"),
             ({**good, "idempotency_key": None}, "/idempotency_key"),
             ({**good, "idempotency_key": "x" * 256}, "/idempotency_key"), ({**good, "dryrun": True}, "/dryrun"),
             ({**good, "dry-run": True}, "/dry-run"), ({**good, "Action": "x"}, "/Action"),
             ({**good, "tenant_id": NIL}, "/tenant_id")]
    replies = [refused(bench.send("POST", MANAGE, body, key=key), 400, "VALIDATION_ERROR", field) for body, field
               in cases]
    bench.audit_each(replies, status="error", error_code="VALIDATION_ERROR", billable=False)


def test_unknown_member_names(bench):
    """Contract 2: field is a JSON Pointer, even for names with / and ~, long names and names in any script."""
    key = bench.onboard().key
    for name in ["a/b", "a~b", "é" * 100, "a" + "é" * 100, "ab" + "字" * 100, "x" * 1000, "😀" * 40, ""]:
        reply = bench.send("POST", MANAGE, {"action": "meta.version", name: 1}, key=key)
        refused(reply, 400, "VALIDATION_ERROR")
        pointer, field = "/" + name.replace("~", "~0").replace("/", "~1"), reply.json["field"]
        cut = field.rstrip(".…")
        check(field == pointer or (len(cut.encode()) > 40 and pointer.startswith(cut)),
              "field %r instead of %r" % (field, pointer))
        bench.audit(reply, status="error", error_code="VALIDATION_ERROR")


def test_order_of_checks(bench):
    """Contract 3: the first fault is reported, in this order: envelope, authentication, look-up, scope, dry-run
    support, params."""
    tenant = bench.onboard()
    reader, _ = bench.make_key(tenant, "manage.read")
    bad = {"nonsense": 1}
    refused(bench.call(None, CREATE, bad, dry_run=5), 400, "VALIDATION_ERROR", "/dry_run")
    refused(bench.call(None, "no.such.action", bad), 401, "INVALID_API_KEY")
    refused(bench.call(reader, "no.such.action", bad, dry_run=True), 404, "NOT_FOUND")
    refused(bench.call(reader, CREATE, bad, dry_run=True), 403, "SCOPE_DENIED")
    refused(bench.call(reader, "domain.leadscoring.models.list", bad, dry_run=True), 400, "VALIDATION_ERROR",
            "/dry_run")
    refused(bench.call(reader, "domain.leadscoring.models.list", bad), 400, "VALIDATION_ERROR", "/params/nonsense")


def test_scope_denied(bench):
    """Contract 3: deny by default: a key without the action's scope gets 403, audited as denied, and has no effect."""
    tenant = bench.onboard()
    reader, key_id = bench.make_key(tenant, "manage.read")
    succeeded(bench.call(reader, "domain.leadscoring.models.list"))
    for action, params in [(CREATE, {"name": "m", "model_type": "linear"}), (SCORE, SCORE_PARAMS),
                           (UPSERT, {"questions": [{"key": "k", "text": "t"}]})]:
        reply = refused(bench.call(reader, action, params), 403, "SCOPE_DENIED")
        bench.audit(reply, status="denied", error_code="SCOPE_DENIED", tenant_id=tenant.id, api_key_id=key_id,
                    action=action, billable=False)
    equal(succeeded(bench.call(reader, "domain.leadscoring.models.list")).data, [], "models")
    equal(bench.usage(tenant.key)["calls_used"], 2, "calls_used")
    writer, _ = bench.make_key(tenant, "manage.domain")
    succeeded(bench.score(writer))
    refused(bench.call(writer, "meta.actions"), 403, "SCOPE_DENIED")


def test_unknown_action(bench):
    """Contract 2: an unknown action gets 404, with an audit row that has its name and no pack."""
    tenant = bench.onboard()
    for action in ["no.such.action", "META.VERSION", "meta.version ", "meta", "meta.", "'; drop table x; --",
                   "x" * 3000]:
        reply = refused(bench.call(tenant.key, action), 404, "NOT_FOUND")
        bench.audit(reply, status="error", error_code="NOT_FOUND", pack=None, action=action[:255], tenant_id=tenant.id,
                    billable=False)
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")


def test_unknown_action_in_any_script(bench):
    """Contract 2, 3: long names in a message or row are truncated between characters."""
    key = bench.onboard().key
    for action in ["é" * 150, "a" + "é" * 150, "ab" + "字" * 100, "😀" * 100, "abc" + "😀" * 100, "\u202e" * 40]:
        reply = refused(bench.call(key, action), 404, "NOT_FOUND")
        row = bench.audit(reply, status="error", error_code="NOT_FOUND", pack=None)
        check(action.startswith(row["action"]) and len(row["action"].encode()) > 250 - 4 or row["action"] == action,
              "action %r in the row" % row["action"])


def test_credentials_are_not_echoed(bench):
    """Contract 2, 3: a misplaced credential appears neither in the reply nor in the audit row nor in the log."""
    tenant = bench.onboard()
    live = "sk_live_" + "a1B2" * 6
    places = [{"action": "x " + tenant.key}, {"action": "x " + live}, {"action": "meta.version", tenant.key: 1},
              {"action": "meta.version", "params": {tenant.key: 1}}, {"action": CREATE, "params": {"model_type": live}},
              {"action": SCORE, "params": {"model_id": tenant.key, "leads": []}}]
    for body in places:
        reply = bench.send("POST", MANAGE, body, key=tenant.key)
        check(400 <= reply.status < 500, "status\n%s" % reply)
        row = bench.audit(reply, status="error")
        for secret in (tenant.key[12:], live):
            check(secret not in json.dumps(row), "the audit row shows a credential\n%s\n%s" % (reply, row))
            check(secret not in reply.body.decode(), "the reply shows a credential\n%s" % reply)


def test_problem_json(bench):
    """Contract 2: with Accept: application/problem+json, an error has the same members in the form of RFC 9457. A
    success stays JSON."""
    tenant = bench.onboard()
    accept = {"Accept": "application/problem+json"}
    cases = [bench.call(tenant.key, "no.such", None, accept), bench.call(None, "meta.version", None, accept),
             bench.call(tenant.key, "meta.version", {"x": 1}, accept), bench.get(MANAGE, headers=accept),
             bench.get("/nothing", headers=accept), bench.get("/api/usage?period=x", tenant.key, accept),
             bench.onboard_reply({}, accept)]
    equal([reply.status for reply in cases], [404, 401, 400, 405, 404, 400, 400], "statuses")
    for reply in cases:
        equal(reply.header("Content-Type"), "application/problem+json", "Content-Type")
        body = reply.json
        equal((body["status"], body["detail"], body["ok"]), (reply.status, body["error"], False), "members")
        check(body["type"] and body["title"] and body["code"], "type, title, code\n%s" % reply)
        equal("field" in body, reply.status == 400, "field")
    plain = succeeded(bench.call(tenant.key, "meta.version", None, accept))
    equal(plain.header("Content-Type"), "application/json", "Content-Type of a success")


def test_other_paths(bench):
    """Contract 2: an unknown path gets 404 with a request id. /healthz and /readyz answer GET."""
    before = bench.audit_count()
    for path in ["/", "/api", "/api/", "/api/nothing", "/healthz/x", "/favicon.ico", "/api/usage/x", "/api/managed"]:
        reply = refused(bench.get(path), 404, "NOT_FOUND")
        check(reply.request_id, "request_id\n%s" % reply)
    for path in ["/healthz", "/readyz"]:
        succeeded(bench.get(path))
        reply = refused(bench.send("POST", path, "{}"), 405, "METHOD_NOT_ALLOWED")
        equal(reply.header("Allow"), "GET, HEAD", "Allow")
    equal(bench.audit_count(), before, "audit rows")


def test_key_in_a_path_is_not_logged(bench):
    """Contract 2: a client that puts its key into the path gets 404, and the log does not have the key, at no level.
    (A web server would log the path, so there is none.)"""
    key = bench.onboard().key
    with Responder(bench.stack, log_level="debug") as responder:
        replies = [responder.ask("POST", path % key) for path in ("/api/manage/%s", "/%s", "/api/usage/%s/x", "/api/onboard/%s")]
        log = responder.log_of(replies)
    equal([reply.status for reply in replies], [404] * 4, "statuses")
    check(key not in log, "the log has the key")
    check("path=/api/manage/[REDACTED]" in log and "request_uri=/api/manage/[REDACTED]" in log, log)


# Actions --------------------------------------------------------------------------------------------------------------

def test_meta_actions(bench):
    """Contract 3: meta.actions lists every action with its members; only leadscoring is billable."""
    reply = succeeded(bench.call(bench.onboard().key, "meta.actions"))
    actions = {action["name"]: action for action in reply.data["actions"]}
    check(ACTIONS <= set(actions), "missing: %s" % (ACTIONS - set(actions)))
    equal((len(actions), reply.data["total_actions"]), (len(reply.data["actions"]),) * 2, "total_actions")
    for name, action in actions.items():
        equal(set(action), {"name", "scope", "description", "params_schema", "supports_dry_run", "billable",
                            "billing_unit", "max_quantity"} | ({"price"} if action["billable"] else set()),
              "members of " + name)
        equal(action["billable"], name.startswith("domain.leadscoring."), name + ": billable")
        equal(action["params_schema"]["type"], "object", name + ": params_schema")
        check(action["billing_unit"] in (None, "call", "token", "row", "sec"), name + ": billing_unit")
        check(action["scope"].startswith("manage.") and action["description"], name + ": scope, description")
    equal({name: actions[name]["supports_dry_run"] for name in ACTIONS},
          {name: name in (CREATE, UPSERT, SCORE) for name in ACTIONS}, "supports_dry_run")
    equal({name: actions[name]["billing_unit"] for name in ACTIONS},
          {name: "row" if name == SCORE else None for name in ACTIONS}, "billing_unit")
    equal({name: actions[name]["max_quantity"] for name in ACTIONS},
          {name: 100 if name == SCORE else 1 for name in ACTIONS}, "max_quantity")
    bench.audit(reply, status="success", billable=False, pack="meta")


def test_meta_version(bench):
    """Contract 3: meta.version works and is not billable; params may be omitted or empty."""
    tenant = bench.onboard()
    for params in (None, {}):
        reply = succeeded(bench.call(tenant.key, "meta.version", params))
        check(reply.data["api_version"] and reply.data["program"].startswith("acp-fcgi "), "data\n%s" % reply)
        bench.audit(reply, billable=False, status="success")
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")


def test_models(bench):
    """Contract 3: models.create takes {name, model_type, description?, weights?}. models.list returns an array, oldest
    first."""
    tenant = bench.onboard()
    given = [{"name": "m %d" % n, "model_type": kind, "weights": {"a": n, "ü": -0.25}, "description": "d “%d”" % n}
             for n, kind in enumerate(["linear", "ml", "rule_based"])]
    made = []
    for params in given:
        reply = succeeded(bench.call(tenant.key, CREATE, params))
        equal({name: reply.data[name] for name in params}, params, "the model")
        row = bench.audit(reply, billable=True, billing_unit=None, billing_quantity=1)
        equal(row["result_meta"]["resource_id"], reply.data["model_id"], "resource_id")
        check("“" not in json.dumps(row, ensure_ascii=False), "the row shows the payload: %s" % row)
        made.append(reply.data)
    bare = succeeded(bench.call(tenant.key, CREATE, {"name": "bare", "model_type": "linear"})).data
    equal((bare["weights"], bare["description"]), ({}, None), "omitted weights and description")
    equal(succeeded(bench.call(tenant.key, "domain.leadscoring.models.list")).data, made + [bare], "the list")
    page = {"limit": 2, "after": made[0]["model_id"]}
    equal(succeeded(bench.call(tenant.key, "domain.leadscoring.models.list", page)).data, made[1:3], "a page")


def test_questions(bench):
    """Contract 3: questions.upsert_bulk creates or replaces 1 to 100 questions by key. questions.list returns them."""
    key = bench.onboard().key
    first = [{"key": "q%03d" % n, "text": "Question %d?" % n, "weight": n / 4} for n in range(100)]
    equal(succeeded(bench.call(key, UPSERT, {"questions": first})).data, {"created": 100, "updated": 0}, "first time")
    change = {"questions": [{"key": "q001", "text": "Другой?"}, {"key": "q100", "text": "new"}]}
    equal(succeeded(bench.call(key, UPSERT, change)).data, {"created": 1, "updated": 1}, "second time")
    listed = succeeded(bench.call(key, "domain.leadscoring.questions.list", {"limit": 200})).data
    wanted = {q["key"]: q for q in first}
    wanted.update(q001={"key": "q001", "text": "Другой?", "weight": 1},
                  q100={"key": "q100", "text": "new", "weight": 1})
    equal(listed, sorted(wanted.values(), key=lambda q: q["key"]), "the list")
    page = succeeded(bench.call(key, "domain.leadscoring.questions.list", {"limit": 1, "after": "q099"})).data
    equal([q["key"] for q in page], ["q100"], "a page")


def test_large_reply(bench):
    """A reply of 400 KiB, 200 questions of 2,000 characters, arrives complete."""
    key = bench.onboard().key
    wanted = [{"key": "q%03d" % n, "text": ("%03d " % n) * 500, "weight": 1} for n in range(200)]
    for part in (wanted[:100], wanted[100:]):
        succeeded(bench.call(key, UPSERT, {"questions": part}))
    equal(succeeded(bench.call(key, "domain.leadscoring.questions.list", {"limit": 200})).data, wanted, "the list")


def test_question_errors(bench):
    """Contract 3: a bulk with one invalid question changes nothing; field points to that question."""
    tenant = bench.onboard()
    good = {"key": "k", "text": "t"}
    cases = [([], "/params/questions"), ([good] * 101, "/params/questions"), ([good, good], "/params/questions"),
             ([good, {"key": "l"}], "/params/questions/1/text"),
             ([good, {"key": "", "text": "t"}], "/params/questions/1/key"),
             ([good, {"key": "l", "text": "t", "weight": "1"}], "/params/questions/1/weight"),
             ([good, {"key": "l", "text": "t", "more": 1}], "/params/questions/1/more"),
             ([good, 5], "/params/questions/1")]
    for questions, field in cases:
        refused(bench.call(tenant.key, UPSERT, {"questions": questions}), 400, "VALIDATION_ERROR", field)
    equal(bench.db.value("select count(*) from acp.leadscoring_questions where tenant_id = :'id'", id=tenant.id), 0,
          "rows")
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")


def test_scores(bench):
    """Contract 3: a score is the sum of weight x feature, and leads keep their order. It is billed by the row; quantity
    is the number of leads."""
    key = bench.onboard().key
    weights = {"visits": 0.5, "size": 0.25, "age": -2}
    leads = [{"id": "a", "features": {"visits": 12, "size": 250}}, {"id": "ß", "features": {"age": 1.5, "unknown": 99}},
             {"id": "a", "features": {}}]
    wanted = [{"id": "a", "score": 68.5}, {"id": "ß", "score": -3}, {"id": "a", "score": 0}]
    reply = succeeded(bench.call(key, SCORE, {"weights": weights, "leads": leads}))
    equal(reply.data, {"scores": wanted}, "scores")
    bench.audit(reply, billing_unit="row", billing_quantity=3, billable=True)
    model = succeeded(bench.call(key, CREATE, {"name": "m", "model_type": "linear", "weights": weights})).data
    by_model = succeeded(bench.call(key, SCORE, {"model_id": model["model_id"], "leads": leads}))
    equal(by_model.data, {"scores": wanted}, "scores by model")
    bench.audit(by_model, billing_unit="row", billing_quantity=3, billable=True)


def test_score_errors(bench):
    """Contract 3: params are checked against the action's JSON Schema; field is the pointer to the first fault."""
    key = bench.onboard().key
    lead = {"id": "l", "features": {"a": 1}}
    cases = [(None, "/params/leads"), ({"leads": [lead]}, "/params"),
             ({"leads": [lead], "weights": {}, "model_id": str(uuid.uuid4())}, "/params"),
             ({"leads": [], "weights": {}}, "/params/leads"), ({"leads": [lead] * 101, "weights": {}}, "/params/leads"),
             ({"leads": {}, "weights": {}}, "/params/leads"),
             ({"leads": [lead], "weights": {"a": "1"}}, "/params/weights/a"),
             ({"leads": [lead], "weights": {"a/b~c": None}}, "/params/weights/a~1b~0c"),
             ({"leads": [lead, {"id": "x"}], "weights": {}}, "/params/leads/1/features"),
             ({"leads": [{"id": "x", "features": {"f": True}}], "weights": {}}, "/params/leads/0/features/f"),
             ({"leads": [lead], "model_id": "not-a-uuid"}, "/params/model_id"),
             ({"leads": [{"id": "l", "features": {"a": 1e308}}], "weights": {"a": 1e308}}, "/params/leads/0/features")]
    for params, field in cases:
        reply = refused(bench.call(key, SCORE, params), 400, "VALIDATION_ERROR", field)
        bench.audit(reply, status="error", billable=False, pack="domain.leadscoring")
    equal(bench.usage(key)["calls_used"], 0, "calls_used")


def test_param_names_in_any_script(bench):
    """Contract 2: long names in any script get 400 with a field, not a broken reply."""
    key = bench.onboard().key
    for name in ["é" * 200, "a" + "é" * 200, "ab" + "字" * 200, "abc" + "😀" * 100, "/~" * 100]:
        for params in ({name: 1}, {"leads": [{"id": "l", "features": {name: "x"}}], "weights": {}}):
            reply = refused(bench.call(key, SCORE, params), 400, "VALIDATION_ERROR")
            check(reply.json["field"].startswith("/params/"), "field\n%s" % reply)
            bench.audit(reply, status="error", error_code="VALIDATION_ERROR")


def test_other_tenants_models(bench):
    """Contract 1: a tenant's model is invisible to another tenant."""
    owner, other = bench.onboard(), bench.onboard()
    model = succeeded(bench.call(owner.key, CREATE, {"name": "m", "model_type": "linear", "weights": {"a": 1}})).data
    leads = [{"id": "l", "features": {"a": 7}}]
    reply = refused(bench.call(other.key, SCORE, {"model_id": model["model_id"], "leads": leads}), 404, "NOT_FOUND")
    bench.audit(reply, tenant_id=other.id, status="error", error_code="NOT_FOUND", billable=False)
    equal(succeeded(bench.call(other.key, "domain.leadscoring.models.list")).data, [], "the other tenant's list")
    after = {"after": model["model_id"]}
    equal(succeeded(bench.call(other.key, "domain.leadscoring.models.list", after)).data, [], "after a foreign model")
    equal(bench.usage(other.key)["calls_used"], 2, "calls_used")
    succeeded(bench.call(owner.key, SCORE, {"model_id": model["model_id"], "leads": leads}))


# Dry run --------------------------------------------------------------------------------------------------------------

def dry_runs(model_id):
    questions = [{"key": "old", "text": "t"}, {"key": "new", "text": "t"}]
    return [(CREATE, {"name": "m", "model_type": "ml"}), (UPSERT, {"questions": questions}), (SCORE, SCORE_PARAMS),
            (SCORE, {"model_id": model_id, "leads": SCORE_PARAMS["leads"]})]


def prepared(bench, tenant):
    succeeded(bench.call(tenant.key, UPSERT, {"questions": [{"key": "old", "text": "t"}]}))
    return succeeded(bench.call(tenant.key, CREATE, {"name": "m", "model_type": "linear"})).data["model_id"]


def test_dry_run(bench):
    """Contract 3: a dry run returns the impact with the estimated cost (0 on the free tier). Its row is not
    billable."""
    tenant = bench.onboard()
    replies = []
    for action, params in dry_runs(prepared(bench, tenant)):
        reply = succeeded(bench.call(tenant.key, action, params, dry_run=True))
        equal((reply.json["dry_run"], set(reply.data)), (True, IMPACT), action)
        equal(reply.data["estimated_cost"], {"amount": 0, "currency": "USD"}, action + ": estimated_cost")
        check(all(isinstance(reply.data[name], list) for name in IMPACT - {"risk", "estimated_cost"}),
              "lists\n%s" % reply)
        replies.append(reply)
    bench.audit_each(replies, dry_run=True, billable=False, status="success", tenant_id=tenant.id)
    equal(len(replies[0].data["creates"]), 1, "creates of models.create")
    equal(([q["key"] for q in replies[1].data["creates"]], [q["key"] for q in replies[1].data["updates"]]),
          (["new"], ["old"]), "creates and updates of questions.upsert_bulk")
    equal(bench.usage(tenant.key)["calls_used"], 2, "calls_used")


def test_dry_run_persists_nothing(bench):
    """Contract 3: a dry run changes no table except audit_logs and the usage counters."""
    tenant = bench.onboard()
    calls = dry_runs(prepared(bench, tenant)) + [(SCORE, {"model_id": NIL, "leads": SCORE_PARAMS["leads"]})]
    changing = METERED
    before = bench.db.fingerprints(without=changing)
    check(before["acp.tenants"][0] > 0, "the fingerprints are empty")
    rows = bench.audit_count(tenant)
    for action, params in calls:
        bench.call(tenant.key, action, params, dry_run=True)
    equal(bench.db.fingerprints(without=changing), before, "tables")
    equal(bench.audit_count(tenant), rows + len(calls), "audit rows")


def test_dry_run_cost_of_paid_tenant(bench):
    """Contract 3: estimated_cost is the current cost of the real call for this tenant."""
    tenant = bench.paid_tenant()
    for action, params in [(CREATE, {"name": "m", "model_type": "ml"}), (SCORE, SCORE_PARAMS)]:
        reply = succeeded(bench.call(tenant.key, action, params, dry_run=True))
        equal(reply.data["estimated_cost"], {"amount": 0.001, "currency": "USD"}, action)
        bench.audit(reply, tier="paid", billable=False)
    equal(bench.usage(tenant.key)["cost"]["amount"], 0, "cost so far")


def test_many_dry_runs_at_once(bench):
    """Contract 3: 64 concurrent dry runs of an action that reads the database all return their cost without a long
    wait."""
    tenant = bench.onboard()
    params = {"name": "m", "model_type": "ml"}
    start = time.monotonic()
    for reply in parallel(64, lambda _: bench.call(tenant.key, CREATE, params, dry_run=True)):
        equal(set(succeeded(reply).data), IMPACT, "the impact")
    took = time.monotonic() - start
    check(took < 4.5 * slowness(), "took %.1f s: longer than a time limit" % took)


def test_dry_run_not_supported(bench):
    """Contract 3: dry_run for an action without support gets 400 with field /dry_run. dry_run false is always
    accepted."""
    key = bench.onboard().key
    for action in sorted(ACTIONS - {CREATE, UPSERT, SCORE}):
        reply = refused(bench.call(key, action, dry_run=True), 400, "VALIDATION_ERROR", "/dry_run")
        bench.audit(reply, dry_run=True, status="error", billable=False)
        succeeded(bench.call(key, action, dry_run=False))


def test_dry_run_checks_as_the_call(bench):
    """Contract 3: a dry run is refused for the same reasons as the real call."""
    key = bench.onboard().key
    refused(bench.call(key, CREATE, {"name": "m"}, dry_run=True), 400, "VALIDATION_ERROR", "/params/model_type")
    refused(bench.call(key, SCORE, {"model_id": NIL, "leads": SCORE_PARAMS["leads"]}, dry_run=True), 404, "NOT_FOUND")
    twice = [{"key": "k", "text": "t"}] * 2
    refused(bench.call(key, UPSERT, {"questions": twice}, dry_run=True), 400, "VALIDATION_ERROR", "/params/questions")


# Audit: hash, redaction, trace, idempotency key -----------------------------------------------------------------------

def test_request_hash_vector(bench):
    """Contract 3: request_hash equals the contract's test vector, even if the action does not exist."""
    key = bench.onboard().key
    body = '{ "params": {"scopes": ["manage.read"], "name": "x"},\n "action": "iam.keys.create" }'
    reply = bench.send("POST", MANAGE, body, key=key)
    bench.audit(reply, request_hash="d420257864cda533397b394401719e2cf0820dd88d132e8d83d38469eee28bfc")


def test_request_hash_vectors_of_json(bench):
    """Contract 3: {} and {"a":1} have the hashes of the contract, although they are refused."""
    for body, digest in [("{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
                         ('{"a":1}', "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862")]:
        bench.audit(refused(bench.send("POST", MANAGE, body), 400, "VALIDATION_ERROR"), request_hash=digest)


def test_request_hash_canonical_form(bench):
    """RFC 8785: numbers, escapes and the order of names (by UTF-16) are as in the RFC's examples."""
    key = bench.onboard().key
    cases = [(r'{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
              r'"string":"\u20ac$\u000F\u000aA' + "'" + r'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}',
              '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
              '"string":"€$\\u000f\\nA' + "'" + 'B\\"\\\\\\\\\\"/"}'),
             ('{"\\u20ac":1,"\\r":2,"\\ufb33":3,"1":4,"\\ud83d\\ude00":5,"\\u0080":6,"\\u00f6":7}',
              '{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}'),
             ('{"n":[-0,0.0,1.0,1e20,1e21,123e-20,9007199254740992,-1.5e-7,5e-324]}',
              '{"n":[0,0,1,100000000000000000000,1e+21,1.23e-18,9007199254740992,-1.5e-7,5e-324]}')]
    for sent, canonical in cases:
        reply = refused(bench.send("POST", MANAGE, '{"params":%s,"action":"x"}' % sent, key=key), 404, "NOT_FOUND")
        whole = '{"action":"x","params":%s}' % canonical
        bench.audit(reply, request_hash=hashlib.sha256(whole.encode()).hexdigest())


def test_request_hash_redaction(bench):
    """Contract 3: the hash uses [REDACTED] for values of credential names and for text that looks like a credential."""
    tenant = bench.onboard()
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    names = ["authorization", "Cookie", "X-API-Key", "api_key", "apiKey", "APIKEY", "token", "access_token",
             "refresh-token",
             "client_secret", "secret", "Secret_Key", "webhook_secret", "password", "passwd", "pwd", "private_key",
             "session_id", "auth_token", "bearer", "credential", "Credentials"]
    sent = {name: value for name, value in zip(names, ["v", 5, None, True, ["v"], {"a": "v"}] * 4)}
    sent.update(nested={"list": [{"password": "p", "kept": 1}]}, passwordless="kept", token_count=5, monkey="kept",
                text="send Bearer abc.DEF-1 to me", keys="sk_live_%s, whsec_%s" % ("a" * 24, "b" * 24),
                own="it is %s!" % tenant.key, jwt="jwt " + jwt, plain="nothing here")
    clean = {name: REDACTED for name in names}
    clean.update(nested={"list": [{"password": REDACTED, "kept": 1}]}, passwordless="kept", token_count=5,
                 monkey="kept",
                 text="send %s to me" % REDACTED, keys="%s, %s" % (REDACTED, REDACTED), own="it is %s!" % REDACTED,
                 jwt="jwt " + REDACTED, plain="nothing here")
    reply = refused(bench.call(tenant.key, "no.such", sent), 404, "NOT_FOUND")
    row = bench.audit(reply, request_hash=canonical_hash({"action": "no.such", "params": clean}))
    check("kept" not in json.dumps(row), "the row shows the payload: %s" % row)


def test_request_hash_ignores_the_secret(bench):
    """Contract 3: two calls that differ only in a secret's value have the same hash; any other difference changes
    it."""
    key = bench.onboard().key
    hashes = [bench.audit(bench.call(key, "no.such", params))["request_hash"] for params in
              ({"password": "a", "n": 1}, {"password": "b", "n": 1}, {"password": "a", "n": 2})]
    check(hashes[0] == hashes[1] != hashes[2], "hashes %s" % hashes)


def test_trace_id(bench):
    """Contract 3: trace_id is the trace-id of a valid traceparent; anything else is ignored."""
    key = bench.onboard().key
    trace, form = uuid.uuid4().hex, "00-%s-00f067aa0ba902b7-01"
    cases = [(form % trace, trace), (form % ("0" * 32), None), (form % ("g" * 32), None), ("00-%s-01" % trace, None),
             ("garbage", None), ("x" * 55, None)]
    for value, wanted in cases:
        bench.audit(succeeded(bench.call(key, "meta.version", None, {"traceparent": value})), trace_id=wanted)


def test_idempotency_key_forms(bench):
    """Contract 3: header and member are equivalent, and must agree if both are given. The row has the key."""
    key = bench.onboard().key
    name = str(uuid.uuid4())
    for header, member in [(name, None), (None, name), (name, name)]:
        headers = {"Idempotency-Key": header} if header else {}
        members = {"idempotency_key": member} if member else {}
        reply = succeeded(bench.call(key, "meta.version", None, headers, **members))
        bench.audit(reply, idempotency_key=name)
    reply = bench.call(key, "meta.version", None, {"Idempotency-Key": name}, idempotency_key="other")
    refused(reply, 400, "VALIDATION_ERROR", "/idempotency_key")
    bench.audit(reply, status="error")
    for bad in ["x" * 256, "schl\u00fcssel"]:
        refused(bench.call(key, "meta.version", None, {"Idempotency-Key": bad}), 400, "VALIDATION_ERROR",
                "/idempotency_key")
    longest = (name + "x" * 255)[:255]
    bench.audit(succeeded(bench.call(key, "meta.version", idempotency_key=longest)), idempotency_key=longest)


def test_concurrent_upserts(bench):
    """Contract 3: concurrent overlapping bulks neither deadlock nor lose a question."""
    key = bench.onboard().key
    names = ["k%02d" % n for n in range(40)]

    def upsert(number):
        order = names[number:] + names[:number]
        return bench.call(key, UPSERT, {"questions": [{"key": k, "text": "t%d" % number} for k in order]})

    for reply in parallel(12, upsert):
        succeeded(reply)
    listed = succeeded(bench.call(key, "domain.leadscoring.questions.list", {"limit": 200})).data
    equal([q["key"] for q in listed], names, "questions")
    equal(len({q["text"] for q in listed}), 1, "bulks whose questions remain")
