#!/usr/bin/env python3
"""A stand-in for Stripe on loopback, for tests and the demo: the wire format of the part of Stripe's API that acp-fcgi
uses, with its rules for idempotency keys, its errors, its lists and its signed webhooks. Nothing is charged.

  stand_in.py --port N --key sk_test_… [--webhook-url URL --webhook-secret whsec_…] [--state FILE]

Secrets may come from the environment instead: STAND_IN_KEY, STAND_IN_WEBHOOK_SECRET.

A person opens the url of a checkout session, sees a page with a button, and is redirected to success_url.

POST /_control takes a JSON object; each member is one command:
  {"fail": {"path": "/v1/invoices", "status": 500, "times": 3}}   refuses before doing anything; with "stored": true
                                           the error is kept under the idempotency key, as Stripe keeps its 500s;
                                           "should_retry": true|false sends the header Stripe-Should-Retry
  {"slow": {"path": "/v1/*", "seconds": 3}}                       answers later
  {"drop": {"path": "/v1/invoices/*/pay"}}                        does the work and closes without a reply
      all three: "method", "times" (default 1, -1 always), "after" (number of requests that pass first)
  {"decline": {"customer": "cus_…" or "*", "times": 1}}           refuses payments (-1 always, 0 stops)
  {"clock": {"advance": 86400}}                                   the account's clock
  {"happen": {"what": "replace_card", "customer": "cus_…"}}       a person uses Stripe's portal, or Stripe acts by itself:
      replace_card, delete_customer (customer); update_card (payment_method); uncollectible, refund (amount, fails),
      credit (amount), dispute (ends: won or lost; without it opens one), fraud_warning (invoice);
      event (text): an event of exactly this JSON text, which has an id, and may have what no JSON library writes
  {"webhooks": {"url": …, "secret": …, "hold": true, "duplicate": 1, "shuffle": true, "skew": -400, "release": true,
                "send": ["evt_…"]}}
  {"reset": true}                                                 ends faults and declines, resets webhooks
GET /_control returns the clock, the state of the webhooks and the requests so far (without secrets).
"""

import argparse
import hashlib
import html
import http.server
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import urllib.parse

sys.dont_write_bytecode = True

from account import VERSION, Account, encoded, key_shown
from faults import Faults
from forms import BadRequest, Invalid, decoded
from hooks import Hooks

