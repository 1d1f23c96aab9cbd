"""The executor (contract 2.3): the built-in integration, called at /functions/v1/execute, with the stand-in for Stripe
behind it."""

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import uuid

import pytest

from client import NIL
from database import clean_environment
from fcgi import Responder
from checks import Failure, Skip, check, equal, parallel
from stripe import StandIn

KEY = "e2e-executor-key-" + "0123456789abcdef" * 2
PATH = "/functions/v1/execute"
PERIOD = "2026-10"


class Executor:
    """Repo C: a responder with stripe_key and executor_key, and the stand-in that it calls."""

    def __init__(self, bench, responder, stand_in):
        self.bench, self.responder, self.stripe = bench, responder, stand_in

    def post(self, body, key=KEY, headers=()):
        more = {"Content-Type": "application/json", **({"Authorization": "Bearer " + key} if key else {}),
                **dict(headers)}
        return self.responder.ask("POST", PATH, body if isinstance(body, bytes) else json.dumps(body).encode(), more)

    def execute(self, action, params, key=None, **trace):
        """Executes an action; returns the answer, after checking that it has the contract's form."""
        reply = self.post({**envelope(action, params, key), **({"trace": trace} if trace else {})})
        equal(reply.status, 200, "status of %s" % reply)
        answer = reply.json
        members = {"ok", "request_id", "status", "data", "result_meta", "error_code", "error_message_redacted"}
        equal(set(answer) - {"retry"}, members, "members")
        self.request_id = answer["request_id"]
        return answer

    def done(self, action, params, key=None, **trace):
        answer = self.execute(action, params, key, **trace)
        check(answer["ok"] is True, "%s failed: %s" % (action, answer))
        return answer["data"]

    def failed(self, code, action, params, key=None, **trace):
        answer = self.execute(action, params, key, **trace)
        equal((answer["ok"], answer["error_code"], answer["data"]), (False, code, None), str(answer))
        return answer

    def customer(self, tenant=None):
        tenant = tenant or str(uuid.uuid4())
        params = {"tenant_uuid": tenant, "agent_id": "agent-1", "email": "%s@example.com" % tenant}
        return tenant, self.done("stripe.customers.create", params, "customer-" + tenant)["customer"]

    def paying(self, card="4242424242424242"):
        """Creates a customer with a default card for invoices."""
        tenant, customer = self.customer()
        session = self.done("stripe.checkout.create", session_of(tenant, customer), "checkout-" + tenant)
        self.stripe.complete(session["url"], card)
        method = self.done("stripe.setup_intents.get", {"setup_intent": session["setup_intent"]})["payment_method"]
        self.done("stripe.customers.update", {"customer": customer, "default_payment_method": method},
                  "default-" + tenant)
        return tenant, customer

    def event(self, request_id=None):
        rows = self.bench.audit_rows([request_id or self.request_id])[request_id or self.request_id]
        equal(len(rows), 1, "audit rows")
        return rows[0]


def envelope(action, params, key=None, **more):
    body = {"tenant_id": params.get("tenant_uuid", NIL), "integration": action.partition(".")[0], "action": action,
            "params": params, "request_hash": "0" * 64, **more}
    return {**body, "idempotency_key": key} if key else body


def session_of(tenant, customer):
    return {"tenant_uuid": tenant, "customer": customer, "success_url": "http://127.0.0.1/done?s={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://127.0.0.1/back"}


def invoice_of(tenant, customer, amounts=(100, 20), **more):
    lines = [{"description": "%d calls & more" % amount, "amount": amount} for amount in amounts]
    return {"tenant_uuid": tenant, "customer": customer, "period": PERIOD, "currency": "usd", "amount": sum(amounts),
            "lines": lines, "hash": hashlib.sha256(repr((tenant, amounts)).encode()).hexdigest(), **more}


@contextlib.contextmanager
def executor(bench, **settings):
    with StandIn() as stand_in:
        options = {**stand_in.settings(), "executor_key": KEY, **settings}
        with Responder(bench.stack, **options) as responder:
            yield Executor(bench, responder, stand_in)


# Access -------------------------------------------------------------------------------------------------------------

def test_key(bench):
    """Contract 1 and 2.3: the endpoint accepts only the executor's key and no other credential. Without the setting it
    is 404."""
    tenant = bench.onboard()
    body = envelope("stripe.invoices.list", {})
    with executor(bench) as c:
        equal(c.post(body).status, 200, "with the key")
        for key in (None, "x" * 40, KEY[:-1], KEY + "0", tenant.key):
            reply = c.post(body, key)
            equal((reply.status, reply.code), (401, "INVALID_API_KEY"), "key %r" % key)
        equal(c.post(body, None, {"X-API-Key": KEY}).status, 401, "as X-API-Key")
        reply = c.responder.ask("GET", PATH, headers={"Authorization": "Bearer " + KEY})
        equal((reply.status, reply.headers["Allow"]), (405, "POST"), "GET")
        reply = c.responder.ask("POST", "/api/manage", b'{"action":"meta.version"}',
                                {"Content-Type": "application/json", "Authorization": "Bearer " + KEY})
        equal(reply.status, 401, "the executor's key at the router")
    with executor(bench, executor_key=None) as c:
        equal(c.post(body).status, 404, "without executor_key")


