#!/usr/bin/env python3
"""Makes a running executor run each of its actions against a stand-in, and prints the requests to Stripe. Environment:
ACP_URL, ACP_EXECUTOR_KEY, ACP_STRIPE_URL."""

import json
import os
import sys
import time
import urllib.parse
import urllib.request
import uuid

URL, STRIPE = os.environ["ACP_URL"], os.environ["ACP_STRIPE_URL"]
TENANT = str(uuid.uuid4())


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def post(url, body, headers=()):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **dict(headers)})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def execute(action, params, key=None, ok=True, **trace):
    body = {"tenant_id": TENANT, "integration": "stripe", "action": action, "params": params,
            "request_hash": "0" * 64, "trace": trace, **({"idempotency_key": key} if key else {})}
    reply = post(URL + "/functions/v1/execute", body, {"Authorization": "Bearer " + os.environ["ACP_EXECUTOR_KEY"]})
    if reply["ok"] != ok:
        sys.exit("%s: %s" % (action, reply))
    return reply.get("data")


def press(page):
    try:
        urllib.request.build_opener(NoRedirect).open(page, b"card=4242424242424242", timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 303:
            raise


def main():
    customer = execute("stripe.customers.create", {"tenant_uuid": TENANT, "agent_id": "agent:1",
                                                   "email": "o'neil+x@example.com",
                                                   "organization_name": "Müller & Söhne"}, "customer-1")["customer"]
    session = execute("stripe.checkout.create", {"tenant_uuid": TENANT, "customer": customer,
                                                 "success_url": "https://example.com/a?b=c",
                                                 "cancel_url": "https://example.com/"}, "checkout-1")
    press(session["url"])
    intent = execute("stripe.setup_intents.get", {"setup_intent": session["setup_intent"]})
    execute("stripe.customers.update", {"customer": customer, "default_payment_method": intent["payment_method"],
                                        "email": "new@example.com", "name": "New name"}, "update-1")
    invoice = {"tenant_uuid": TENANT, "customer": customer, "period": "2026-10", "currency": "usd", "amount": 120,
               "lines": [{"description": "1,250 calls", "amount": 125}, {"description": "credit", "amount": -5}],
               "hash": "ab" * 32}
    made = execute("stripe.invoices.create", invoice, "billing-1")
    execute("stripe.invoices.pay", {"invoice": made["invoice"]}, "pay-1")
    execute("stripe.invoices.list", {"limit": 5, "created_from": 1700000000})
    execute("stripe.invoices.list", {"starting_after": made["invoice"]})
    old = int(time.time()) - 30 * 3600
    execute("stripe.customers.create", {"tenant_uuid": TENANT, "agent_id": "agent:1", "email": "new@example.com"},
            "customer-2", obliged_at=old)
    execute("stripe.invoices.create", invoice, "billing-2", obliged_at=old)
    execute("stripe.invoices.create", {**invoice, "period": "2026-11"}, "billing-3", obliged_at=old)
    # An attempt that ends before its last step leaves a draft, and the next one asks which lines it has.
    draft = {**invoice, "period": "2026-12"}
    post(STRIPE + "/_control", {"fail": {"path": "/v1/invoices/*/finalize", "status": 500, "should_retry": False}})
    execute("stripe.invoices.create", draft, "billing-4", ok=False)
    execute("stripe.invoices.create", draft, "billing-5", obliged_at=old)
    with urllib.request.urlopen(STRIPE + "/_control", timeout=30) as answer:
        print(answer.read().decode())


main()
