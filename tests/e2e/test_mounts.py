"""Problems that a web server can cause, for each mount: at /, at /api and below another path. Each test is one cell of
the table in docs/servers.md, which tests/e2e/servers.py generates from the results.
"""

import contextlib
import datetime
import http.client
import json
import socket
import time
import uuid

import hub
from client import CREATE, MANAGE, SCORE, SCORE_PARAMS, Reply, refused, shortened, succeeded
from checks import check, equal, parallel, slowness, until
from stack import NOT_CHUNKED
from written import read

MAX_BYTES = 262144
MOUNTS = {"root": "/", "api": "/api", "prefix": "/acp"}
# More clients than any web server has workers.
CROWD = 48


def stack_at(mount):
    """The stack that conftest.py arranges for a test: mounted at this path, with a debug log of the variables
    received."""
    return {"settings": {"log_level": "debug", "log_format": "json"}, "mount": mount}


def head_of(bench, path, key, length=None, more=""):
    """The request line and headers of a POST, as bytes."""
    lines = ["POST %s%s HTTP/1.1" % (bench.http.prefix, path), "Host: x", "Content-Type: application/json",
             "X-API-Key: %s" % key]
    if length is not None:
        lines.append("Content-Length: %d" % length)
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1")


def connected(bench):
    return socket.create_connection((bench.http.host, bench.http.port), timeout=30)


def answer_on(connection, request):
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return Reply(shortened(request), answer.status, answer.headers, answer.read())


def effects(bench, tenant):
    """The number of audit rows of the tenant's calls."""
    return bench.tenant_rows(tenant, "action = '%s'" % CREATE)


def create_body(name, length=0):
    return json.dumps({"action": CREATE, "params": {"name": name, "model_type": "ml"}}).encode().ljust(length)


# Paths and variables --------------------------------------------------------------------------------------------------

def variables(bench, mount):
    """SCRIPT_NAME is the mount, PATH_INFO the decoded rest, REQUEST_URI the path as sent"""
    sent = bench.http.prefix + "/api/not%20there/%61?x=%20y"
    reply = bench.raw(head_of(bench, "/api/not%20there/%61?x=%20y", "none", 0))
    refused(reply, 404, "NOT_FOUND")

    def line():
        lines = [json.loads(text) for text in read(bench.stack.log).splitlines() if reply.request_id in text]
        return [fields for fields in lines if "request_uri" in fields]

    found = until(10, "the log line", line)[0]
    script = "" if mount == "/" else mount
    path = bench.http.prefix + "/api/not there/a"
    equal((found["script_name"], found["path_info"], found["request_uri"]),
          (script, path[len(script):], sent.partition("?")[0]), "SCRIPT_NAME, PATH_INFO, REQUEST_URI")


def call(bench, mount):
    """a billable call succeeds and has its audit row"""
    tenant = bench.onboard()
    bench.audit(succeeded(bench.score(tenant.key)), tenant_id=tenant.id, ip_address="127.0.0.1", billable=True)


def bearer(bench, mount):
    """Authorization arrives; two different credentials are refused"""
    tenant, other = bench.onboard(), bench.onboard()
    authorization = {"Authorization": "Bearer %s" % tenant.key}
    succeeded(bench.call(None, "meta.version", headers=authorization))
    refused(bench.call(other.key, "meta.version", headers=authorization), 401, "INVALID_API_KEY")
    twice = [("Authorization", "Bearer %s" % tenant.key), ("Authorization", "Bearer %s" % other.key)]
    reply = bench.call(None, "meta.version", headers=twice)
    check(reply.status in (400, 401), "two Authorization headers\n%s" % reply)


def links(bench, mount):
    """links in replies lead back to this mount"""
    reply = bench.onboard().reply
    example = reply.json["instructions"]["example_request"]
    equal(example["url"], bench.stack.url + MANAGE, "example_request.url")
    upgrade = reply.json["upgrade_info"]["upgrade_url"]
    check(upgrade.startswith(bench.stack.url + "/api/upgrade/checkout?"), "upgrade_url %s" % upgrade)
    followed = bench.get(upgrade[len(bench.stack.url):])
    check(followed.is_ours() and followed.code != "VALIDATION_ERROR", "the upgrade_url\n%s" % followed)
    document = bench.http.request("GET", "/api/openapi.json", None, [])
    equal([server["url"] for server in document.json["servers"]], [bench.stack.url], "servers of openapi.json")