def test_bodies(bench):
    """Contract 2.3: a body of another form gets a 400 that names the member, and has its audit row."""
    good = envelope("stripe.invoices.list", {})
    with executor(bench) as c:
        wrong = [({**good, "tenant_id": "x"}, "/tenant_id"), ({**good, "request_hash": "0"}, "/request_hash"),
                 ({**good, "integration": "other"}, "/action"), ({**good, "params": []}, "/params"),
                 ({**good, "more": 1}, "/more"), ({**good, "trace": {"timeout_ms": 1}}, "/trace/timeout_ms"),
                 ({**good, "idempotency_key": ""}, "/idempotency_key"), ([], ""), (b"{", "")]
        for body, field in wrong:
            reply = c.post(body)
            equal((reply.status, reply.code, reply.json.get("field", "")), (400, "VALIDATION_ERROR", field), str(reply))
            event = c.event(reply.request_id)
            equal((event["action"], event["status"], event["actor_type"], event["billable"]),
                  ("execute", "error", "system", False), "audit row")
        equal(c.stripe.requests(), [], "requests to Stripe")


def test_described(bench):
    """Contract 2.1: openapi.json describes the endpoint if, and only if, it is served."""
    with executor(bench) as c:
        described = c.responder.ask("GET", "/api/openapi.json").json
        body = described["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
        equal(sorted(body["required"]), ["action", "integration", "params", "request_hash", "tenant_id"], "required")
        check("executorKey" in described["components"]["securitySchemes"], "no executorKey")
    with executor(bench, executor_key=None) as c:
        check(PATH not in c.responder.ask("GET", "/api/openapi.json").json["paths"], "it is described but not served")


def test_unknown_actions(bench):
    """There is an allow-list of actions. Any other action is refused without a request to Stripe, and
    audited."""
    with executor(bench) as c:
        for action in ("stripe.charges.create", "stripe.customers.delete", "stripe.customers", "stripe.", "shop.do.it"):
            answer = c.failed("NOT_FOUND", action, {})
            equal((answer["status"], answer["retry"]), (None, False), "answer")
            event = c.event()
            equal((event["action"], event["status"], event["error_code"], event["tenant_id"]),
                  (action, "error", "NOT_FOUND", NIL), "audit row")
        for params in ({}, {"invoice": "../customers"}, {"invoice": "in_1", "x": 1}, {"invoice": "in_1/void"}):
            c.failed("VALIDATION_ERROR", "stripe.invoices.pay", params)
        equal(c.stripe.requests(), [], "requests to Stripe")


# Each action --------------------------------------------------------------------------------------------------------

def test_customers(bench):
    """Contract 2.3: a new customer has its tenant's id in the metadata. The same key again returns the same
    customer."""
    with executor(bench) as c:
        tenant = str(uuid.uuid4())
        params = {"tenant_uuid": tenant, "agent_id": "a:b", "email": "o'neil+x@example.com",
                  "organization_name": "Müller & Söhne = 100% [x]"}
        first = c.done("stripe.customers.create", params, "customer-" + tenant)["customer"]
        event = c.event()
        equal((event["action"], event["status"], event["actor_type"], event["billable"], event["pack"],
               event["idempotency_key"], event["request_hash"]),
              ("stripe.customers.create", "success", "system", False, "stripe", "customer-" + tenant, "0" * 64), "row")
        equal(event["result_meta"], {"tenant_id": tenant, "vendor_status": 200, "resource_type": "customer",
                                     "resource_id": first}, "result_meta")
        equal(c.done("stripe.customers.create", params, "customer-" + tenant)["customer"], first, "again")
        held = c.stripe.ask("GET", "/v1/customers/" + first)
        equal((held["email"], held["name"], held["metadata"]),
              (params["email"], params["organization_name"], {"tenant_uuid": tenant, "agent_id": "a:b"}), "customer")
        equal(len(c.stripe.all("/v1/customers")), 1, "customers")
        c.done("stripe.customers.update", {"customer": first, "email": "new@example.com", "name": "N"}, "u")
        held = c.stripe.ask("GET", "/v1/customers/" + first)
        equal((held["email"], held["name"]), ("new@example.com", "N"), "updated")
        answer = c.failed("resource_missing", "stripe.customers.update", {"customer": "cus_none", "name": "N"}, "v")
        equal((answer["status"], answer["retry"]), (404, False), "no such customer")
        equal(len(c.stripe.requests("POST", "/v1/customers/cus_none")), 1, "requests after a final refusal")


def test_checkout(bench):
    """Contract 2.1: the session is in setup mode and has client_reference_id and metadata.tenant_uuid."""
    with executor(bench) as c:
        tenant, customer = c.customer()
        data = c.done("stripe.checkout.create", session_of(tenant, customer), "checkout-1")
        check(data["expires_at"] > time.time() and data["url"].startswith(c.stripe.url), "session %s" % data)
        held = c.stripe.ask("GET", "/v1/checkout/sessions/" + data["id"])
        equal((held["mode"], held["client_reference_id"], held["metadata"], held["customer"], held["currency"]),
              ("setup", tenant, {"tenant_uuid": tenant}, customer, "usd"), "session")
        equal(c.done("stripe.checkout.create", session_of(tenant, customer), "checkout-1"), data, "again")
        intent = {"setup_intent": data["setup_intent"]}
        equal(c.done("stripe.setup_intents.get", intent)["status"], "requires_payment_method", "before")
        sent_to = c.stripe.complete(data["url"])
        check(data["id"] in sent_to, "the human was sent to %s" % sent_to)
        after = c.done("stripe.setup_intents.get", intent)
        equal((after["status"], after["customer"]), ("succeeded", customer), "after")
        check(after["payment_method"].startswith("pm_"), "payment method %s" % after)


def test_invoice(bench):
    """Contract 2.3: an invoice is drafted, gets its items by its id, has its total compared, is finalized and paid.
    Each step has a key derived from the obligation and is requested once."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        params = invoice_of(tenant, customer, (100, 40, -20))
        key = "billing-%s-%s" % (tenant, PERIOD)
        data = c.done("stripe.invoices.create", params, key)
        equal((data["status"], data["amount"]), ("paid", 120), "invoice")
        held = c.stripe.ask("GET", "/v1/invoices/" + data["invoice"])
        equal((held["amount_paid"], held["metadata"], held["auto_advance"], held["collection_method"]),
              (120, {"tenant_uuid": tenant, "period": PERIOD, "invoice_hash": params["hash"]}, False,
               "charge_automatically"), "held")
        equal([(line["description"], line["amount"]) for line in held["lines"]["data"]],
              [(line["description"], line["amount"]) for line in params["lines"]], "lines")
        keys = [r["idempotency_key"] for r in c.stripe.requests("POST") if (r["idempotency_key"] or "").startswith(key)]
        steps = ["%s-%s" % (step, data["invoice"]) for step in ("item-0", "item-1", "item-2", "finalize", "pay")]
        equal(keys, [key] + [key + ":" + step for step in steps], "keys")
        equal(c.done("stripe.invoices.create", params, key), data, "again")
        equal(len(c.stripe.all("/v1/invoices")), 1, "invoices")
        equal(len(c.stripe.all("/v1/invoiceitems")), 3, "items")
        equal({r["version"] for r in c.stripe.requests("POST")} - {None}, {"2026-10-28.endive"}, "API version")


def test_wrong_sums(bench):
    """Contract 2.3: an invoice whose total differs from ours is not finalized, whether the error is ours or somebody
    added an item at Stripe."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        c.failed("VALIDATION_ERROR", "stripe.invoices.create", invoice_of(tenant, customer, amount=121), "k0")
        equal(c.stripe.all("/v1/invoices"), [], "invoices")
        c.stripe.control(fail={"path": "/v1/invoices/*/finalize", "status": 500, "should_retry": False})
        params = invoice_of(tenant, customer)
        answer = c.failed("api_error", "stripe.invoices.create", params, "k1")
        equal(answer["retry"], True, "retry")
        draft = c.stripe.all("/v1/invoices")[0]
        c.stripe.ask("POST", "/v1/invoiceitems", {"customer": customer, "invoice": draft["id"], "amount": "1",
                                                  "currency": "usd"})
        answer = c.failed("INVOICE_MISMATCH", "stripe.invoices.create", params, "k1")
        equal(answer["retry"], False, "retry")
        equal(c.stripe.ask("GET", "/v1/invoices/" + draft["id"])["status"], "draft", "status")


def test_largest_amounts(bench):
    """An invoice may have every amount that Stripe charges in some currency: up to 12 digits (IDR)."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        most = 10 ** 12 - 1
        params = invoice_of(tenant, customer, (most, 5 - most, most - 5), currency="idr")
        equal(c.done("stripe.invoices.create", params, "k1")["amount"], most, "amount")
        c.failed("VALIDATION_ERROR", "stripe.invoices.create", {**params, "amount": most + 1}, "k2")
        c.failed("VALIDATION_ERROR", "stripe.invoices.create", invoice_of(tenant, customer, (-most - 1, most + 2)), "k3")


def test_declined(bench):
    """A declined card leaves the invoice open. A later payment is attempted with a separate key."""
    with executor(bench) as c:
        tenant, customer = c.paying("4000000000000341")
        answer = c.execute("stripe.invoices.create", invoice_of(tenant, customer), "billing-x")
        equal((answer["ok"], answer["data"]["status"], answer["result_meta"]["payment_error"]),
              (True, "open", "card_declined"), "declined")
        name = answer["data"]["invoice"]
        equal(len(c.stripe.requests("POST", "/v1/invoices/%s/pay" % name)), 1, "payment requests after a declined card")
        equal(c.done("stripe.invoices.pay", {"invoice": name}, "retry-1")["status"], "open", "still declined")
        method = c.stripe.ask("POST", "/v1/payment_methods", {"type": "card", "card[token]": "tok_visa"})["id"]
        c.stripe.ask("POST", "/v1/payment_methods/%s/attach" % method, {"customer": customer})
        c.done("stripe.customers.update", {"customer": customer, "default_payment_method": method}, "d2")
        paid = c.done("stripe.invoices.pay", {"invoice": name}, "retry-2")
        equal((paid["status"], paid["invoice"]), ("paid", name), "another card")
        equal(c.done("stripe.invoices.pay", {"invoice": name}, "retry-3")["status"], "paid", "already paid")
        nobody, without = c.customer()
        data = c.done("stripe.invoices.create", invoice_of(nobody, without), "billing-y")
        equal(data["status"], "open", "no payment method at all")


def test_list(bench):
    """Contract 5: stripe.invoices.list returns the invoices at Stripe, page by page, with the metadata that reconcile
    uses."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        names = [c.done("stripe.invoices.create", invoice_of(tenant, customer, period="2026-%02d" % month),
                        "billing-%d" % month)["invoice"] for month in range(1, 6)]
        found, after = [], {}
        while True:
            data = c.done("stripe.invoices.list", {"limit": 2, **after})
            found += data["invoices"]
            if not data["has_more"]:
                break
            after = {"starting_after": data["invoices"][-1]["invoice"]}
        equal([invoice["invoice"] for invoice in found], names[::-1], "invoices")
        equal((found[0]["status"], found[0]["amount"], found[0]["currency"], found[0]["metadata"]["period"]),
              ("paid", 120, "usd", "2026-05"), "one")
        later = c.done("stripe.invoices.list", {"created_from": int(time.time()) + 100})
        equal(later, {"invoices": [], "has_more": False}, "of the future")


