"""An agent that knows only the address finds: /llms.txt, the API catalog, and errors that name the next step."""

import json
import re
import uuid

from client import CODES, refused, succeeded
from checks import check, equal


def text_of(bench, path="/llms.txt"):
    """The text of a document, not through bench.send because it has no request_id."""
    reply = bench.http.request("GET", path, None, [])
    equal((reply.status, reply.header("Content-Type")), (200, "text/plain; charset=utf-8"), "status and type")
    check(reply.header("X-Request-Id"), "no X-Request-Id")
    return reply.body.decode()


def test_llms_names_everything(bench):
    """llms.txt is generated from the registry: it lists every action and every error code, in a form that tools
    parse."""
    text = text_of(bench)
    lines = text.splitlines()
    check(lines[0].startswith("# ") and lines[2].startswith("> "), "no title and summary:\n%s" % text[:200])
    equal([line for line in lines if line.startswith("#")][1:],
          ["## Get an API key", "## Call an action", "## When a call fails", "## Actions", "## More"], "sections")
    listed = {match.group(1): match.group(0) for match in re.finditer(r"^- ([a-z_.]+) \(scope .*$", text, re.M)}
    reply = succeeded(bench.call(bench.onboard().key, "meta.actions"))
    actions = {action["name"]: action for action in reply.data["actions"]}
    equal(set(listed), set(actions), "actions")
    for name, action in actions.items():
        line = listed[name]
        check(line.endswith(action["description"]) and action["scope"] in line, line)
        equal(", billable per " in line, action["billable"], "billed: " + line)
    errors = dict(re.findall(r"^- ([A-Z_]+) \((\d+)(?:, repeat)?\): \S", text, re.M))
    equal({code: int(status) for code, status in errors.items()}, CODES, "codes")
    check(len(text) < 12000, "%d characters are too long" % len(text))


def test_a_stranger_finds_the_way(bench):
    """The text alone is enough: its example requests, with placeholders filled in, onboard a tenant and make a call."""
    text = text_of(bench)
    url, body = re.search(r"POST (\S+/api/onboard/\S+)\n.*?\n\n    (\{.*\})\n", text).groups()
    check(url.startswith(bench.stack.url), "onboarding at %s" % url)
    body = body.replace("<a name you choose>", bench.agent_id()).replace("<your human's>", "human@example.com")
    reply = bench.onboard_reply(body, {"Idempotency-Key": str(uuid.uuid4())}, url[len(bench.stack.url):])
    key = succeeded(reply, 201).json["api_key"]
    url, body = re.search(r"POST (\S+/api/manage)\n.*?\n\n    (\{.*\})\n", text, re.S).groups()
    reply = succeeded(bench.send("POST", url[len(bench.stack.url):], body, key=key))
    check(reply.data["actions"], "no actions")
    url = re.search(r"GET (\S+/api/usage)", text).group(1)
    equal(succeeded(bench.get(url[len(bench.stack.url):], key)).json["calls_used"], 0, "used")


def test_catalog(bench):
    """RFC 9727: the API catalog is a linkset whose links all work; only GET and HEAD are allowed."""
    reply = bench.http.request("GET", "/.well-known/api-catalog", None, [])
    equal((reply.status, reply.header("Content-Type")),
          (200, 'application/linkset+json; profile="https://www.rfc-editor.org/info/rfc9727"'), "status and type")
    links = json.loads(reply.body.decode())["linkset"]
    equal([entry["anchor"] for entry in links], [bench.stack.url + "/api"], "anchors")
    equal(set(links[0]) - {"anchor"}, {"service-desc", "service-doc", "service-meta", "status"}, "relations")
    for relation in set(links[0]) - {"anchor"}:
        for link in links[0][relation]:
            target = bench.http.request("GET", link["href"][len(bench.stack.url):], None, [])
            equal((target.status, bool(link["type"])), (200, True), "%s %s" % (relation, link["href"]))
    for path in ("/.well-known/api-catalog", "/llms.txt"):
        refused(bench.send("POST", path, {}), 405, "METHOD_NOT_ALLOWED")
        head = bench.http.request("HEAD", path, None, [])
        equal((head.status, head.body), (200, b""), "HEAD " + path)


# The words in an error's message that tell an agent its next step.
NEXT_STEPS = [("meta.nothing", {}, 404, "NOT_FOUND", "meta.actions"),
              ("iam.keys.revoke", {"api_key_id": str(uuid.uuid4())}, 404, "NOT_FOUND", "iam.keys.list"),
              ("webhooks.delete", {"webhook_id": str(uuid.uuid4())}, 404, "NOT_FOUND", "webhooks.list"),
              ("domain.leadscoring.scores.compute",
               {"model_id": str(uuid.uuid4()), "leads": [{"id": "a", "features": {"x": 1}}]},
               404, "NOT_FOUND", "models.list")]


def test_errors_tell_the_next_step(bench):
    """The message of an error says what to do: which action lists the valid names, which key to send, whom to ask."""
    tenant = bench.onboard()
    for action, params, status, code, step in NEXT_STEPS:
        reply = refused(bench.call(tenant.key, action, params), status, code)
        check(step in reply.json["error"], "%s: no %s\n%s" % (action, step, reply))
    check("onboarding" in refused(bench.call(None, "meta.version"), 401, "INVALID_API_KEY").json["error"], "401")
    check("/llms.txt" in refused(bench.get("/api"), 404, "NOT_FOUND").json["error"],
          "the error of an unknown path does not name /llms.txt")
    body = {"agent_id": tenant.agent_id, "email": "agent@example.com"}
    taken = refused(bench.onboard_reply(body), 409, "ALREADY_ONBOARDED")
    check("another agent_id" in taken.json["error"], "409\n%s" % taken)
    key, _ = bench.make_key(tenant, "manage.read")
    denied = bench.call(key, "domain.leadscoring.models.create", {"name": "x", "model_type": "linear"})
    refused(denied, 403, "SCOPE_DENIED")
    check("manage.domain" in denied.json["error"] and "a key that has it" in denied.json["error"], "403\n%s" % denied)
    dry = refused(bench.call(tenant.key, "meta.version", dry_run=True), 400, "VALIDATION_ERROR", "/dry_run")
    check("leave it out" in dry.json["error"], "400\n%s" % dry)
