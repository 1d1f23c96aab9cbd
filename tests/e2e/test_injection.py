"""Puts SQL and JSON into every string that the program accepts: every string of every action's schema and of every
request in the OpenAPI description. The tests find the strings by walking these, so new ones are tested automatically.

Signs that a text was interpreted as code: a sequence that counts every evaluation of SQL, even one that is rolled back;
a member that exists only in a text becomes a real one; a log line begins in the middle of another.
"""

import contextlib
import copy
import re
import uuid

from client import MANAGE, NIL, succeeded
from checks import check, equal, spread
from hub import Hub
from test_isolation import WITH_IDS, PLAIN, Victim

MEMBER = "injected_member"
TELLTALE = "nextval('public.acp_injected')"
SQL = ["'||%s||'", "'; select %s; --", "') ; select %s; --", "\\'||%s||\\'", "$$||%s||$$", "\"||%s||\"", "%s",
       "{%s}", "' or %s > 0 or '", "/* */ %s", "%%' and %s::text like '%%"]
JSON = ['","%s":"x' % MEMBER, '"},"%s":{"a":"' % MEMBER, '\\","%s":"x' % MEMBER, '"],"%s":["' % MEMBER,
        "\",\"tier\":\"paid\",\"%s\":\"" % MEMBER]
# Texts with a special meaning for formats, printf, terminals, shells, paths, templates and PostgreSQL's types.
OTHER = ["%s%n%n%x", "\x1b[31mred\x1b[0m", "a\r\nX-Injected: 1\r\n\r\nb",
         "a\n2026-11-22T00:00:00.000Z info [1] forged=1", "$(touch /tmp/x)`id`", "../../../etc/passwd",
         "{{7*7}}${7*7}<%= 7 %>", "<script>alert(1)</script>", "\u202e\u2028\ufeff", "infinity", "now",
         "9999-12-31T23:59:60Z", "0000-00-00T00:00:00Z", "2026-02-30T25:61:61+99:99", "1e400", "NULL",
         "{00000000-0000-0000-0000-000000000000}", "9999999999999999." + NIL, "\U0001f4a9" * 20, "'" * 60, "\\" * 60]
TEXTS = [text % TELLTALE for text in SQL] + JSON + OTHER
# Values that the hub's endpoints need to reach their SQL statements. All other values come from the schemas.
FORMATS = {"uuid": lambda: str(uuid.uuid4()), "agent_id": lambda: "inject-%s" % uuid.uuid4(),
           "email": lambda: "x@example.com", "date-time": lambda: "2026-11-01T00:00:00Z"}
PATTERNS = {"period": "2026-11", "period_start": "2026-11-01", "period_end": "2026-12-01", "request_hash": "0" * 64,
            "cursor": "1." + NIL, "action": "a.b", "locale": "de", "from": "09:00", "to": "17:00",
            "events": "key.*"}


# Walking schemas ---------------------------------------------------------------------------------------------------

def resolved(schema, document):
    while "$ref" in schema:
        schema = part_of(document, schema["$ref"][2:].split("/"))
    for choice in ("oneOf", "anyOf"):
        if choice in schema:
            return resolved(schema[choice][0], document)
    return schema


def part_of(value, path):
    for step in path:
        value = value[step]
    return value


def kind_of(schema):
    kinds = schema.get("type", "object")
    return kinds if isinstance(kinds, str) else kinds[0]


def sample(schema, document, name=""):
    """The smallest value that the schema allows."""
    schema = resolved(schema, document)
    if "enum" in schema:
        return schema["enum"][0]
    kind = kind_of(schema)
    if kind == "object":
        return {member: sample(schema["properties"][member], document, member) for member in schema.get("required", [])}
    if kind == "array":
        return [sample(schema["items"], document, name)] * schema.get("minItems", 0)
    if kind == "string":
        return FORMATS.get(schema.get("format") or name, lambda: PATTERNS.get(name, "x"))()
    return {"integer": max(1, schema.get("minimum", 1)), "number": 1, "boolean": True}[kind]