# Faults ---------------------------------------------------------------------------------------------------------------

def test_passing_faults(bench):
    """After 409, 429, 5xx and lost replies, the request is retried with backoff and the same key; there is one
    effect."""
    with executor(bench) as c:
        for status in (409, 429, 500, 502, 503):
            tenant = str(uuid.uuid4())
            before = len(c.stripe.all("/v1/customers"))
            c.stripe.control(fail={"path": "/v1/customers", "method": "POST", "status": status})
            c.customer(tenant)
            sent = [r for r in c.stripe.requests("POST", "/v1/customers") if tenant in r["params"]]
            equal([r["status"] for r in sent], [status, 200], "statuses")
            equal({r["idempotency_key"] for r in sent}, {"customer-" + tenant}, "keys")
            equal(len(c.stripe.all("/v1/customers")), before + 1, "customers")


def test_lost_replies(bench):
    """Stripe executes a step of an invoice and its reply is lost. For every step, exactly one of each object
    exists."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        for number, path in enumerate(["/v1/invoices", "/v1/invoiceitems", "/v1/invoices/*/finalize",
                                       "/v1/invoices/*/pay", "/v1/invoices/in_*"]):
            c.stripe.control(drop={"path": path, **({"method": "POST"} if path == "/v1/invoices" else {})})
            data = c.done("stripe.invoices.create", invoice_of(tenant, customer, period="2026-%02d" % (number + 1)),
                          "billing-%d" % number)
            equal((data["status"], data["amount"]), ("paid", 120), "after a lost reply of " + path)
            equal(len(c.stripe.all("/v1/invoices")), number + 1, "invoices")
            equal(len(c.stripe.all("/v1/invoiceitems")), 2 * (number + 1), "items")
            equal(len([r for r in c.stripe.requests() if r["dropped"]]), number + 1, "lost replies")
        equal(len([e for e in c.stripe.all("/v1/events") if e["type"] == "invoice.paid"]), 5, "payments")


def test_stripe_s_advice(bench):
    """Stripe-Should-Retry is followed, both true and false."""
    with executor(bench) as c:
        c.stripe.control(fail={"path": "/v1/customers", "status": 500, "should_retry": False})
        params = {"tenant_uuid": NIL, "agent_id": "a", "email": "a@example.com"}
        c.failed("api_error", "stripe.customers.create", params, "a")
        equal(len(c.stripe.requests("POST", "/v1/customers")), 1, "requests")
        c.stripe.control(fail={"path": "/v1/customers", "status": 400, "should_retry": True})
        c.done("stripe.customers.create", params, "b")
        equal([r["status"] for r in c.stripe.requests("POST", "/v1/customers")], [500, 400, 200], "repeated")


def test_refusals_are_final(bench):
    """A request is never retried after any other 4xx."""
    with executor(bench) as c:
        for status in (400, 402, 403, 404, 422):
            c.stripe.control(fail={"path": "/v1/customers", "status": status, "times": 5})
            before = len(c.stripe.requests("POST", "/v1/customers"))
            answer = c.failed("invalid_request_error", "stripe.customers.create",
                              {"tenant_uuid": NIL, "agent_id": "a", "email": "a@example.com"}, "k%d" % status)
            equal((answer["status"], answer["retry"]), (status, False), "answer")
            equal(len(c.stripe.requests("POST", "/v1/customers")), before + 1, "requests")
            c.stripe.control(reset=True)


def test_mismatched_keys(bench):
    """Stripe's rule: a key that was used with other parameters is refused, which is not retried."""
    with executor(bench) as c:
        one = {"tenant_uuid": NIL, "agent_id": "a", "email": "a@example.com"}
        c.done("stripe.customers.create", one, "same")
        answer = c.failed("idempotency_error", "stripe.customers.create", {**one, "agent_id": "b"}, "same")
        equal((answer["status"], answer["retry"]), (400, False), "answer")


