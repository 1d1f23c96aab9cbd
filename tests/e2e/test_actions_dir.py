"""Actions without C code: contract 3 (actions.d, kinds sql and http), reload on SIGHUP, and the two
shipped examples."""

import contextlib
import email.utils
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from client import LEAKS, refused, succeeded
from database import clean_environment
from fcgi import Responder
from checks import check, equal, parallel, until
from stack import children

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "examples")
VERSION = b'{"action":"meta.version"}'
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SEARCH = "demo.contacts.search"
COUNT = "demo.text.wordcount"


def example(*path):
    with open(os.path.join(EXAMPLES, *path), encoding="utf-8") as file:
        return file.read()


# A responder with a folder of actions ---------------------------------------------------------------------------------

class Folder:
    """The actions_dir of a test; a context manager."""

    def __init__(self, **files):
        self.dir = tempfile.TemporaryDirectory(prefix="acp-e2e-")
        self.path = self.dir.name
        for name, content in files.items():
            self.put(name, content)

    def put(self, name, content):
        """Writes an action file; content is text, or an object to write as JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        path = os.path.join(self.path, name + ".json")
        with open(path + "~", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(path + "~", path)
        return path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dir.cleanup()


class SingleProcess(Responder):
    """One process whose socket is file descriptor 0, as mod_fcgid starts it."""

    def __enter__(self):
        self.write_config(listen=None, processes=None)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.socket)
            listener.listen(64)
            self.process = subprocess.Popen([os.path.join(self._stack.sbin, "acp.fcgi"), "--config", self.config],
                                            stdin=listener, env=clean_environment())
        return self


def call(responder, key, action, params=None, headers=(), **members):
    body = json.dumps({"action": action, "params": params or {}, **members}).encode()
    sent = {"Content-Type": "application/json", "X-API-Key": key, **dict(headers)}
    reply = responder.ask("POST", "/api/manage", body, sent)
    check(not LEAKS.search(reply.body.decode()), "the reply shows internals\n%s" % reply)
    return reply


def action(name, handler, **members):
    return {"name": name, "description": "An action of a test.", "scope": "manage.domain",
            "params_schema": {"type": "object"}, "handler": handler, **members}


def names(responder, key):
    return {entry["name"]: entry for entry in succeeded(call(responder, key, "meta.actions")).data["actions"]}


def none_billed(bench, tenant):
    equal(bench.tenant_rows(tenant, "billable"), 0, "billable rows")
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")


# A test upstream ------------------------------------------------------------------------------------------------------

class Upstream:
    """Sends the reply that the test set, and records the requests; a context manager."""

    def __init__(self):
        self.status, self.body, self.headers, self.wait = 200, b'{"data":1}', {}, 0
        self.seen = []

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that disconnects is not an error here
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d/do" % self.server.server_port
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def _handler(upstream):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                upstream.seen.append((self.path, dict(self.headers), json.loads(body)))
                time.sleep(upstream.wait)
                with contextlib.suppress(OSError):
                    self.send_response(upstream.status)
                    for name, value in {"Content-Length": len(upstream.body), **upstream.headers}.items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(upstream.body)

            def log_message(self, *_):
                pass

        return Handler

    def says(self, status, document, **headers):
        self.status, self.headers = status, headers
        self.body = document if isinstance(document, bytes) else json.dumps(document).encode()

    def handler(self, **members):
        return {"kind": "http", "url": self.url, "allow_private": True, "allow_http": True, **members}


@contextlib.contextmanager
def behind(bench, upstream, settings=None, handler=None, **members):
    """A responder whose action e2e.http calls the upstream."""
    with Folder(http=action("e2e.http", upstream.handler(**(handler or {})), **members)) as folder:
        with Responder(bench.stack, actions_dir=folder.path, **(settings or {})) as responder:
            yield responder


# Kind sql -------------------------------------------------------------------------------------------------------------

FUNCTIONS = """
create schema e2e_sql;
create table e2e_sql.notes (tenant_id uuid, request_id uuid, note text);
create function e2e_sql.write(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as $$
begin
	if (c->>'dry_run')::boolean and p->>'then' is null then
		return acp.impact(p_creates => jsonb_build_array(p->'note'));
	end if;
	insert into e2e_sql.notes values (t, (c->>'request_id')::uuid, p->>'note');
	if p->>'then' = 'fail' then
		perform acp.fail('NOT_FOUND', 'there is no such note', '/params/note');
	elsif p->>'then' = 'success' then
		perform acp.fail('IDEMPOTENT_REPLAY', 'no success');
	elsif p->>'then' = 'raise' then
		raise exception 'secret detail of e2e_sql.notes in /var/lib';
	elsif p->>'then' in ('disk_full', 'deadlock_detected') then
		raise exception using errcode = p->>'then', message = 'not now';
	end if;
	perform acp.report('{"resource_type":"note"}', 7);
	return to_jsonb(t);
end $$;
grant usage on schema e2e_sql to acp_app;
grant insert on e2e_sql.notes to acp_app;
"""


@contextlib.contextmanager
def schema(bench, name, script):
    """Runs the script, which creates the schema; drops the schema at the end."""
    bench.db.execute(script)
    try:
        yield
    finally:
        bench.db.execute("drop schema %s cascade" % name)


@contextlib.contextmanager
def sql_responder(bench):
    one = action("e2e.sql", {"kind": "sql", "function": "e2e_sql.write"}, supports_dry_run=True, billing_unit="sec")
    with schema(bench, "e2e_sql", FUNCTIONS), Folder(sql=one) as folder:
        with Responder(bench.stack, actions_dir=folder.path) as responder:
            yield responder


def test_sql_example(bench):
    """The shipped sql example works, is listed like any other action, and is billed by the row found."""
    tenant = bench.onboard()
    with schema(bench, "demo", example("sql", "contacts.sql")), Folder() as folder:
        folder.put("contacts", example("actions.d", "contacts.json"))
        with Responder(bench.stack, actions_dir=folder.path) as responder:
            reply = succeeded(call(responder, tenant.key, SEARCH, {"query": "north"}))
            equal([row["contact_id"] for row in reply.data["contacts"]], [1, 2], "contacts")
            row = bench.audit(reply, status="success", action=SEARCH, pack="demo.contacts", billable=True,
                              billing_unit="row", billing_quantity=2)
            equal(row["result_meta"], {"resource_type": "contact", "count": 2}, "result_meta")
            refused(call(responder, tenant.key, SEARCH, {"query": " "}), 400, "VALIDATION_ERROR", "/params/query")
            refused(call(responder, tenant.key, SEARCH, {"query": 5}), 400, "VALIDATION_ERROR", "/params/query")
            listed = names(responder, tenant.key)[SEARCH]
            equal((listed["billable"], listed["billing_unit"], listed["scope"]), (True, "row", "manage.domain"), "def")
            equal(listed["params_schema"], json.loads(example("actions.d", "contacts.json"))["params_schema"], "schema")
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")


def test_sql_is_in_the_calls_transaction(bench):
    """Contract 3: the function runs in the call's transaction. Its effect and the audit row commit together; a failure
    has no effect."""
    tenant = bench.onboard()
    notes = lambda: bench.db.value("select count(*) from e2e_sql.notes")
    with sql_responder(bench) as responder:
        reply = succeeded(call(responder, tenant.key, "e2e.sql", {"note": "a"}))
        equal((reply.data, notes()), (tenant.id, 1), "data and notes")
        bench.audit(reply, billing_unit="sec", billing_quantity=7, result_meta={"resource_type": "note"})
        for then, status, code in (("fail", 404, "NOT_FOUND"), ("raise", 500, "INTERNAL_ERROR"),
                                   ("success", 500, "INTERNAL_ERROR"), ("disk_full", 503, "UNAVAILABLE"),
                                   ("deadlock_detected", 503, "UNAVAILABLE")):
            reply = refused(call(responder, tenant.key, "e2e.sql", {"note": "b", "then": then}), status, code)
            bench.audit(reply, status="error", billable=False, error_code=code)
        check("secret detail" in responder.read_log(), "the log does not have the error")
        equal(notes(), 1, "notes after failures")
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")


def test_sql_dry_run(bench):
    """Contract 3: a dry run of an sql action persists nothing, even if its function writes."""
    tenant = bench.onboard()
    with sql_responder(bench) as responder:
        reply = succeeded(call(responder, tenant.key, "e2e.sql", {"note": "a"}, dry_run=True))
        equal(reply.data["creates"], ["a"], "creates")
        refused(call(responder, tenant.key, "e2e.sql", {"note": "a", "then": ""}, dry_run=True), 500, "INTERNAL_ERROR")
        equal(bench.db.value("select count(*) from e2e_sql.notes"), 0, "notes")
    none_billed(bench, tenant)


META = """
create schema e2e_meta;
create function e2e_meta.tell(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as $$
begin
	perform acp.report(p->'meta');
	return to_jsonb(true);
end $$;
grant usage on schema e2e_meta to acp_app;
"""
# Values that JSON writers, and writers of row literals, serialize differently.
AWKWARD = [{"list": ["a", ["b", []], {}, None, True]}, {"bb": 1, "a": 2, "\u00e9": 3, "": 4},
           {"t": "\b\f\n\r\t\"\\/\u001f\u007f"},
           {"t": "\u0001 (a,b) \u2028 \U0001f511"}, {"n": 9007199254740992, "m": -1, "f": 0.1, "e": 1e21, "z": 1.50},
           {"m%02d" % number: number for number in range(70)}, {"space": " \u000b ", "comma": ",", "paren": "()"}]


def test_any_meta_is_linked_as_it_is_stored(bench):
    """Any result_meta is hashed in PostgreSQL's text form, so the chain verifies whether the program or SQL linked the
    row."""
    tenant = bench.paid_tenant()
    kinds = {"reads": False, "writes": True}
    files = {name: {**action("e2e.meta." + name, {"kind": "sql", "function": "e2e_meta.tell"}), "writes": writes}
             for name, writes in kinds.items()}
    replies = []
    with schema(bench, "e2e_meta", META), Folder(**files) as folder:
        with Responder(bench.stack, actions_dir=folder.path) as responder:
            for name in kinds:
                for meta in AWKWARD:
                    reply = succeeded(call(responder, tenant.key, "e2e.meta." + name, {"meta": meta}))
                    replies.append((reply, meta))
    for reply, meta in replies:
        equal(bench.audit(reply)["result_meta"], meta, "result_meta")
    bench.stack.ctl("audit", "verify")


HALF_READY = """
create schema e2e_doctor;
create function e2e_doctor.good(uuid, jsonb, jsonb) returns jsonb language sql as 'select null::jsonb';
create function e2e_doctor.text(uuid, jsonb, jsonb) returns text language sql as 'select null::text';
revoke execute on function e2e_doctor.good(uuid, jsonb, jsonb) from public;
"""


def test_doctor_names_missing_functions(bench):
    """acpctl doctor names each sql action whose function is missing, has the wrong result type or may not be called."""
    files = {name: action("e2e." + name, {"kind": "sql", "function": "e2e_doctor." + name})
             for name in ("good", "text", "missing")}
    with schema(bench, "e2e_doctor", HALF_READY), Folder(**files) as folder:
        doctor = lambda: bench.stack.program("acpctl", "doctor", environment={"ACP_ACTIONS_DIR": folder.path}).stdout
        found = doctor()
        for words in (r"WRONG +e2e\.missing +no such function: e2e_doctor\.missing\(uuid, jsonb, jsonb\)",
                      r"WRONG +e2e\.text +.*must return jsonb", r"WRONG +e2e\.good +acp_app may not call"):
            check(re.search(words, found), "%s is not in\n%s" % (words, found))
        bench.db.execute("grant usage on schema e2e_doctor to acp_app;"
                         "grant execute on all functions in schema e2e_doctor to acp_app")
        check(re.search(r"ok +e2e\.good", doctor()), "after the grant")
        folder.put("broken", "{\n]")
        check(re.search(r"WRONG +actions_dir +.*broken\.json:2: ", doctor()), "a broken file is not reported")


# Kind http ------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def shipped_upstream():
    """Runs deploy/examples/upstream.py on a free port; yields its URL."""
    process = subprocess.Popen([sys.executable, os.path.join(EXAMPLES, "upstream.py"), "0"], stdout=subprocess.PIPE,
                               text=True)
    try:
        yield re.search(r"http://\S+", process.stdout.readline()).group()
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def test_http_example(bench):
    """The shipped http example works. It is billed by the word, as its upstream reports; replays are not
    billed."""
    tenant = bench.onboard()
    text = {"text": "the cat and the hat"}
    with shipped_upstream() as url, Folder() as folder:
        folder.put("count", example("actions.d", "wordcount.json").replace("http://127.0.0.1:8765", url))
        with Responder(bench.stack, actions_dir=folder.path) as responder:
            reply = succeeded(call(responder, tenant.key, COUNT, text, idempotency_key="k"))
            equal(reply.data, {"words": 5, "distinct": 4}, "data")
            bench.audit(reply, pack="demo.text", billable=True, billing_unit="token", billing_quantity=5,
                        result_meta={"resource_type": "text", "count": 5})
            again = succeeded(call(responder, tenant.key, COUNT, text, idempotency_key="k"))
            equal((again.data, again.code), (reply.data, "IDEMPOTENT_REPLAY"), "replay")
            bench.audit(again, billable=False)
            dry = succeeded(call(responder, tenant.key, COUNT, text, dry_run=True))
            check("creates" in dry.data and "estimated_cost" in dry.data, "the impact\n%s" % dry)
            bench.audit(dry, billable=False, dry_run=True, billing_quantity=5)
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")


def test_http_request(bench):
    """Contract 3: the upstream receives the call, its request id, an idempotency key of its own and a valid trace."""
    tenant = bench.onboard()
    with Upstream() as upstream, behind(bench, upstream, supports_dry_run=True,
                                        handler={"headers": {"X-Own": "1"}}) as responder:
        reply = succeeded(call(responder, tenant.key, "e2e.http", {"n": 2.50, "ä": [None]}, {"traceparent": TRACE},
                               idempotency_key="key-1"))
        path, headers, body = upstream.seen[0]
        equal(body, {"action": "e2e.http", "params": {"n": 2.5, "ä": [None]}, "dry_run": False, "tenant_id": tenant.id,
                     "request_id": reply.request_id, "idempotency_key": "key-1"}, "body")
        wanted = {"Content-Type": "application/json", "X-Request-Id": reply.request_id, "traceparent": TRACE, "X-Own": "1"}
        check(OPAQUE.fullmatch(headers["Idempotency-Key"]), "%r" % headers)
        equal((path, {name: headers.get(name) for name in wanted}), ("/do", wanted), "path and headers")
        check(tenant.key not in json.dumps(headers), "the upstream received the API key")
        reply = succeeded(call(responder, tenant.key, "e2e.http", {}, {"traceparent": TRACE[:-1] + "x"}))
        _, headers, body = upstream.seen[1]
        check(OPAQUE.fullmatch(headers["Idempotency-Key"]) and body["idempotency_key"] is None, "no key: %r" % headers)
        check("traceparent" not in headers, "an invalid trace")
        succeeded(call(responder, tenant.key, "e2e.http", idempotency_key="a\r\nX-Evil: ä"))
        _, headers, body = upstream.seen[2]
        check(OPAQUE.fullmatch(headers["Idempotency-Key"]) and "X-Evil" not in headers, "%r" % headers)
        equal(body["idempotency_key"], "a\r\nX-Evil: ä", "the key in the body")
        succeeded(call(responder, tenant.key, "e2e.http", idempotency_key="key-2", dry_run=True))
        _, headers, body = upstream.seen[3]
        equal((body["dry_run"], body["idempotency_key"]), (True, None), "dry run")
        succeeded(call(responder, tenant.key, "e2e.http", idempotency_key="key-2"))
        check(headers["Idempotency-Key"] != upstream.seen[4][1]["Idempotency-Key"],
              "a dry run has the key of the call that it simulates")


def test_http_keys_are_scoped(bench):
    """Contract 3: the upstream's Idempotency-Key differs by tenant, action and key. It is the same for every repetition,
    in every process, so that an upstream can recognise one."""
    tenants = [bench.onboard(), bench.onboard()]
    with Upstream() as upstream, Folder() as folder:
        for name in "e2e.one", "e2e.two":
            folder.put(name, action(name, upstream.handler()))
        upstream.says(502, {})  # nothing is stored, so each call reaches the upstream
        sent = set()
        for _ in range(2):
            with Responder(bench.stack, actions_dir=folder.path) as responder:
                for tenant in tenants:
                    for name in "e2e.one", "e2e.two":
                        for key in "order-1", "order-2":
                            refused(call(responder, tenant.key, name, idempotency_key=key), 502, "UPSTREAM_FAILED")
                            _, headers, body = upstream.seen[-1]
                            sent.add((tenant.id, name, key, headers["Idempotency-Key"]))
                            equal(body["idempotency_key"], key, "the key in the body")
        equal((len(sent), len({header for *_, header in sent}), len(upstream.seen)), (8, 8, 16), "keys and requests")


SECRET = "Bearer abcdefghijklmnop"
OPAQUE = re.compile("[0-9a-f]{64}")
DEEP = b"[" * 500 + b"]" * 500
# The upstream's status and reply, then the call's data as it must appear in the reply, and the quantity.
GOOD_REPLIES = [
    (200, b'{"data":null}', b"null", 1), (200, b'{"data":[1],"quantity":0}', b"[1]", 0), (201, b"[1,2]", b"[1,2]", 1),
    (200, b"null", b"null", 1), (200, b'{"a":1,"quantity":9}', b'{"a":1,"quantity":9}', 1),
    # The quantity in every form of a whole number.
    (200, b'{"data":1,"quantity":1.0}', b"1", 1), (200, b'{"data":1,"quantity":1e0}', b"1", 1),
    (200, b'{"data":1,"quantity":70.00e-1}', b"1", 7), (200, b'{"data":1,"quantity":-0.0}', b"1", 0),
    # Nothing.
    (200, b"", b"null", 1), (204, b"", b"null", 1), (205, b"", b"null", 1), (202, b" \r\n", b"null", 1),
    # Numbers that no type of the program holds arrive as they were written.
    (200, b'{"data":[9007199254740993,18446744073709551617,-9223372036854775809,1e400,-0,0.10,1E+2]}',
     b"[9007199254740993,18446744073709551617,-9223372036854775809,1e400,-0,0.10,1E+2]", 1),
    (200, b'{"data":0.1234567890123456789012345678901234567890}', b"0.1234567890123456789012345678901234567890", 1),
    (200, b"1" * 400, b"1" * 400, 1),
    # Scalars, a byte order mark, depth, two members of one name, characters that requests may not contain.
    (200, b'"text"', b'"text"', 1), (200, b"true", b"true", 1), (200, b"\xef\xbb\xbf{\"data\":2}", b"2", 1),
    (200, DEEP, DEEP, 1), (200, b'{"a":1,"b":2,"a":3}', b'{"b":2,"a":3}', 1),
    (200, b'{"data":"a\\u0000b"}', b'"a\\u0000b"', 1), (200, b'{"data":"\\ud800"}', '"\ufffd"'.encode(), 1)]
BAD_REPLIES = [(500, {}, "UPSTREAM_FAILED"), (503, b"", "UPSTREAM_FAILED"), (401, {}, "UPSTREAM_FAILED"),
               (302, b"", "UPSTREAM_FAILED"), (200, b"{", "UPSTREAM_FAILED"), (200, b"\xff", "UPSTREAM_FAILED"),
               (200, {"data": 1, "quantity": -1}, "UPSTREAM_FAILED"),
               (200, {"data": 1, "quantity": 1.5}, "UPSTREAM_FAILED"),
               (200, {"data": 1, "quantity": 1e30}, "UPSTREAM_FAILED"),
               (200, {"data": 1, "quantity": "1"}, "UPSTREAM_FAILED"),
               (200, {"data": 1, "result_meta": 1}, "UPSTREAM_FAILED"),
               (200, {"data": 1, "result_meta": {"n": "\0"}}, "UPSTREAM_FAILED"),
               (200, b'{"data":1,"result_meta":{"n":1e999999}}', "UPSTREAM_FAILED"),
               (200, {"data": "x" * 2000}, "UPSTREAM_FAILED"),
               (404, {"error": "no such thing"}, "NOT_FOUND"), (404, b"<html>", "NOT_FOUND"),
               (409, {"error": {"message": "is sold"}}, "CONFLICT"), (409, b"", "CONFLICT"),
               (400, {"error": "bad " + SECRET}, "VALIDATION_ERROR"),
               (422, {"error": "ä" * 300, "field": "/params/x"}, "VALIDATION_ERROR"), (422, b"", "VALIDATION_ERROR")]


def test_http_good_replies(bench):
    """Contract 3: the upstream's reply sets data and quantity, if RFC 8259 permits it. Its values reach the caller as
    they were written, and so do those of a replay."""
    tenant = bench.paid_tenant()
    with Upstream() as upstream, behind(bench, upstream, max_quantity=1000000000000) as responder:
        for number, (status, document, data, quantity) in enumerate(GOOD_REPLIES):
            upstream.says(status, document)
            first = call(responder, tenant.key, "e2e.http", idempotency_key="good-%d" % number)
            again = call(responder, tenant.key, "e2e.http", idempotency_key="good-%d" % number)
            for reply in first, again:
                check(reply.status == 200 and b'"data":%s,' % data in reply.body, "reply to %r\n%s" % (document, reply))
            equal(again.code, "IDEMPOTENT_REPLAY", "code of the second reply to %r" % document)
            bench.audit(first, billable=True, billing_quantity=quantity, billing_unit=None)
        equal(len(upstream.seen), len(GOOD_REPLIES), "requests")
        upstream.says(200, {"data": {}, "result_meta": {"token": "x", "note": SECRET, "n": 2 ** 70}})
        row = bench.audit(succeeded(call(responder, tenant.key, "e2e.http")))
        equal({**row["result_meta"], "n": None}, {"token": "[REDACTED]", "note": "[REDACTED]", "n": None}, "result_meta")


def test_http_bad_replies(bench):
    """Contract 3: a refusal of the upstream is passed on without credentials. Any other bad reply is 502. Neither is
    billed."""
    tenant = bench.onboard()
    codes = {"UPSTREAM_FAILED": 502, "NOT_FOUND": 404, "VALIDATION_ERROR": 400, "CONFLICT": 409}
    with Upstream() as upstream, behind(bench, upstream, handler={"max_reply_bytes": 2000}) as responder:
        for status, document, code in BAD_REPLIES:
            upstream.says(status, document, **({"Location": upstream.url} if status == 302 else {}))
            seen = len(upstream.seen)
            reply = refused(call(responder, tenant.key, "e2e.http"), codes[code], code)
            check(reply.header("Retry-After") is None and SECRET not in reply.body.decode(), "%s" % reply)
            acts = code == "UPSTREAM_FAILED" and status != 401
            equal("may or may not have acted" in reply.json["error"], acts, "%s: %s" % (status, reply.json["error"]))
            bench.audit(reply, billable=False, status="error", error_code=code)
            equal(len(upstream.seen), seen + 1, "requests for one call")
            if code == "VALIDATION_ERROR":
                equal(reply.json["field"], "/params/x" if b"params" in upstream.body else "/params", "field")
    none_billed(bench, tenant)


def test_http_sentences(bench):
    """Contract 3: 400, 404, 409 and 422 reach the caller with the upstream's sentence, in each of its common forms. What
    an upstream says with 401, 403 or 5xx is for the operator: it is in the log, without credentials and cut."""
    tenant = bench.onboard()
    forms = [{"error": "is sold"}, {"error": {"message": "is sold", "code": 3}}, {"message": "is sold"},
             {"title": "Conflict", "detail": "is sold"}, {"error": "", "title": "is sold"}]
    with Upstream() as upstream, behind(bench, upstream) as responder:
        for status in 400, 404, 409, 422:
            for form in forms:
                upstream.says(status, form)
                equal(call(responder, tenant.key, "e2e.http").json["error"], "is sold", "%d, %s" % (status, form))
        for status in 401, 403, 500:
            upstream.says(status, {"error": "no entry for %s %s" % (status, SECRET)})
            error = refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED").json["error"]
            check("no entry" not in error, error)
            check("status %d: no entry for %d" % (status, status) in responder.read_log(), responder.read_log()[-600:])
        upstream.says(401, b"<b>\x00\xffkey expired</b>" + b"y" * 5000)
        refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED")
        log = responder.read_log()
        check("key expired</b>yyy" in log and "y" * 250 not in log and SECRET not in log, log[-600:])


def test_http_retry_after(bench):
    """Contract 3: 429 and 503 of an upstream keep their Retry-After, as seconds or as a date, within a day."""
    tenant = bench.onboard()
    soon = lambda seconds: email.utils.formatdate(time.time() + seconds, usegmt=True)
    cases = [("7", 7, 7), ("0", 1, 1), ("999999999999", 86400, 86400), (soon(600), 580, 600), (soon(-600), 1, 1),
             (soon(9e6), 86400, 86400), ("soon", None, None), ("-1", None, None), ("", None, None), ("1.5", None, None)]
    with Upstream() as upstream, behind(bench, upstream) as responder:
        for status in 429, 503, 500:
            for value, least, most in cases:
                upstream.says(status, {"error": "busy"}, **{"Retry-After": value})
                reply = refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED")
                given = reply.header("Retry-After")
                if least is None or status == 500:
                    equal(given, None, "Retry-After of %d, %r" % (status, value))
                else:
                    check(given and least <= int(given) <= most, "%r became %r" % (value, given))
                equal("nothing was done" in reply.json["error"], status == 429, reply.json["error"])
    none_billed(bench, tenant)


class Impolite:
    """An upstream that reads a request, and closes the connection without an answer: at once, or from the second request
    of a connection on."""

    def __init__(self, answers):
        self._answers = answers
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d/" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as lines:
            for number in range(self._answers + 1):
                length = None
                for line in lines:
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    if line == b"\r\n":
                        break
                if length is None:
                    return
                lines.read(length)
                self.requests += 1
                if number < self._answers:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")


def test_http_is_sent_once(bench):
    """Contract 3: an upstream that reads a request, acts and closes the connection is not asked again, on a new and on a
    kept connection. (libcurl repeats a request whose kept connection was closed.)"""
    tenant = bench.onboard()
    settings = {"processes": "1", "workers": "1"}
    for answers in 0, 1:
        with Impolite(answers) as upstream, Folder() as folder:
            folder.put("http", action("e2e.http", {"kind": "http", "url": upstream.url, "allow_private": True,
                                                   "allow_http": True}))
            with Responder(bench.stack, actions_dir=folder.path, **settings) as responder:
                # A thread that waits is replaced, so a call may be sent on another connection than the one before.
                replies = [call(responder, tenant.key, "e2e.http")]
                while replies[-1].status == 200 and len(replies) < 9:
                    replies.append(call(responder, tenant.key, "e2e.http"))
                check(len(replies) > answers, "the first reply on a connection did not arrive\n%s" % replies[-1])
                reply = refused(replies[-1], 502, "UPSTREAM_FAILED")
                check("may or may not have acted" in reply.json["error"], "%s" % reply)
                equal(upstream.requests, len(replies), "requests")


def test_upstream_down(bench):
    """If the upstream is down or late, the reply is 502, nothing is billed, and the place in the allowance is
    free again."""
    tenant = bench.onboard()
    limit = {"free_calls_limit": "1"}
    with Upstream() as upstream, behind(bench, upstream, limit, handler={"timeout_ms": 400}) as responder:
        upstream.wait = 1.5
        start = time.monotonic()
        refused(call(responder, tenant.key, "e2e.http", idempotency_key="k"), 502, "UPSTREAM_FAILED")
        check(time.monotonic() - start < 1.2, "timeout_ms was exceeded")
        upstream.server.shutdown()
        upstream.server.server_close()
        for _ in range(3):
            reply = refused(call(responder, tenant.key, "e2e.http", idempotency_key="k"), 502, "UPSTREAM_FAILED")
            check(reply.header("Retry-After") is None, "%s" % reply)
            bench.audit(reply, billable=False, status="error")
        check("the upstream failed" in responder.read_log(), "the log does not have the reason")
    none_billed(bench, tenant)
    with Upstream() as upstream, behind(bench, upstream, limit) as responder:
        succeeded(call(responder, tenant.key, "e2e.http", idempotency_key="k"))
        refused(call(responder, tenant.key, "e2e.http"), 402, "UPGRADE_REQUIRED")
        equal(len(upstream.seen), 1, "requests")


def test_private_address(bench):
    """Contract 3: an upstream at a private address, given by number or by name, is not called unless this is
    allowed."""
    tenant = bench.onboard()
    with Upstream() as upstream:
        for url in (upstream.url, upstream.url.replace("127.0.0.1", "localhost")):
            with behind(bench, upstream, handler={"allow_private": False, "url": url}) as responder:
                reply = refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED")
                check("127.0.0.1" not in reply.body.decode(), "the reply shows the address")
                check("is not on the public internet" in responder.read_log(), responder.read_log())
        equal(upstream.seen, [], "requests")
    none_billed(bench, tenant)


def test_waiting_holds_no_connection(bench):
    """While calls wait for an upstream, calls that need the database are answered, even with a single connection."""
    tenant = bench.paid_tenant()
    settings = {"db_connections": "1", "workers": "8", "processes": "1"}
    slow = []
    with Upstream() as upstream, behind(bench, upstream, settings) as responder:
        upstream.wait = 2
        threads = [threading.Thread(target=lambda: slow.append(call(responder, tenant.key, "e2e.http")), daemon=True)
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        until(5, "4 calls wait", lambda: len(upstream.seen) == 4)
        start = time.monotonic()
        for _ in range(10):
            succeeded(responder.call(tenant.key, VERSION))
        check(time.monotonic() - start < 1.5 and not slow, "calls waited for the upstream")
        for thread in threads:
            thread.join(20)
    equal([reply.status for reply in slow], [200] * 4, "the slow calls")


# Files ----------------------------------------------------------------------------------------------------------------

GOOD = action("e2e.good", {"kind": "sql", "function": "e2e.none"})
OTHER = {**GOOD, "name": "e2e.other"}
# File, line of the error (None: any line), words of the reason.
BROKEN = [("{\n \"name\": \"e2e.x\",\n}", 3, ""), ({**OTHER, "colour": 1}, None, "/colour"),
          ({**GOOD, "name": "meta.version"}, 2, "meta.version"), ({**GOOD, "name": "Shop"}, 2, "/name"),
          (GOOD, 2, "/name"), ({**OTHER, "params_schema": {"tpye": "object"}}, None, "/params_schema/tpye"),
          ({**OTHER, "handler": {"kind": "http", "url": "http://example.com"}}, None, "/handler/url"),
          ({name: value for name, value in OTHER.items() if name != "scope"}, 1, "/scope is required")]


def test_broken_file_stops_the_start(bench):
    """Contract 3: a broken file prevents the start; the message has file, line and reason. --check-config reports it
    too."""
    for content, line, words in BROKEN:
        with Folder(a=GOOD) as folder:
            path = folder.put("b", content)
            for options in ((), ("--check-config",)):
                done = bench.stack.program("acp.fcgi", *options, environment={"ACP_ACTIONS_DIR": folder.path})
                equal(done.returncode, 78, "exit status; %s" % done.stderr)
                wanted = re.escape(path) + (":%d: " % line if line else r":\d+: ") + ".*" + re.escape(words)
                check(re.search(wanted, done.stderr), "%s is not in %s" % (wanted, done.stderr))
    done = bench.stack.program("acp.fcgi", "--check-config", environment={"ACP_ACTIONS_DIR": "/nonexistent"})
    check(done.returncode == 78 and "actions_dir = /nonexistent" in done.stderr, done.stderr)


def check_reload(bench, kind):
    tenant = bench.onboard()
    with Folder(a=GOOD) as folder, kind(bench.stack, actions_dir=folder.path) as responder:
        ours = lambda: sorted(name for name in names(responder, tenant.key) if name.startswith("e2e."))
        equal(ours(), ["e2e.good"], "at the start")
        folder.put("b", "{\n]")
        responder.reload()
        until(10, "the reason", lambda: re.search(r"reload refused.*/b\.json:2: ", responder.read_log()))
        equal([ours() for _ in range(6)], [["e2e.good"]] * 6, "after a broken file")
        folder.put("b", {**GOOD, "name": "e2e.second", "billing_unit": "row"})
        responder.reload()
        until(10, "the new action", lambda: all(ours() == ["e2e.good", "e2e.second"] for _ in range(10)))
        os.remove(os.path.join(folder.path, "a.json"))
        responder.reload()
        until(10, "the first action is gone", lambda: all(ours() == ["e2e.second"] for _ in range(10)))
        refused(call(responder, tenant.key, "e2e.good"), 404, "NOT_FOUND")
        check(responder.process.poll() is None, "the process that received SIGHUP has ended")


def test_reload_with_supervisor(bench):
    """SIGHUP with a broken file keeps the old set and logs the reason; with a valid file it adds the action."""
    check_reload(bench, Responder)


def test_reload_of_a_single_process(bench):
    """The same for a single process that a web server started. It serves calls meanwhile."""
    check_reload(bench, SingleProcess)


def test_killed_worker_keeps_the_set(bench):
    """A worker that replaces a dead one starts with the current set of actions, even if the folder has changed."""
    tenant = bench.onboard()
    with Folder(a=GOOD) as folder, Responder(bench.stack, actions_dir=folder.path, processes="1") as responder:
        worker = lambda: children(responder.process.pid)
        before = until(5, "a worker", worker)
        folder.put("b", "{\n]")
        time.sleep(1.1)  # a worker that dies at once is replaced later
        os.kill(before[0], signal.SIGKILL)
        until(10, "another worker", lambda: worker() and worker() != before)
        check("e2e.good" in names(responder, tenant.key), "the action is missing")


@pytest.mark.slow
def test_calls_during_reloads(bench):
    """Repeated SIGHUP while calls of the actions run: every call is answered and has its row."""
    tenant = bench.paid_tenant()
    with Upstream() as upstream, Folder(http=action("e2e.http", upstream.handler())) as folder:
        upstream.wait = 0.02
        with SingleProcess(bench.stack, actions_dir=folder.path, workers="4") as responder:
            succeeded(call(responder, tenant.key, "e2e.http"))
            done = threading.Event()

            def reload_often():
                while not done.wait(0.01):
                    folder.put("other", {**GOOD, "name": "e2e.x%s" % uuid.uuid4().hex})
                    responder.reload()

            thread = threading.Thread(target=reload_often, daemon=True)
            thread.start()
            replies = sum(parallel(4, lambda _: [call(responder, tenant.key, "e2e.http") for _ in range(50)]), [])
            done.set()
            thread.join(10)
            check(responder.read_log().count("actions reloaded") > 5, "there were too few reloads")
    for reply in replies:
        succeeded(reply)
    bench.audit_each(replies, status="success", billable=True)