def strings_of(schema, document, path=()):
    """Yields the path of every string: names of members and numbers of items, KEY for the names of a map."""
    schema = resolved(schema, document)
    kind = kind_of(schema)
    if kind == "string":
        yield path
    elif kind == "array":
        yield from strings_of(schema["items"], document, path + (0,))
    elif kind == "object":
        for name, member in schema.get("properties", {}).items():
            yield from strings_of(member, document, path + (name,))
        rest = schema.get("additionalProperties", True)
        if rest is not False:
            yield path + (KEY,)
            yield from strings_of(rest if rest is not True else {"type": "string"}, document, path + ("any",))


KEY = object()


def planted(base, schema, path, text, document):
    """A copy of base with the text at the path. Missing parts of the path are created from the schema."""
    if not path:
        return text
    schema = resolved(schema, document)
    value = copy.deepcopy(base)
    step = path[0]
    if kind_of(schema) == "array":
        inner = value[0] if value else sample(schema["items"], document)
        return [planted(inner, schema["items"], path[1:], text, document)]
    value = value if isinstance(value, dict) else {}
    if step is KEY:
        rest = schema.get("additionalProperties", True)
        value[text] = sample(rest, document) if isinstance(rest, dict) else "x"
        return value
    member = schema.get("properties", {}).get(step) or schema.get("additionalProperties", True)
    member = member if isinstance(member, dict) else {"type": "string"}
    value[step] = planted(value.get(step, sample(member, document, step)), member, path[1:], text, document)
    return value


def shown(path):
    return "/" + "/".join("(name)" if step is KEY else str(step) for step in path)


# Signs of injection ------------------------------------------------------------------------------------------------

def members_of(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from members_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members_of(inner)


def harmless(reply, what):
    """Checks that the reply is no failure of the program, and has no header or member that was only in a text."""
    unpaid = reply.status == 503 and "payments" in reply.json["error"]  # Stripe is not configured
    check(reply.status < 500 or unpaid, "%s: a failure of the program\n%s" % (what, reply))
    check(reply.header("X-Injected") is None, "%s: a header from a text\n%s" % (what, reply))
    if reply.body and "json" in (reply.header("Content-Type") or ""):
        check(MEMBER not in members_of(reply.json), "%s: a member from a text\n%s" % (what, reply))
    return reply


LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warning|info|debug) \[\d+\] \w+=|\{\"ts\":\").*")


def log_is_whole(text):
    """Checks that the program began every line, and that none has control characters."""
    for line in text.splitlines():
        check(LOG_LINE.fullmatch(line) or not line, "not a line of the program's log: %r" % line[:300])
        check(not any(ord(c) < 32 or ord(c) == 127 for c in line), "control characters in the log: %r" % line[:300])


@contextlib.contextmanager
def nothing_taken_for_code(bench):
    """Checks that no SQL in a text ran, no JSON in a text became a stored member, and no row of another tenant
    changed."""
    bench.db.execute("drop sequence if exists public.acp_injected; create sequence public.acp_injected; "
                     "grant usage on sequence public.acp_injected to public")
    victim = Victim(bench)
    relations = "select count(*) from pg_class where relnamespace::regnamespace::text !~ '^pg_(toast|temp)'"
    before = bench.db.value(relations)
    at = len(read_log(bench))
    try:
        with victim.untouched(bench):
            yield
        equal(bench.db.value("select is_called from public.acp_injected"), False, "SQL in a text was evaluated")
        equal(bench.db.value(relations), before, "tables, indexes, sequences")
        equal(stored_members(bench), [], "columns with a member that was only in a text")
        log_is_whole(read_log(bench)[at:])
    finally:
        bench.db.execute("drop sequence public.acp_injected")


def stored_members(bench):
    """The JSON columns that have the member at any depth."""
    columns = bench.db.rows("select format('%I.%I', table_schema, table_name) as t, quote_ident(column_name) as c from "
                            "information_schema.columns join information_schema.tables using (table_schema, "
                            "table_name) where data_type in ('json', 'jsonb') and table_type = 'BASE TABLE' and "
                            "table_schema = 'acp'")
    check(len(columns) > 10, "JSON columns: %s" % columns)
    asked = ["select '%(t)s.%(c)s' as place from %(t)s where %(c)s::jsonb @? '$.**.%(m)s'" % {**row, "m": MEMBER}
             for row in columns]
    return bench.db.rows(" union all ".join(asked))