def test_kept_errors(bench):
    """Stripe keeps a 500 for its key for a day, so further retries are useless. After that the action is executed
    once."""
    with executor(bench) as c:
        c.stripe.control(fail={"path": "/v1/customers", "status": 500, "stored": True})
        tenant = str(uuid.uuid4())
        params = {"tenant_uuid": tenant, "agent_id": "a", "email": "a@example.com"}
        answer = c.failed("api_error", "stripe.customers.create", params, "k", timeout_ms=8000)
        equal(answer["retry"], True, "retry")
        equal(len(c.stripe.requests("POST", "/v1/customers")), 2, "requests")
        c.stripe.control(clock={"advance": 25 * 3600})
        c.done("stripe.customers.create", params, "k", obliged_at=int(time.time()) - 25 * 3600)
        equal(len(c.stripe.all("/v1/customers")), 1, "customers")


@pytest.mark.slow
def test_slow(bench):
    """A time limit covers the whole execution. If the reply is late, the outcome is "not known"; there is one
    effect."""
    with executor(bench) as c:
        c.stripe.control(slow={"path": "/v1/customers", "seconds": 3})
        tenant = str(uuid.uuid4())
        params = {"tenant_uuid": tenant, "agent_id": "a", "email": "a@example.com"}
        began = time.monotonic()
        answer = c.failed("UPSTREAM_FAILED", "stripe.customers.create", params, "slow", timeout_ms=1000)
        check(time.monotonic() - began < 2.5, "it took %.1f s" % (time.monotonic() - began))
        equal((answer["status"], answer["retry"]), (None, True), "answer")
        # While the first request runs, Stripe answers 409, and afterwards with the first one's result.
        c.done("stripe.customers.create", params, "slow", timeout_ms=20000)
        equal(len(c.stripe.all("/v1/customers")), 1, "customers")
        check(409 in [r["status"] for r in c.stripe.requests("POST", "/v1/customers")], "no 409 was seen")