def found(bench, mount):
    """agents find /llms.txt and /.well-known/api-catalog, and links to them name this mount"""
    for path, kind in (("/llms.txt", "text/plain"), ("/.well-known/api-catalog", "application/linkset+json")):
        reply = bench.http.request("GET", path, None, [])
        check(reply.status == 200 and reply.header("Content-Type").startswith(kind), "%s\n%s" % (path, reply))
        check(bench.stack.url + "/api" in reply.body.decode(), "no address of this mount in %s\n%s" % (path, reply))
    where = bench.onboard().reply.json["instructions"]["documentation_url"]
    equal(where, bench.stack.url + "/llms.txt", "documentation_url")
    equal(bench.http.request("GET", where[len(bench.stack.url):], None, []).status, 200, "status of documentation_url")
    for reply in (bench.get("/api/other"), bench.send("POST", "/api/onboard/nothing", {})):
        hint = " GET %s/llms.txt " % bench.http.prefix
        check(hint in refused(reply, 404, "NOT_FOUND").json["error"], "not %s\n%s" % (hint, reply))
    hint = refused(bench.get("/console/other"), 404, "NOT_FOUND").json["error"]
    check(hint.endswith(" %s/console" % bench.http.prefix), hint)


def query(bench, mount):
    """the query string arrives unchanged"""
    tenant = bench.onboard()
    month = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m")
    for form in (month, month.replace("-", "%2D"), month.replace("2", "%32")):
        equal(bench.usage(tenant.key, form)["tenant_id"], tenant.id, "usage of ?period=%s" % form)
    refused(bench.get("/api/usage?period=2026-13&x=%2e%2e/", tenant.key), 400, "VALIDATION_ERROR")


def health(bench, mount):
    """/healthz and /readyz answer, with GET and HEAD"""
    for path in ("/healthz", "/readyz"):
        succeeded(bench.get(path))
        reply = bench.send("HEAD", path)
        equal((reply.status, reply.body), (200, b""), "HEAD %s" % path)


def hub_calls(bench, mount):
    """another kernel reaches the hub with its bearer key"""
    key = hub.configured(bench.stack)
    reply = bench.send("POST", "/functions/v1/tenants/create", {"agent_id": bench.agent_id(), "email": "a@example.com"},
                       {"Authorization": "Bearer %s" % key})
    check(reply.status in (200, 201) and reply.json["tenant_uuid"], "not a tenant\n%s" % reply)
    refused(bench.send("POST", "/functions/v1/tenants/create", {}), 401, "INVALID_API_KEY")