KEY_SECONDS = 24 * 3600  # lifetime of an idempotency key
BODY_MAX = 16 << 20

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Checkout (stand-in for Stripe)</title>
<style>body{font:16px/1.5 sans-serif;max-width:28em;margin:4em auto;padding:0 1em}button{font:inherit;padding:.5em 2em}
label{display:block;margin:.5em 0}</style></head><body>%s</body></html>
"""
FORM = """<h1>Save a card</h1><p>This is a stand-in for Stripe on this computer. No card is charged.</p>
<form method="post"><label><input type="radio" name="card" value="4242424242424242" checked> 4242 4242 4242 4242, works
</label><label><input type="radio" name="card" value="4000000000000341"> 4000 0000 0000 0341, is declined when charged
</label><button>Save card</button></form><p><a href="%s">Back</a></p>"""


class StandIn(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, key, hooks, state):
        self.key, self.hooks = key, hooks
        self.faults = Faults()
        self.account = Account(state)
        self.lock = threading.Lock()
        self.requests = []
        super().__init__(("127.0.0.1", port), Handler)
        self.account.base = "http://127.0.0.1:%d" % self.server_address[1]

    def handle_error(self, request, client_address):
        """Ignores clients that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    # Commands --------------------------------------------------------------------------------------------------------

    def control(self, orders):
        for name, order in orders.items():
            if name in ("fail", "slow", "drop"):
                self.faults.add(name, order)
            elif name == "decline":
                self.account.declines[order["customer"]] = order.get("times", 1)
            elif name == "clock":
                self.account.offset += order["advance"]
                with self.lock:
                    self.account.expire_sessions()
                    self.publish()
            elif name == "happen":
                with self.lock:
                    self.account.happen(order)
                    self.publish()
            elif name == "webhooks":
                self.order_webhooks(order)
            elif name == "reset":
                self.reset()
            else:
                raise ValueError("%s: unknown order" % name)

    def order_webhooks(self, order):
        for name in ("url", "secret", "hold", "duplicate", "shuffle", "skew"):
            if name in order:
                setattr(self.hooks, name, order[name])
        for event in order.get("send", []):
            self.hooks.put([self.account.find("event", event)])
        if order.get("release") or order.get("hold") is False:
            self.hooks.release()

    def reset(self):
        self.faults.clear()
        self.account.declines.clear()
        self.order_webhooks({"hold": False, "duplicate": 0, "shuffle": False, "skew": 0})

    def report(self):
        with self.lock:
            return {"now": self.account.now(), "webhooks": self.hooks.state(), "requests": list(self.requests)}

    def publish(self):
        """Called with the lock held."""
        self.account.save()
        self.hooks.put(self.account.take_events())

    # Calls ---------------------------------------------------------------------------------------------------------

    def run(self, method, path, params):
        """Returns status and body of a call."""
        with self.lock:
            try:
                return 200, self.account.call(method, path, params)
            finally:
                self.publish()

    def claim(self, key, fingerprint):
        """Returns None if the call may run under this key, else the kept reply. Raises Stripe's refusals."""
        with self.lock:
            keys, now = self.account.keys, self.account.now()
            for old in [name for name, use in keys.items() if now - use["at"] >= KEY_SECONDS and use["reply"]]:
                del keys[old]
            kept = keys.get(key)
            if not kept:
                keys[key] = {"fingerprint": fingerprint, "reply": None, "at": now}
                return None
        if kept["fingerprint"] != fingerprint:
            raise BadRequest(400, "Keys for idempotent requests can only be used with the same parameters they were "
                             "first used with. Try using a key other than '%s' if you meant to execute a different "
                             "request." % key, "idempotency_error")
        if not kept["reply"]:
            raise BadRequest(409, "There is currently another in-progress request using this Idempotent Key (that "
                             "probably means you submitted twice, and the other request is still going through): %s. "
                             "Please try again later." % key, "idempotency_error", code="idempotency_key_in_use")
        return kept["reply"]

    def keep(self, key, reply):
        """Stores the reply. None: the endpoint did not start, so the key is free again."""
        with self.lock:
            if reply:
                self.account.keys[key]["reply"] = reply
            else:
                del self.account.keys[key]
            self.account.save()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stand-in"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.serve()

    do_POST = do_DELETE = do_GET

    def serve(self):
        parts = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_MAX:
            self.close_connection = True
            return self.answer_json(413, {"error": {"type": "invalid_request_error", "message": "too long"}})
        body = self.rfile.read(length)
        if parts.path == "/_control":
            self.control(body)
        elif parts.path.startswith("/c/pay/"):
            self.checkout(parts.path[len("/c/pay/"):], body)
        elif parts.path.startswith("/v1/"):
            self.api(parts, body)
        else:
            self.answer_page(404, "<h1>Not found</h1>")

    def answer(self, status, kind, body, headers=()):
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, status, body, headers=()):
        self.answer(status, "application/json", encoded(body), headers)

    def answer_page(self, status, text):
        self.answer(status, "text/html; charset=utf-8", (PAGE % text).encode())

    # Commands and the checkout page -----------------------------------------------------------------------------------

    def control(self, body):
        try:
            if self.command == "POST":
                self.server.control(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, BadRequest) as error:
            return self.answer_json(400, {"error": str(error)})
        self.answer_json(200, self.server.report())

    def checkout(self, name, body):
        server = self.server
        with server.lock:
            session = server.account.objects.get(name)
            if not session or session["object"] != "checkout.session":
                return self.answer_page(404, "<h1>No such page</h1>")
            if session["status"] == "open" and session["expires_at"] <= server.account.now():
                server.account.end_session(session)
            if session["status"] != "open":
                server.publish()
                return self.answer_page(410, "<h1>This page is %s</h1>" % session["status"])
            if self.command == "GET":
                return self.answer_page(200, FORM % html.escape(session["cancel_url"] or session["success_url"]))
            card = urllib.parse.parse_qs(body.decode("ascii", "replace")).get("card", ["4242424242424242"])[0]
            server.account.complete_session(session, re.sub(r"\D", "", card) or "4242424242424242")
            server.publish()
            target = session["success_url"].replace("{CHECKOUT_SESSION_ID}", name)
        self.answer(303, "text/plain", b"", [("Location", target)])

    # The API ---------------------------------------------------------------------------------------------------------

    def check_request(self):
        shown = key_shown(self.headers.get("Authorization"))
        if shown is None:
            raise BadRequest(401, "You did not provide an API key. You need to provide your API key in the "
                             "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').")
        if not secrets.compare_digest(shown.encode(), self.server.key.encode()):
            raise BadRequest(401, "Invalid API Key provided: %s****%s" % (shown[:8], shown[-4:]))
        version = self.headers.get("Stripe-Version", VERSION)
        if not re.fullmatch(r"20[0-9]{2}-[01][0-9]-[0-3][0-9](\.[a-z]+)?", version):
            raise BadRequest(400, "Invalid Stripe API version: %s" % version)
        kind = self.headers.get("Content-Type", "")
        if self.command == "POST" and self.headers.get("Content-Length") not in (None, "0") and not kind.startswith(
                "application/x-www-form-urlencoded"):
            raise BadRequest(400, "Invalid request: the body must be form-encoded")

    def api(self, parts, body):
        text = body.decode("utf-8", "replace") if self.command == "POST" else parts.query
        key = self.headers.get("Idempotency-Key") if self.command == "POST" else None
        headers = [("Request-Id", "req_" + secrets.token_hex(7)),
                   ("Stripe-Version", self.headers.get("Stripe-Version", VERSION))]
        faults = {}
        try:
            self.check_request()
            if key is not None and not 1 <= len(key) <= 255:
                raise BadRequest(400, "Invalid idempotency key: it must have 1 to 255 characters")
            faults = self.server.faults.take(self.command, parts.path)
            status, reply, more = self.under_key(key, parts.path, text, faults)
            headers += more
        except BadRequest as error:
            status, reply = error.status, {"error": error.error}
            if error.error["type"] == "idempotency_error":
                headers += [("Stripe-Should-Retry", "true" if status == 409 else "false")]
        self.note(parts.path, text, key, status, "drop" in faults)
        if "drop" in faults:
            self.close_connection = True
            return
        if key:
            headers.append(("Idempotency-Key", key))
        self.answer_json(status, reply, headers)

    def note(self, path, text, key, status, dropped):
        with self.server.lock:
            self.server.requests.append({"method": self.command, "path": path, "params": text, "status": status,
                                         "idempotency_key": key, "dropped": dropped,
                                         "version": self.headers.get("Stripe-Version")})
            del self.server.requests[:-5000]

    def under_key(self, key, path, text, faults):
        """Returns status, body and headers of a call, or of a kept reply. A refusal by the endpoint is a reply, too."""
        fingerprint = hashlib.sha256(("%s %s %s" % (self.command, path, text)).encode()).hexdigest()
        if key:
            kept = self.server.claim(key, fingerprint)
            if kept:
                return kept[0], kept[1], [("Idempotent-Replayed", "true"), ("Original-Request", kept[2])]
        number = "req_" + secrets.token_hex(7)
        try:
            result = self.perform(path, text, faults)
        except BaseException:
            if key:
                self.server.keep(key, None)
            raise
        began, status, reply, more = result
        if key:
            self.server.keep(key, (status, reply, number) if began else None)
        return status, reply, more

    def perform(self, path, text, faults):
        """Returns (whether the endpoint started, status, body, headers)."""
        if "slow" in faults:
            time.sleep(faults["slow"].get("seconds", 1))
        if "fail" in faults:
            return self.failure(faults["fail"])
        try:
            params = decoded(text)
        except BadRequest as error:
            return False, error.status, {"error": error.error}, []
        try:
            return (True, *self.server.run(self.command, path, params), [])
        except BadRequest as error:
            # A refusal by the parameters alone is not kept; a refusal by the endpoint is.
            return not isinstance(error, Invalid), error.status, {"error": error.error}, []

    def failure(self, fault):
        status = fault.get("status", 500)
        kind, message = "api_error", "An unknown error occurred"
        more = {}
        if status == 429:
            kind, message = "invalid_request_error", "Request rate limit exceeded."
            more = {"code": "rate_limit"}
        elif status < 500:
            kind, message = "invalid_request_error", "The request is refused as ordered."
        headers = []
        if "should_retry" in fault:
            headers.append(("Stripe-Should-Retry", "true" if fault["should_retry"] else "false"))
        error = {"type": kind, "message": message, **more}
        return bool(fault.get("stored")), status, {"error": error}, headers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0: a free one, which is printed")
    parser.add_argument("--key", default=os.environ.get("STAND_IN_KEY"), help="the secret key of clients")
    parser.add_argument("--webhook-url", default="", help="where events are sent")
    parser.add_argument("--webhook-secret", default=os.environ.get("STAND_IN_WEBHOOK_SECRET", ""),
                        help="signs them; two secrets, separated by a space, both sign")
    parser.add_argument("--state", help="file that keeps the objects across restarts")
    options = parser.parse_args()
    if not options.key:
        parser.error("--key is missing")
    server = StandIn(options.port, options.key, Hooks(options.webhook_url, options.webhook_secret), options.state)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print("stand-in for Stripe on %s" % server.account.base, flush=True)
    server.serve_forever(poll_interval=0.1)
    with server.lock:
        server.account.save(at_once=True)


if __name__ == "__main__":
    main()