def test_away(bench):
    """If Stripe is down, the failure is temporary. Once Stripe is back, the same action is executed once."""
    with executor(bench) as c:
        c.customer()
        c.stripe.stop()
        tenant = str(uuid.uuid4())
        params = {"tenant_uuid": tenant, "agent_id": "a", "email": "a@example.com"}
        try:
            answer = c.failed("UNAVAILABLE", "stripe.customers.create", params, "away", timeout_ms=1500)
        finally:
            c.stripe.start()
        equal((answer["status"], answer["retry"]), (None, True), "answer")
        c.done("stripe.customers.create", params, "away")
        equal(len(c.stripe.all("/v1/customers")), 1, "customers")


def test_tls(bench):
    """TLS is on and verified. A server without a valid certificate never receives the key."""
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        pem, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", key, "-out", pem, "-days", "1", "-subj", "/CN=127.0.0.1", "-addext",
                        "subjectAltName=IP:127.0.0.1"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                received.append(self.headers["Authorization"])
                self.send_error(500)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            with executor(bench, stripe_url="https://127.0.0.1:%d" % server.server_address[1]) as c:
                c.failed("UNAVAILABLE", "stripe.invoices.list", {}, timeout_ms=1500)
                check("certificate" in c.responder.read_log(), "the log does not have the reason")
        finally:
            server.shutdown()
            server.server_close()
        equal(received, [], "credentials that an unknown server received")


def test_wrong_key_of_stripe(bench):
    """No reply, log line or audit row shows the vendor's key, not even a key that Stripe refuses."""
    wrong = "sk_test_" + "wrong" * 8
    with executor(bench, stripe_key=wrong, log_level="debug") as c:
        params = {"tenant_uuid": NIL, "agent_id": "a", "email": "a@example.com"}
        reply = c.post(envelope("stripe.customers.create", params, "k"))
        equal((reply.json["ok"], reply.json["status"]), (False, 401), "answer")
        for place in (reply.body.decode(), c.responder.log_of([reply]), json.dumps(c.event(reply.request_id))):
            check(wrong not in place and wrong[:16] not in place and KEY not in place, "a key is in %s" % place)
        equal(len(c.stripe.requests("POST", "/v1/customers")), 1, "requests")


def test_parallel(bench):
    """Executing the same obligation several times at once creates one invoice and returns the same answer to
    each."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        params = invoice_of(tenant, customer)
        c.stripe.control(slow={"path": "/v1/invoices", "method": "POST", "seconds": 0.5})
        body = {**envelope("stripe.invoices.create", params, "billing-p"), "trace": {"timeout_ms": 30000}}
        answers = [reply.json for reply in parallel(4, lambda _: c.post(body))]
        check(all(answer["ok"] for answer in answers), "answers %s" % answers)
        equal({answer["data"]["invoice"] for answer in answers}, {c.stripe.all("/v1/invoices")[0]["id"]}, "invoices")
        equal({answer["data"]["status"] for answer in answers}, {"paid"}, "statuses")
        equal((len(c.stripe.all("/v1/invoices")), len(c.stripe.all("/v1/invoiceitems"))), (1, 2), "held")


def test_old_obligations(bench):
    """An obligation older than 23 h is first looked up by its metadata, and continued from its current state."""
    with executor(bench) as c:
        old = {"obliged_at": int(time.time()) - 30 * 3600}
        tenant, customer = c.paying()
        again = c.done("stripe.customers.create", {"tenant_uuid": tenant, "agent_id": "agent-1",
                                                   "email": "%s@example.com" % tenant}, "other-key", **old)["customer"]
        equal(again, customer, "customer")
        broken_at = [("/v1/invoiceitems", 0), ("/v1/invoiceitems", 1), ("/v1/invoices/*/finalize", 0),
                     ("/v1/invoices/*/pay", 0)]
        for number, (path, after) in enumerate(broken_at):
            key = "billing-old-%d" % number
            params = invoice_of(tenant, customer, period="2025-%02d" % (number + 1))
            c.stripe.control(fail={"path": path, "status": 500, "after": after, "times": 1, "should_retry": False})
            c.failed("api_error", "stripe.invoices.create", params, key)
            c.stripe.control(clock={"advance": 25 * 3600})
            data = c.done("stripe.invoices.create", params, key, **old)
            equal((data["status"], data["amount"]), ("paid", 120), "continued after " + path)
            equal(c.done("stripe.invoices.create", params, key, **old), data, "repeated")
            equal(len(c.stripe.all("/v1/invoices")), number + 1, "invoices")
            equal(len(c.stripe.all("/v1/invoiceitems")), 2 * (number + 1), "items")


def test_old_among_many(bench):
    """An old obligation's invoice is found even if the customer has more invoices than one page."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        params = invoice_of(tenant, customer)
        first = c.done("stripe.invoices.create", params, "billing-1")
        for _ in range(101):
            c.stripe.ask("POST", "/v1/invoices", {"customer": customer})
        c.stripe.control(clock={"advance": 25 * 3600})
        equal(c.done("stripe.invoices.create", params, "billing-1", obliged_at=int(time.time()) - 24 * 3600), first,
              "the existing invoice")
        equal(len(c.stripe.all("/v1/invoices")), 102, "invoices")