def site(bench, mount):
    """the web server serves the rest of the site"""
    outside = {"/": [], "/api": ["/", "/other", "/apix", "/functions/v2"], "/acp": ["/", "/api/manage", "/acpx"]}
    for path in outside[mount]:
        reply = bench.raw(("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path).encode())
        check(reply and not reply.is_ours() and reply.status in (200, 403, 404), "%s\n%s" % (path, reply))
    reply = bench.get("/api/other")
    check(reply.is_ours() and reply.status == 404, "a path of the program\n%s" % reply)


def encoded(bench, mount):
    """percent-encoded letters work like plain ones; encoded slashes, dots and double slashes are refused"""
    tenant = bench.onboard()
    body = b'{"action":"meta.version"}'
    send = lambda path: bench.raw(head_of(bench, path, tenant.key, len(body), "Connection: close\r\n") + body)
    succeeded(send("/api/%6Danage"))
    succeeded(send("/%61pi/manage?x=%2F"))
    before = bench.tenant_rows(tenant)
    for path in ("/api%2Fmanage", "//api/manage", "/api//manage", "/api/../api/manage", "/api/%2e%2e/api/manage",
                 "/api/manage%00", "/api/manage/"):
        reply = send(path)
        check(reply is None or 400 <= reply.status < 500, "%s\n%s" % (path, reply))
    equal(bench.tenant_rows(tenant), before, "audit rows of the tenant")


def address(bench, mount):
    """the client's address is that of the connection, whatever the headers say"""
    tenant = bench.onboard()
    for name in ("X-Forwarded-For", "X_Forwarded_For", "Forwarded", "X-Real-IP", "Client-IP", "Remote-Addr"):
        reply = succeeded(bench.call(tenant.key, "meta.version", headers={name: "203.0.113.9"}))
        bench.audit(reply, ip_address="127.0.0.1")


# Methods --------------------------------------------------------------------------------------------------------------

def head(bench, mount):
    """HEAD is answered like GET, without a body"""
    tenant = bench.onboard()
    reply = bench.send("HEAD", "/api/usage", key=tenant.key)
    equal((reply.status, reply.body), (200, b""), "HEAD /api/usage")
    reply = bench.send("HEAD", MANAGE, key=tenant.key)
    equal((reply.status, reply.body), (405, b""), "HEAD of the router")


def options(bench, mount):
    """OPTIONS gets 405 with Allow from the program"""
    reply = refused(bench.send("OPTIONS", MANAGE), 405, "METHOD_NOT_ALLOWED")
    equal(reply.header("Allow"), "POST", "Allow")


def trace(bench, mount):
    """TRACE never echoes a credential"""
    reply = bench.send("TRACE", MANAGE, headers={"X-API-Key": "ock_secret"})
    check(reply.status in (405, 501) and b"ock_secret" not in reply.body, "TRACE\n%s" % reply)


# Bodies ---------------------------------------------------------------------------------------------------------------

def body_limit(bench, mount):
    """a body of 256 KiB is accepted; one byte more gets 413, with JSON and an audit row"""
    tenant = bench.onboard()
    exact = b'{"action":"meta.version"}'.ljust(MAX_BYTES)
    succeeded(bench.send("POST", MANAGE, exact, key=tenant.key))
    reply = refused(bench.send("POST", MANAGE, exact + b" ", key=tenant.key), 413, "PAYLOAD_TOO_LARGE")
    bench.audit(reply, error_code="PAYLOAD_TOO_LARGE")


def body_huge(bench, mount):
    """a body that announces 16 MiB gets 413 at once, from the web server or the program"""
    tenant = bench.onboard()
    before = bench.tenant_rows(tenant)
    reply = bench.raw(head_of(bench, MANAGE, tenant.key, 16 << 20) + b" " * 65536)
    check(reply and reply.status == 413, "not 413\n%s" % reply)
    equal(bench.tenant_rows(tenant), before, "audit rows of the tenant")


def chunked(bench, mount):
    """a chunked body is read completely, or refused with 411 and JSON; a broken or incomplete one never runs"""
    tenant = bench.onboard()
    body = create_body("chunked")
    send = lambda data: bench.raw(head_of(bench, MANAGE, tenant.key, None, "Transfer-Encoding: chunked\r\n") + data,
                                  half_close=True)
    whole = send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    if bench.stack.server in NOT_CHUNKED:
        check(whole.status == 411 and whole.json["ok"] is False, "not 411 with JSON\n%s" % whole)
    else:
        succeeded(whole)
    done = effects(bench, tenant)
    for broken in (b"%x\r\n%s\r\nzz\r\n" % (len(body), body), b"%x\r\n%s\r\n" % (len(body), body),
                   b"%x\r\n%s" % (len(body) + 1, body), b"%x\r\n%s\r\n5\r\n" % (len(body), body)):
        reply = send(broken)
        check(reply is None or 400 <= reply.status < 600, "%r\n%s" % (broken, reply))
    time.sleep(0.3)
    equal(effects(bench, tenant), done, "calls that ran")
    bench.outcome = str(whole.status)


def expect(bench, mount):
    """Expect: 100-continue: the body is requested, or refused before it is sent"""
    tenant = bench.onboard()
    body = b'{"action":"meta.version"}'
    with connected(bench) as connection:
        connection.sendall(head_of(bench, MANAGE, tenant.key, len(body), "Expect: 100-continue\r\n"))
        first = b""
        while b"\r\n\r\n" not in first:
            first += connection.recv(4096)
        check(first.startswith(b"HTTP/1.1 100"), "not 100 but %r" % first)
        connection.sendall(body)
        succeeded(answer_on(connection, "Expect: 100-continue"))
    with connected(bench) as connection:
        connection.sendall(head_of(bench, MANAGE, tenant.key, 16 << 20, "Expect: 100-continue\r\n"))
        equal(answer_on(connection, "Expect: 100-continue with 16 MiB").status, 413, "status")


def body_cut(bench, mount):
    """a client that closes within its body has made no call, even if what arrived is complete JSON"""
    tenant = bench.onboard()
    for size, sent in ((200, 120), (100000, 50000), (200000, 199000)):
        with connected(bench) as connection:
            connection.sendall(head_of(bench, MANAGE, tenant.key, size) + create_body("cut", sent))
    time.sleep(0.5)
    succeeded(bench.call(tenant.key, "meta.version"))
    equal(effects(bench, tenant), 0, "calls that ran")


def client_gone(bench, mount):
    """a call whose client closes before the answer runs to completion, once"""
    tenant = bench.onboard()
    body = create_body("gone")
    for _ in range(5):
        with connected(bench) as connection:
            connection.sendall(head_of(bench, MANAGE, tenant.key, len(body)) + body)
    until(20, "all five have their row", lambda: effects(bench, tenant) >= 5)
    time.sleep(0.3)
    equal(effects(bench, tenant), 5, "calls that ran")


# Slow clients ---------------------------------------------------------------------------------------------------------

def others_are_served(bench, key):
    start = time.monotonic()
    for reply in parallel(8, lambda _: bench.call(key, "meta.version")):
        succeeded(reply)
    took = time.monotonic() - start
    check(took < 5 * slowness(), "8 calls took %.1f s" % took)


def slow_bodies(bench, mount):
    """more slow bodies than workers delay nobody else"""
    key = bench.onboard().key
    with contextlib.ExitStack() as slow:
        for number in range(CROWD):
            connection = slow.enter_context(connected(bench))
            connection.sendall(head_of(bench, MANAGE, key, 200000) + b" " * (10 if number % 2 else 100000))
        time.sleep(0.3)
        others_are_served(bench, key)


def slow_readers(bench, mount):
    """more clients than workers that do not read their answers delay nobody else"""
    key = bench.onboard().key
    request = "GET %s/api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" % bench.http.prefix
    with contextlib.ExitStack() as slow:
        for _ in range(CROWD):
            connection = slow.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect((bench.http.host, bench.http.port))
            connection.sendall(request.encode())
        time.sleep(0.3)
        others_are_served(bench, key)


def keep_alive(bench, mount):
    """several requests on one connection each get their own answer, even after a refusal"""
    tenant = bench.onboard()
    ids = set()
    with connected(bench) as connection:
        for action, params, status in ((SCORE, SCORE_PARAMS, 200), ("no.such", {}, 404), ("meta.version", {}, 200)):
            body = json.dumps({"action": action, "params": params, "idempotency_key": str(uuid.uuid4())}).encode()
            connection.sendall(head_of(bench, MANAGE, tenant.key, len(body)) + body)
            reply = answer_on(connection, "%s on a kept connection" % action)
            equal(reply.status, status, "status of %s" % action)
            ids.add(reply.request_id)
    equal(len(ids), 3, "request ids")


FEATURES = [variables, call, bearer, links, found, query, health, hub_calls, site, encoded, address, head, options, trace,
            body_limit, body_huge, chunked, expect, body_cut, client_gone, slow_bodies, slow_readers, keep_alive]


def cell(name, mount, feature):
    """Creates the test of one feature at one mount."""
    def test(bench):
        feature(bench, mount)
    test.__name__ = "test_%s_%s" % (name, feature.__name__)
    test.__doc__ = "At %s: %s." % (mount, feature.__doc__)
    test.stack = stack_at(mount)
    return test


for _name, _mount in MOUNTS.items():
    for _feature in FEATURES:
        globals()["test_%s_%s" % (_name, _feature.__name__)] = cell(_name, _mount, _feature)


def test_back_at_the_root(bench):
    """The configuration alone changes a mount back. Data stored under another mount is still there."""
    bench.arrange(**stack_at("/acp"))
    tenant = bench.onboard()
    bench.arrange()
    succeeded(bench.score(tenant.key))