def read_log(bench):
    if not bench.stack.log:
        return ""
    with open(bench.stack.log, encoding="utf-8", errors="replace", newline="\n") as file:
        return file.read()


# The tests ---------------------------------------------------------------------------------------------------------

def test_the_sequence_would_tell(bench):
    """The counterpart: if the program's role evaluates a text that is SQL, the sequence advances."""
    bench.db.execute("drop sequence if exists public.acp_injected; create sequence public.acp_injected; "
                     "grant usage on sequence public.acp_injected to public")
    try:
        equal(bench.db.as_role("acp_app").sqlstates(["begin", "select 'x" + TEXTS[0] + "'", "rollback"]), ["00000"] * 3,
              "SQLSTATE")
        equal(bench.db.value("select is_called from public.acp_injected"), True, "is_called")
    finally:
        bench.db.execute("drop sequence public.acp_injected")


def bases(bench):
    """A tenant, and params for each action with which it succeeds, from the tables that test_isolation keeps
    complete."""
    own = Victim(bench)
    found = dict(PLAIN)
    for name, member, kind, more in WITH_IDS:
        found.setdefault(name, {**more, member: own.ids[kind]})
    return own.tenant, found


def texts_for(schema, path):
    """All texts, or fewer if the schema allows only a word of a list or a UUID."""
    at = schema
    for step in path:
        at = at.get("items", {}) if step == 0 else at.get("properties", {}).get(step, {})
    return TEXTS[::7] if "enum" in at or at.get("format") == "uuid" else TEXTS


def test_actions(bench):
    """SQL, JSON, format and control characters in any string of any action stay text, or the reply is 400."""
    tenant, params = bases(bench)
    bench.stack.ctl("tenant", "update", tenant.id, "--tier", "paid", "--payment-method", "active")
    bench.db.execute("update acp.api_keys set rate_limit = 1000000 where tenant_id = :'id'", id=tenant.id)
    actions = succeeded(bench.call(tenant.key, "meta.actions")).data["actions"]
    calls = []
    for entry in actions:
        schema = entry["params_schema"]
        for path in strings_of(schema, {}):
            calls += [(entry, path, text, planted(params[entry["name"]], schema, path, text, {}))
                      for text in texts_for(schema, path)]
    with nothing_taken_for_code(bench):
        replies = spread(4, calls, lambda call: try_call(bench, tenant.key, *call))
    places = {(entry["name"], shown(path)) for entry, path, _, _ in calls}
    # A successful dry run has passed the schema, the handler and its statements.
    reached = {(entry["name"], shown(path)) for (entry, path, _, _), reply in zip(calls, replies)
               if reply.status == 200}
    check(len(reached) > 10, "too few strings accepted the texts: %s" % reached)
    bench.audit_each(replies)
    bench.outcome = "%d calls, %d strings of %d actions; %d strings accepted texts" % (
        len(calls), len(places), len(actions), len(reached))


def try_call(bench, key, entry, path, text, params):
    dry = {"dry_run": True} if entry["supports_dry_run"] else {}
    return harmless(bench.call(key, entry["name"], params, **dry), "%s %s %r" % (entry["name"], shown(path), text))


def test_stored_and_shown(bench):
    """The same texts in real calls: the lists return what was sent."""
    tenant = bench.paid_tenant()
    with nothing_taken_for_code(bench):
        questions = [{"key": "q%d" % n, "text": text} for n, text in enumerate(TEXTS)]
        succeeded(bench.call(tenant.key, "domain.leadscoring.questions.upsert_bulk", {"questions": questions}))
        metadata = {"%d %s" % (n, text): text for n, text in enumerate(TEXTS)}
        succeeded(bench.call(tenant.key, "settings.update", {"settings": {"metadata": metadata}}))
        weights = {"%d %s" % (n, text): 1 for n, text in enumerate(TEXTS)}
        for n, text in enumerate(TEXTS):
            model = {"name": text, "model_type": "linear", "description": text, "weights": weights if not n else {}}
            succeeded(bench.call(tenant.key, "domain.leadscoring.models.create", model))
        listed = harmless(bench.call(tenant.key, "domain.leadscoring.questions.list", {"limit": 200}), "questions").data
        equal({q["key"]: q["text"] for q in listed}, {q["key"]: q["text"] for q in questions}, "questions")
        got = harmless(bench.call(tenant.key, "settings.get"), "settings").data
        equal(got["metadata"], metadata, "metadata")
        models = harmless(bench.call(tenant.key, "domain.leadscoring.models.list", {"limit": 200}), "models").data
        equal(sorted(model["name"] for model in models), sorted(TEXTS), "names of models")