def test_one_invoice_a_month(bench):
    """Stripe gets one invoice for a tenant and month, also if another obligation asks for it, whose caller was restored
    from a backup. An invoice with another amount is left unchanged, and both amounts are named."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        first = c.done("stripe.invoices.create", invoice_of(tenant, customer), "billing-1")
        again = c.done("stripe.invoices.create", invoice_of(tenant, customer, (60, 60)), "billing-2")
        equal(again, first, "the same amount")
        equal(c.event()["result_meta"].get("found"), True, "found, in the audit row")
        answer = c.failed("INVOICE_MISMATCH", "stripe.invoices.create", invoice_of(tenant, customer, (100,)), "billing-3")
        equal(answer["retry"], False, "retry")
        for words in (first["invoice"], "120 usd", "100 usd", "left unchanged"):
            check(words in answer["error_message_redacted"], "%s: %s" % (words, answer))
        answer = c.failed("INVOICE_MISMATCH", "stripe.invoices.create", invoice_of(tenant, customer, currency="eur"), "b-4")
        equal(len(c.stripe.all("/v1/invoices")), 1, "invoices")
        equal(len(c.stripe.all("/v1/invoiceitems")), 2, "items")
        c.done("stripe.invoices.create", invoice_of(tenant, customer, period="2026-11"), "billing-5")
        equal(len(c.stripe.all("/v1/invoices")), 2, "invoices, with the next month")


def test_deleted_draft(bench):
    """A draft that an operator deleted at Stripe is made again within the day of its idempotency key, with the same lines
    or others, and once, however many replies are lost."""
    with executor(bench) as c:
        tenant, customer = c.paying()
        same, other = invoice_of(tenant, customer), invoice_of(tenant, customer, (70, 10))
        key = "billing-%s-%s" % (tenant, PERIOD)

        def held():
            drafts = c.stripe.all("/v1/invoices")
            equal([(i["status"], i["metadata"]["period"]) for i in drafts], [("draft", PERIOD)], "invoices")
            return drafts[0]["id"]

        def stuck(params):
            c.stripe.control(fail={"path": "/v1/invoices/*/finalize", "status": 500, "should_retry": False})
            c.failed("api_error", "stripe.invoices.create", params, key)
            c.stripe.control(reset=True)
            return held()

        def lost(params, after=2):  # the first replies tell of deleted drafts and other lines
            c.stripe.control(drop={"method": "POST", "path": "/v1/invoices", "times": -1, "after": after})
            c.failed("UPSTREAM_FAILED", "stripe.invoices.create", params, key, timeout_ms=2000)
            c.stripe.control(reset=True)
            return held()

        seen = []
        for make, params in ((stuck, same), (stuck, same), (lost, same), (stuck, other), (lost, other), (stuck, same)):
            seen.append(make(params))
            c.failed("INVOICE_MISMATCH", "stripe.invoices.create", other if params is same else same, key)
            equal(stuck(params), seen[-1], "the same draft is continued")
            c.stripe.ask("DELETE", "/v1/invoices/" + seen[-1])
        equal(len(set(seen)), len(seen), "each deleted draft was replaced by a new one: %s" % seen)
        lost(other, 3)
        data = c.done("stripe.invoices.create", other, key)
        equal((data["status"], data["amount"]), ("paid", 80), "invoice")
        equal([i["id"] for i in c.stripe.all("/v1/invoices")], [data["invoice"]], "invoices")
        equal(c.done("stripe.invoices.create", other, key), data, "again")


def test_invoice_of_another_customer(bench):
    """An invoice whose customer was deleted at Stripe is made for the next customer within the same day."""
    with executor(bench) as c:
        tenant, first = c.paying()
        key = "billing-%s-%s" % (tenant, PERIOD)
        c.stripe.ask("DELETE", "/v1/customers/" + first)
        c.failed("resource_missing", "stripe.invoices.create", invoice_of(tenant, first), key)
        _, second = c.paying()
        data = c.done("stripe.invoices.create", invoice_of(tenant, second), key)
        equal((data["status"], data["amount"]), ("paid", 120), "invoice")
        equal(len(c.stripe.all("/v1/invoices")), 1, "invoices")


def test_customer_is_looked_up(bench):
    """With lookup, a customer is searched before it is created, and never taken from another installation."""
    with executor(bench) as c:
        tenant = str(uuid.uuid4())
        params = {"tenant_uuid": tenant, "agent_id": "a", "email": "a@example.com"}
        first = c.done("stripe.customers.create", params, "k1", lookup=True, kernel_id="one")["customer"]
        equal(c.done("stripe.customers.create", params, "k2", lookup=True, kernel_id="one")["customer"], first, "found")
        equal(c.done("stripe.customers.create", params, "k3", lookup=True)["customer"], first, "an older kernel")
        other = c.done("stripe.customers.create", params, "k4", lookup=True, kernel_id="two")["customer"]
        check(other != first, "the customer of another installation was taken")
        equal([m["metadata"].get("kernel_id") for m in c.stripe.all("/v1/customers")], ["two", "one"], "kernel_id")


def test_whose_metadata(bench):
    """The metadata at Stripe name the kernel that asked, which a remote kernel sends. Each kernel has its own invoice
    of a month; an older kernel, which sends no name, finds them all."""
    with kernel_a(bench, kernel_id="c") as (a, _, c):
        tenant, customer = c.paying()
        made = a.execute("stripe.invoices.create", invoice_of(tenant, customer), "billing-a")["data"]["invoice"]
        equal(c.stripe.ask("GET", "/v1/invoices/" + made)["metadata"]["kernel_id"], "acp-fcgi", "kernel_id of A")
        other = c.done("stripe.invoices.create", invoice_of(tenant, customer), "billing-b", kernel_id="other")
        check(other["invoice"] != made, "the invoice of another installation was taken")
        equal(c.done("stripe.invoices.create", invoice_of(tenant, customer), "billing-c")["invoice"], other["invoice"],
              "without a name")
        c.stripe.ask("POST", "/v1/customers", {"email": "b@example.com"})
        second = c.stripe.ask("POST", "/v1/customers", {"email": "b@example.com", "metadata[tenant_uuid]": tenant})["id"]
        data = c.done("stripe.invoices.create", invoice_of(tenant, second), "billing-d", kernel_id="other", email="x@y.zz")
        check(data["invoice"] != other["invoice"], "another customer, under another address")
        params = invoice_of(tenant, second, period="2026-11")
        made = c.done("stripe.invoices.create", {**params, "customer": customer}, "billing-e", kernel_id="other")
        email = "%s@example.com" % tenant
        data = c.done("stripe.invoices.create", params, "billing-f", kernel_id="other", email=email)
        equal(data["invoice"], made["invoice"], "the invoice at the tenant's other customer")


def test_events(bench):
    """stripe.events.list returns the events since a moment, page by page, as Stripe sends them to webhooks."""
    with executor(bench) as c:
        c.paying()
        page = c.done("stripe.events.list", {"created_from": 0, "limit": 2})
        rest = c.done("stripe.events.list", {"created_from": 0, "starting_after": page["events"][-1]["id"]})
        equal(([*page["events"], *rest["events"]], page["has_more"], rest["has_more"]),
              (c.stripe.all("/v1/events"), True, False), "events")
        equal(c.done("stripe.events.list", {"created_from": int(time.time()) + 100})["events"], [], "of the future")


# A remote executor --------------------------------------------------------------------------------------------------

class Front:
    """An HTTP server in front of a responder's socket, like a web server; the address of Repo C."""

    def __init__(self, responder):
        front = self
        self.replies = []  # the next replies: a status sent without calling C, or None to call C and lose the reply

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name: self.headers[name] for name in ("Content-Type", "Authorization") if self.headers[name]}
                other = front.replies.pop(0) if front.replies else "ask"
                if other is None or other == "ask":
                    reply = responder.ask("POST", self.path, body, headers)
                if other is None:
                    self.close_connection = True
                    return
                status, text = (reply.status, reply.body) if other == "ask" else (other, b"<h1>busy</h1>")
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def built(bench, folder):
    """Builds tests/e2e/execute.c with the installed library: kernel A without a vendor's key. Returns its path."""
    compiler = shutil.which("cc")
    prefix = bench.stack.prefix
    if not compiler or not prefix or not os.path.exists(os.path.join(prefix, "lib", "libacp.a")):
        raise Skip("needs a C compiler and the installed library (--prefix)")
    program = os.path.join(folder, "execute")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "execute.c")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "json-c", "libcurl", "libcrypto"], text=True,
                           stdout=subprocess.PIPE, check=True).stdout.split()
    library = os.path.join(prefix, "lib", "libacp.a")
    # If the library was built with sanitizers or for coverage, the program needs the same options.
    for more in ([], ["-fsanitize=address,undefined"], ["-lgcov"]):
        done = subprocess.run([compiler, "-D_GNU_SOURCE", "-DACP_SQL_DIR=\"\"", "-I", os.path.join(prefix, "include", "acp"),
                               source, library, "-o", program, *more, *flags, "-lm", "-lpthread"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            return program
    raise Failure("tests/e2e/execute.c cannot be built: %s" % done.stdout)


class Kernel:
    """Kernel A, a client of the executor at url."""

    def __init__(self, bench, folder, url, key=KEY):
        config = os.path.join(folder, "acp.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write("executor_url = %s\nexecutor_key = %s\nlog_level = debug\n" % (url, key))
        self.process = subprocess.Popen([built(bench, folder), config], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=clean_environment(), stderr=subprocess.PIPE)

    def execute(self, action, params, key=None, **more):
        request = {"tenant_id": params.get("tenant_uuid", NIL), "action": action, "params": params, **more}
        self.process.stdin.write(json.dumps({**request, **({"idempotency_key": key} if key else {})}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        """Ends the program; returns its log."""
        _, log = self.process.communicate(timeout=30)
        return log


@contextlib.contextmanager
def kernel_a(bench, key=KEY, **settings):
    """Yields (kernel A, the front of Repo C, Repo C)."""
    with executor(bench, **settings) as c, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        front = Front(c.responder)
        a = Kernel(bench, folder, front.url, key)
        try:
            yield a, front, c
        finally:
            a.process.kill()
            a.process.communicate()
            front.close()


def test_remote(bench):
    """Contract 2.3: the same actions work through another program that has the vendor's key. A's process never has
    it."""
    with kernel_a(bench) as (a, _, c):
        tenant, customer = c.paying()
        made = a.execute("stripe.invoices.create", invoice_of(tenant, customer), "billing-r")
        equal((made["ok"], made["data"]["status"], made["data"]["amount"]), (True, "paid", 120), str(made))
        again = a.execute("stripe.invoices.create", invoice_of(tenant, customer), "billing-r")
        equal(again, made, "again")
        listed = a.execute("stripe.invoices.list", {})
        equal([one["invoice"] for one in listed["data"]["invoices"]], [made["data"]["invoice"]], "list")
        rows = bench.db.rows("select * from acp.audit_logs where idempotency_key = 'billing-r' and pack = 'stripe'")
        rows = [row for row in rows if row["result_meta"]["tenant_id"] == tenant]
        equal([(row["status"], row["actor_type"], row["billable"]) for row in rows], [("success", "system", False)] * 2,
              "audit rows of the executor")
        hashes = {row["request_hash"] for row in rows}
        check(len(hashes) == 1 and "0" * 64 not in hashes, "request hashes %s" % hashes)
        with open("/proc/%d/environ" % a.process.pid, "rb") as file:
            check(c.stripe.key.encode() not in file.read(), "A has the vendor's key")
        check(KEY not in a.end(), "A's log shows the executor's key")


@pytest.mark.slow
def test_remote_faults(bench):
    """The connection to C is as unreliable as the one to Stripe. C can be busy, lose replies or be down; there
    is one effect."""
    with kernel_a(bench) as (a, front, c):
        for number, replies in enumerate([[503], [429, 502], [None], [None, 500, None]]):
            tenant = str(uuid.uuid4())
            front.replies[:] = replies
            params = {"tenant_uuid": tenant, "agent_id": "a", "email": "%s@example.com" % tenant}
            done = a.execute("stripe.customers.create", params, "customer-" + tenant, timeout_ms=20000)
            equal((done["ok"], front.replies), (True, []), str(done))
            equal(len(c.stripe.all("/v1/customers")), number + 1, "customers")
        tenant, customer = c.customer()
        front.replies[:] = [None]
        made = a.execute("stripe.checkout.create", session_of(tenant, customer))  # the caller sets no key
        equal((made["ok"], len(c.stripe.all("/v1/checkout/sessions"))), (True, 1), "sessions")
        refused = a.execute("stripe.customers.update", {"customer": "cus_none", "name": "N"}, "k")
        equal((refused["ok"], refused["error_code"], refused["status"], refused["retry"]),
              (False, "resource_missing", 404, False), "a refusal by Stripe")
        front.replies[:] = [400, 200]
        strange = a.execute("stripe.invoices.list", {})
        equal((strange["ok"], strange["retry"], front.replies), (False, False, [200]), "a refusal by C is final")
        front.replies[:] = [200] * 20
        strange = a.execute("stripe.invoices.list", {}, timeout_ms=1000)
        equal((strange["ok"], strange["retry"]), (False, True), "a 200 without a valid answer")


def test_remote_key(bench):
    """Contract 1: C refuses a wrong executor key, and A reports that."""
    with kernel_a(bench, key="z" * 40) as (a, _, c):
        answer = a.execute("stripe.invoices.list", {})
        equal((answer["ok"], answer["retry"], answer["error"]),
              (False, True, "the executor refuses this installation's executor_key"), str(answer))
        equal(c.stripe.requests(), [], "requests to Stripe")
    with kernel_a(bench, executor_key=None) as (a, _, c):
        answer = a.execute("stripe.invoices.list", {})
        check(not answer["ok"] and "no executor" in answer["error"], str(answer))


def check_config(bench, **settings):
    """Runs acp.fcgi --check-config with these settings; returns (exit status, messages)."""
    responder = Responder(bench.stack, **settings)
    try:
        done = bench.stack.program("acp.fcgi", "--check-config", config=responder.config)
        return done.returncode, done.stderr
    finally:
        responder.dir.cleanup()


def test_settings(bench):
    """The vendor's key is either here or at the executor, never both. Nothing crosses a network unencrypted."""
    good = {"executor_url": "https://c.example.com/acp", "executor_key": KEY}
    equal(check_config(bench, **good)[0], 0, "a remote executor")
    wrong = [({**good, "stripe_key": "sk_test_x"}, "stripe_key and executor_url"),
             ({**good, "executor_key": None}, "executor_key"),
             ({**good, "executor_key": "short"}, "executor_key"),
             ({**good, "executor_url": "http://c.example.com"}, "executor_url = http://c.example.com"),
             ({**good, "executor_url": "https://c.example.com/"}, "executor_url"),
             ({"stripe_key": "sk_test_x", "stripe_url": "http://api.example.com"}, "stripe_url"),
             ({"stripe_key": "sk test"}, "stripe_key"), ({"executor_key": KEY, "kernel_key": KEY}, "executor_key"),
             ({"stripe_webhook_secret": "a b c"}, "stripe_webhook_secret")]
    for settings, words in wrong:
        status, said = check_config(bench, **settings)
        check(status == 78 and words in said, "%s: %d %s" % (settings, status, said))
        check("sk_test_x" not in said and KEY not in said, "a secret in %s" % said)


def test_vendor_key_file(bench):
    """The vendor's key can be read from a file, and is not in the arguments of any process."""
    with StandIn() as stand_in:
        responder = Responder(bench.stack, stripe_url=stand_in.url, executor_key=KEY, stripe_key_file="/dev/null")
        path = os.path.join(responder.dir.name, "stripe_key")
        with open(path, "w", encoding="utf-8") as file:
            file.write(stand_in.key + "\n")
        responder.write_config(stripe_key_file=path)
        with responder:
            c = Executor(bench, responder, stand_in)
            c.customer()
            for name in os.listdir("/proc"):
                with contextlib.suppress(OSError):
                    with open("/proc/%s/cmdline" % name, "rb") as file:
                        check(stand_in.key.encode() not in file.read(), "the key is an argument of process " + name)


def test_concurrent_distinct(bench):
    """Each of many concurrent executions has its own effect and its own audit row."""
    with executor(bench) as c:
        tenants = [str(uuid.uuid4()) for _ in range(20)]

        def make(number):
            params = {"tenant_uuid": tenants[number], "agent_id": "a", "email": "a%d@example.com" % number}
            return c.post(envelope("stripe.customers.create", params, "customer-" + tenants[number])).json
        answers = parallel(20, make)
        check(all(answer["ok"] for answer in answers), "answers %s" % answers)
        equal(len(c.stripe.all("/v1/customers")), 20, "customers")
        rows = bench.audit_rows([answer["request_id"] for answer in answers])
        check(all(len(found) == 1 for found in rows.values()), "audit rows")
