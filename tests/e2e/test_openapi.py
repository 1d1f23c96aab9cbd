"""GET /api/openapi.json: contract 2.1 (OpenAPI 3.1, generated from the registry)."""

import json
import re

from client import CODES, MANAGE, refused, succeeded
from checks import check, equal
from hub import Hub

# Paths that exist with any settings.
ALWAYS = {"/api/manage": {"post"}, "/api/usage": {"get"}, "/api/upgrade/checkout": {"get", "post"},
          "/api/openapi.json": {"get"}, "/llms.txt": {"get"}, "/.well-known/api-catalog": {"get"}, "/console": {"get"},
          "/metrics": {"get"}, "/healthz": {"get"}, "/readyz": {"get"},
          "/api/onboard/{product}": {"post"}}
METHODS = {"get", "post", "put", "delete", "patch", "head", "options", "trace"}


def document(bench):
    """The document, not through bench.send because it is the one JSON reply whose request_id is only in the header."""
    reply = bench.http.request("GET", "/api/openapi.json", None, [])
    equal((reply.status, reply.header("Content-Type")), (200, "application/json"), "status and type")
    check(reply.header("X-Request-Id"), "no X-Request-Id")
    return reply.json


def actions_of(bench):
    return succeeded(bench.call(bench.onboard().key, "meta.actions")).data["actions"]


def nodes(value):
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def resolve(doc, reference):
    check(reference.startswith("#/"), "the reference leaves the document: %s" % reference)
    found = doc
    for part in reference[2:].split("/"):
        check(part in found, "the target of %s does not exist" % reference)
        found = found[part]
    return found


def operations(doc):
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            check(method in METHODS, "%s: %s is not a method" % (path, method))
            yield path, method, operation


def test_form(bench):
    """Contract 2.1: the document has the members that OpenAPI 3.1 requires, unique operation ids and valid
    references."""
    doc = document(bench)
    check(re.fullmatch(r"3\.1\.\d+", doc["openapi"]), "openapi: %s" % doc["openapi"])
    check({"title", "version"} <= set(doc["info"]), "info: %s" % doc["info"])
    check(set(doc) <= {"openapi", "info", "servers", "tags", "paths", "components"}, "members: %s" % sorted(doc))
    equal(doc["servers"][0]["url"], bench.stack.url, "server")
    for node in nodes(doc):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            resolve(doc, node["$ref"])
    ids = [operation["operationId"] for _, _, operation in operations(doc)]
    equal(sorted(set(ids)), sorted(ids), "operation ids")
    tags = {tag["name"] for tag in doc["tags"]}
    for path, method, operation in operations(doc):
        where = "%s %s" % (method, path)
        check(operation["summary"] and set(operation["tags"]) <= tags, "%s: summary, tags" % where)
        for status, response in operation["responses"].items():
            check(re.fullmatch(r"[2-5]\d\d", status), "%s: status %s" % (where, status))
            check(resolve(doc, response["$ref"]) if "$ref" in response else response["description"], "%s: %s" % (where, status))
        for requirement in operation["security"]:
            check(set(requirement) <= set(doc["components"]["securitySchemes"]), "%s: %s" % (where, requirement))
        named = set(re.findall(r"{(\w+)}", path))
        given = {p["name"] for p in operation.get("parameters", []) if p.get("in") == "path" and p["required"] is True}
        equal(given, named, "%s: path parameters" % where)
    for name in (name for kind in doc["components"].values() for name in kind):
        check(re.fullmatch(r"[A-Za-z0-9._-]+", name), "component %s" % name)


def test_paths_are_those_that_exist(bench):
    """Contract 2.1, 2.2: exactly the paths that exist are described, with their methods."""
    Hub(bench)  # skips the test without a kernel key; with one, the paths of the hub exist
    doc = document(bench)
    found = {path: set(item) for path, item in doc["paths"].items()}
    for path, methods in ALWAYS.items():
        equal(found.get(path), methods, path)
    hub = [path for path in found if path.startswith("/functions/v1/")]
    check(len(hub) >= 9, "paths of the hub: %s" % hub)
    for path, methods in found.items():
        for method in {"get", "post"} - methods:
            reply = bench.send(method.upper(), path.replace("{product}", "leadscoring"), {} if method == "post" else None)
            check(reply.status in (401, 405), "%s %s is not described but answered %d" % (method, path, reply.status))
        for method in methods:
            reply = bench.http.request(method.upper(), path.replace("{product}", "leadscoring"),
                                       b"{}" if method == "post" else None, [("Content-Type", "application/json")])
            codes = doc["paths"][path][method]["responses"]
            check(str(reply.status) in codes, "%s %s answered %d, which is not described" % (method, path, reply.status))


def test_actions_are_those_of_meta_actions(bench):
    """Contract 2.1: the actions, schemas, scopes and billing members are the same as those of meta.actions."""
    doc = document(bench)
    schemas = doc["components"]["schemas"]
    actions = {action["name"]: action for action in actions_of(bench)}
    mapping = schemas["Call"]["discriminator"]["mapping"]
    equal(set(mapping), set(actions), "actions")
    equal(sorted(one["$ref"] for one in schemas["Call"]["oneOf"]), sorted(mapping.values()), "oneOf")
    for name, action in actions.items():
        call = resolve(doc, mapping[name])
        equal(call["properties"]["action"], {"const": name}, "action")
        equal(call["properties"]["params"], action["params_schema"], "params of " + name)
        equal(call["description"], action["description"], "description of " + name)
        equal(call["x-action"], {member: action[member] for member in ("scope", "supports_dry_run", "billable", "billing_unit",
                                                                         "max_quantity")},
              "x-action of " + name)
        equal(call["properties"]["dry_run"].get("const"), None if action["supports_dry_run"] else False, "dry_run of " + name)
        equal("params" in call["required"], bool(action["params_schema"].get("required")), "params required by " + name)
    body = doc["paths"][MANAGE]["post"]["requestBody"]["content"]["application/json"]["schema"]
    equal(body, {"$ref": "#/components/schemas/Call"}, "body of the router")


def test_errors_are_the_contract_s(bench):
    """Contract 2: Error lists every code. The response of each status has an example for each of its codes."""
    doc = document(bench)
    equal(sorted(doc["components"]["schemas"]["Error"]["properties"]["code"]["enum"]), sorted(CODES), "codes")
    for name, response in doc["components"]["responses"].items():
        status = int(name[len("Error"):])
        examples = response["content"]["application/json"]["examples"]
        equal(set(examples), {code for code, http in CODES.items() if http == status}, "codes of %d" % status)
        for code, example in examples.items():
            value = example["value"]
            equal((value["ok"], value["code"], bool(value["error"])), (False, code, True), "example of " + code)
    real = refused(bench.call(None, "meta.version"), 401, "INVALID_API_KEY").json
    shown = doc["components"]["responses"]["Error401"]["content"]["application/json"]["examples"]["INVALID_API_KEY"]["value"]
    equal((real["error"], set(real)), (shown["error"], set(shown)), "a real error")


def test_methods_and_stability(bench):
    """Contract 2: only GET and HEAD are allowed. Every process returns the same document."""
    refused(bench.send("POST", "/api/openapi.json", {}), 405, "METHOD_NOT_ALLOWED")
    texts = {json.dumps(document(bench), sort_keys=True) for _ in range(8)}
    equal(len(texts), 1, "different documents")
    head = bench.http.request("HEAD", "/api/openapi.json", None, [])
    equal((head.status, head.body), (200, b""), "HEAD")