def test_envelope_and_headers(bench):
    """The same texts in the router's own strings (action, idempotency_key, names of members) and in stored headers."""
    tenant = bench.paid_tenant()
    printable = [text for text in TEXTS if all(" " <= c <= "~" for c in text)]
    with nothing_taken_for_code(bench):
        replies = []
        for text in TEXTS:
            replies += [bench.call(tenant.key, text), bench.call(tenant.key, "meta.version", idempotency_key=text),
                        bench.call(tenant.key, "meta.version", {text: 1}),
                        bench.send("POST", MANAGE, {"action": "meta.version", text: 1}, key=tenant.key)]
        for text in printable:
            for name in ("Idempotency-Key", "traceparent", "X-Forwarded-For", "User-Agent", "Accept", "X-Request-Id",
                         "Forwarded", "Cookie", "Origin"):
                replies.append(bench.call(tenant.key, "meta.version", headers={name: text}))
            replies.append(bench.call(text, "meta.version"))
            replies.append(bench.call(None, "meta.version", headers={"Authorization": "Bearer " + text}))
        for reply in replies:
            harmless(reply, "the envelope or a header")
        bench.audit_each(replies)


def requests_of(document):
    """Yields (path, method, operation) of every described request that has parameters or a body."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation or operation.get("parameters"):
                yield path, method.upper(), operation


def test_endpoints(bench):
    """The same texts in every body member, path segment and query parameter of the OpenAPI description, for agents and
    for kernels."""
    hub, tenant = Hub(bench), bench.paid_tenant()
    document = bench.http.request("GET", "/api/openapi.json", None, []).json
    keys = {"kernelKey": [("Authorization", "Bearer " + hub.key)], "apiKey": [("X-API-Key", tenant.key)]}
    calls = []
    for path, method, operation in requests_of(document):
        names = {name for each in operation.get("security", []) for name in each}
        headers = next((keys[name] for name in keys if name in names), [])
        if operation.get("requestBody"):
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            base = sample(schema, document)
            if "tenant_id" in base:
                base["tenant_id"] = tenant.id
            target = path.replace("{product}", "leadscoring")
            more = [("Idempotency-Key", "inject-%s" % uuid.uuid4())] if "billing/run" in path else []
            places = list(strings_of(schema, document)) if path != MANAGE else []
            calls += [(method, target, planted(base, schema, at, text, document), headers + more, shown(at))
                      for at in places for text in TEXTS if "billing/run" not in path or shown(at) == "/period"]
        for parameter in operation.get("parameters", []):
            calls += in_parameter(parameter, path, method, headers)
    with nothing_taken_for_code(bench):
        spread(4, calls, lambda call: harmless(
            bench.send(call[0], call[1], call[2], call[3]), "%s %s %s" % (call[0], call[1], call[4])))
    check(len({(call[0], call[1].partition("?")[0]) for call in calls}) >= 15, "requests of the description")
    bench.outcome = "%d requests" % len(calls)


def in_parameter(parameter, path, method, headers):
    """Puts a text into the path or the query. test_envelope_and_headers tests headers."""
    name, where = parameter.get("name"), parameter.get("in")
    if where not in ("path", "query"):
        return []
    quoted = ["".join("%%%02X" % byte for byte in text.encode()) for text in TEXTS]
    if where == "path":
        return [(method, path.replace("{%s}" % name, text), {}, headers, name) for text in quoted]
    return [(method, "%s?%s=%s" % (path, name, text), None, headers, name) for text in quoted]
