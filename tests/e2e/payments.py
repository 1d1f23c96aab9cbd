"""An installation that accepts payments: a responder with the stand-in for Stripe. The test's own HTTP server is in
front of it, so that humans and Stripe reach it at its public URL."""

import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time
import urllib.error
import urllib.request
import uuid

from client import ONBOARD, SCORE, SCORE_PARAMS
from fcgi import Responder, ask
from checks import Failure, check, until
from stripe import StandIn

HOOK = "/api/webhooks/stripe"
CHECKOUT = "/api/upgrade/checkout"


class Gate:
    """An HTTP server on loopback that forwards every request to a responder; a context manager."""

    def __init__(self):
        self.socket = None  # of the responder; None: no responder, the reply is 502
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def pass_on(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    reply = ask(outer.socket, self.command, self.path, body, dict(self.headers))
                except (Failure, OSError, TypeError):
                    self.send_error(502)
                    return
                self.send_response_only(reply.status)
                for name, value in reply.headers.items():
                    if name not in ("Status", "Content-Length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = pass_on

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self._server.server_port

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Payments:
    def __init__(self, bench, gate, stand_in, settings):
        self.bench, self.db, self.gate, self.stripe, self.settings = bench, bench.db, gate, stand_in, settings
        self.url = gate.url

    # Requests of a browser and an agent ---------------------------------------------------------------------------

    def open(self, url, headers=None, method="GET", body=None):
        """Requests a URL without following redirects; returns (status, headers, body)."""
        request = urllib.request.Request(url, body, headers or {}, method=method)
        try:
            with urllib.request.build_opener(Stay).open(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def send(self, method, path, body=None, key=None, headers=None):
        """Sends a request as an agent; returns (status, JSON)."""
        sent = {"X-API-Key": key} if key else {}
        if body is not None:
            sent["Content-Type"] = "application/json"
        data = json.dumps(body).encode() if body is not None else None
        status, _, reply = self.open(self.url + path, {**sent, **(headers or {})}, method, data)
        return status, json.loads(reply) if reply else None

    def onboard(self, **more):
        """Creates a tenant; returns the members of the reply."""
        agent = "pay-%s" % uuid.uuid4()
        status, reply = self.send("POST", ONBOARD, {"agent_id": agent, "email": "human@example.com", **more})
        check(status == 201, "onboarding: %d %s" % (status, reply))
        self.bench.keys.add(reply["api_key"])
        return reply

    def score(self, key):
        return self.send("POST", "/api/manage", {"action": SCORE, "params": SCORE_PARAMS}, key)

    def checkout(self, tenant):
        """Requests a checkout as the agent; returns the reply."""
        status, reply = self.send("POST", CHECKOUT, None, tenant["api_key"])
        check(status == 200, "checkout: %d %s" % (status, reply))
        return reply

    # Stored state -------------------------------------------------------------------------------------------------

    def tenant(self, tenant):
        return self.db.row("select *, acp.effective_tier(tier, payment_method_status, past_due_until, acp.now()) "
                           "as effective_tier from acp.tenants where tenant_id = :'id'", id=tenant["tenant_uuid"])

    def owed(self, tenant, where="done_at is null"):
        return self.db.rows("select * from acp.outbox where tenant_id = :'id' and %s order by outbox_id" % where,
                            id=tenant["tenant_uuid"])

    def becomes(self, tenant, seconds=15, **wanted):
        """Waits until the tenant's row has these values; returns the row."""
        row = {}

        def probe():
            row.update(self.tenant(tenant))
            return all(row[name] == value for name, value in wanted.items())
        try:
            until(seconds, "the tenant becomes %s" % wanted, probe, 0.05)
        except Failure as error:
            raise Failure("%s; it is %s; owed: %s" % (error, {name: row[name] for name in wanted}, self.owed(tenant)))
        return row

    def settled(self, tenant, seconds=15):
        """Waits until the tenant has no open obligation."""
        until(seconds, "nothing is owed", lambda: not self.owed(tenant, "done_at is null and not dead"), 0.05)

    def customer(self, tenant, seconds=60):
        """Waits until the tenant has a customer, which a slow onboarding leaves to the outbox; returns its id."""
        return until(seconds, "the customer exists", lambda: self.tenant(tenant)["stripe_customer_id"], 0.05)

    def customers(self, tenant):
        """The customers of the tenant at Stripe."""
        name = tenant["tenant_uuid"]
        return [c for c in self.stripe.all("/v1/customers") if c["metadata"].get("tenant_uuid") == name]

    def upgrade(self, tenant):
        """Runs a whole upgrade: the agent requests a checkout, the human completes it, Stripe reports it."""
        self.stripe.complete(self.checkout(tenant)["checkout_url"])
        self.becomes(tenant, effective_tier="paid")
        return self.settled(tenant)

    # Stripe ---------------------------------------------------------------------------------------------------------

    def event(self, kind, subject, created=None, **more):
        """An event in the form that Stripe sends."""
        return {"id": "evt_%s" % uuid.uuid4().hex, "object": "event", "api_version": "2024-06-20", "type": kind,
                "created": int(created or time.time()), "livemode": False, "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None}, "data": {"object": subject, **more}}

    def completed(self, tenant, created=None, session=None, **more):
        session = session or "cs_test_%s" % uuid.uuid4().hex
        return self.event("checkout.session.completed", {
            "id": session, "object": "checkout.session", "mode": "setup", "status": "complete",
            "client_reference_id": tenant["tenant_uuid"], "metadata": {"tenant_uuid": tenant["tenant_uuid"]},
            "customer": self.customer(tenant), "setup_intent": "seti_" + session[8:],
            **more}, created)

    def detached(self, method, customer, created=None):
        return self.event("payment_method.detached", {"id": method, "object": "payment_method", "customer": None},
                          created, previous_attributes={"customer": customer})

    def deliver(self, event, secret=None, skew=0, header=None):
        """Sends a signed event; returns (status, JSON)."""
        body = event if isinstance(event, bytes) else json.dumps(event, indent=2).encode()
        at = int(time.time()) + skew
        mac = hmac.new((secret or self.stripe.secret).encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json; charset=utf-8",
                   "Stripe-Signature": "t=%d,v1=%s" % (at, mac) if header is None else header}
        if header == "":
            del headers["Stripe-Signature"]
        status, _, reply = self.open(self.url + HOOK, headers, "POST", body)
        return status, json.loads(reply)

    def responder(self, **settings):
        """Another responder of the same installation."""
        return Responder(self.bench.stack, **{**self.settings, **settings})


@contextlib.contextmanager
def payments(bench, **settings):
    """An installation and a stand-in for Stripe, both only for this test."""
    bench.stack.need_programs()
    with Gate() as gate, StandIn(webhook_url=gate.url + settings.get("url_prefix", "") + HOOK) as stand_in:
        options = {**stand_in.settings(), "public_url": gate.url, "onboard_per_ip": "100000", "onboard_total": "100000",
                   "workers": "8", **settings}
        with Responder(bench.stack, **options) as responder:
            gate.socket = responder.socket
            pay = Payments(bench, gate, stand_in, options)
            pay.process = responder.process
            pay.read_log = responder.read_log
            yield pay
