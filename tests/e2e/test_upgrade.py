"""The upgrade: an agent requests a checkout or gives its human the signed link, the human enters a card, and the tenant
is paid."""

import json
import time
import urllib.parse

import pytest

from client import CREATE
from checks import check, equal, parallel, until
from payments import CHECKOUT, Gate, payments
from test_billing import money
from test_usage import clock_shifted


def link_of(tenant):
    return tenant["upgrade_info"]["upgrade_url"]


def test_whole_way(bench):
    """Contract 2.1: the whole upgrade: 402, the human's link, the checkout, paid calls. The card becomes the
    customer's default."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        bench.stack.ctl("tenant", "update", tenant["tenant_uuid"], "--calls-limit", "1")
        equal(pay.score(tenant["api_key"])[0], 200, "the free call")
        status, refused = pay.score(tenant["api_key"])
        equal((status, refused["code"]), (402, "UPGRADE_REQUIRED"), "the second call")
        status, headers, _ = pay.open(refused["upgrade_url"])
        equal(status, 303, "the human's link")
        check(headers["Location"].startswith(pay.stripe.url + "/"), "Location: %s" % headers["Location"])
        equal(pay.tenant(tenant)["payment_method_status"], "setup_pending", "state")
        equal(pay.score(tenant["api_key"])[0], 402, "a call while the checkout is open")
        status, _, page = pay.open(headers["Location"])
        check(status == 200 and b"<button" in page, "the checkout page")
        back = pay.stripe.complete(headers["Location"])
        status, headers, page = pay.open(back, {"Accept": "text/html,application/xhtml+xml"})
        check(status == 200 and headers["Content-Type"].startswith("text/html") and b"Thank you" in page,
              "the redirect back")
        row = pay.becomes(tenant, tier="paid", payment_method_status="active", effective_tier="paid")
        check(row["upgraded_at"], "upgraded_at")
        equal(pay.score(tenant["api_key"])[0], 200, "a call after the upgrade")
        pay.settled(tenant)
        customer = pay.customers(tenant)[0]
        method = pay.tenant(tenant)["stripe_payment_method"]
        check(method and customer["invoice_settings"]["default_payment_method"] == method, "default: %s" % customer)
        audit = bench.db.rows("select action, actor_type, billable from acp.audit_logs where tenant_id = :'id' and "
                              "action in ('upgrade.checkout', 'stripe.webhook') order by ts", id=tenant["tenant_uuid"])
        asked = [a["actor_type"] for a in audit if a["action"] == "upgrade.checkout"]
        check(asked == ["user"], "audit rows: %s" % audit)
        check(any(a["action"] == "stripe.webhook" for a in audit), "audit rows: %s" % audit)
        check(not any(a["billable"] for a in audit), "audit rows: %s" % audit)


def test_for_agents(bench):
    """Contract 2.1: POST returns checkout_url and expires_at. client_reference_id and metadata.tenant_uuid are set."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        reply = pay.checkout(tenant)
        equal(set(reply), {"ok", "request_id", "checkout_url", "expires_at"}, "members")
        session = pay.stripe.all("/v1/checkout/sessions")[0]
        uuid = tenant["tenant_uuid"]
        equal((session["mode"], session["client_reference_id"], session["metadata"]["tenant_uuid"]),
              ("setup", uuid, uuid), "session")
        equal(session["customer"], pay.tenant(tenant)["stripe_customer_id"], "customer")
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session["expires_at"]))
        equal(reply["expires_at"], ends, "expires_at")
        same = pay.send("POST", CHECKOUT, {"tenant_uuid": tenant["tenant_uuid"]}, tenant["api_key"])
        equal((same[0], same[1]["checkout_url"]), (200, reply["checkout_url"]), "requested again")
        equal(pay.open(link_of(tenant))[1]["Location"], reply["checkout_url"], "the session of the link")
        equal(len(pay.stripe.all("/v1/checkout/sessions")), 1, "sessions")


def test_refusals(bench):
    """Contract 2: no key gets 401, another tenant's uuid 404, an invalid body 400, a link that is not ours 404."""
    with payments(bench) as pay:
        tenant, other = pay.onboard(), pay.onboard()
        key = tenant["api_key"]
        equal(pay.send("POST", CHECKOUT)[0], 401, "without a key")
        status, reply = pay.send("GET", CHECKOUT, None, key)
        check(status == 404 and "use POST" in reply["error"], "GET with a key: %d %s" % (status, reply))
        status, reply = pay.send("POST", CHECKOUT, {"tenant_uuid": other["tenant_uuid"]}, key)
        equal((status, reply["code"]), (404, "NOT_FOUND"), "another tenant")
        status, reply = pay.send("POST", CHECKOUT, {"tenant_uuid": tenant["tenant_uuid"], "more": "x" * 20000}, key)
        equal((status, reply["code"]), (413, "PAYLOAD_TOO_LARGE"), "a large body")
        for body in ({"tenant_uuid": 5}, {"tenant_uuid": "x"}, []):
            equal(pay.send("POST", CHECKOUT, body, key)[0], 400, "body %r" % (body,))
        status, headers, _ = pay.open(pay.url + CHECKOUT, {"X-API-Key": key}, "PUT", b"")
        check(status == 501 or headers["Allow"] == "GET, HEAD, POST", "PUT: %d %s" % (status, headers))
        good = link_of(tenant)
        parts = urllib.parse.parse_qs(urllib.parse.urlsplit(good).query)
        for change in ({"tenant": other["tenant_uuid"]}, {"exp": str(int(parts["exp"][0]) + 1)}, {"sig": "0" * 64}):
            query = urllib.parse.urlencode({**{n: v[0] for n, v in parts.items()}, **change})
            status, _, body = pay.open(pay.url + CHECKOUT + "?" + query)
            equal((status, json.loads(body)["code"]), (404, "NOT_FOUND"), "link with %s" % change)
        status, headers, body = pay.open(pay.url + CHECKOUT + "?" + query, {"Accept": "text/html"})
        check(status == 404 and headers["Content-Type"].startswith("text/html") and b"<h1>" in body, "for a browser")
        equal(pay.stripe.all("/v1/checkout/sessions"), [], "sessions")
        equal(pay.tenant(tenant)["payment_method_status"], "none", "state")


def test_head(bench):
    """Contract 2.1: the link answers GET and HEAD with 303, HEAD without a body."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        status, headers, body = pay.open(link_of(tenant), method="HEAD")
        equal((status, body), (303, b""), "HEAD")
        equal(pay.open(link_of(tenant))[1]["Location"], headers["Location"], "the session of GET")


def test_clicked_at_once(bench):
    """An open session is reused: eight clicks at once create one session, with one key."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.stripe.control(slow={"path": "/v1/checkout/sessions", "method": "POST", "seconds": 0.5, "times": -1})
        found = parallel(8, lambda n: pay.open(link_of(tenant)) if n % 2 else
                         pay.send("POST", CHECKOUT, None, tenant["api_key"]))
        urls = {f[1]["Location"] if n % 2 else f[1]["checkout_url"] for n, f in enumerate(found)}
        equal(len(urls), 1, "sessions")
        equal(len(pay.stripe.all("/v1/checkout/sessions")), 1, "sessions at Stripe")


def test_expiry(bench):
    """Setup_pending ends when its session expires, by Stripe's event or by time alone. Then the upgrade can
    start again."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        first = pay.checkout(tenant)["checkout_url"]
        session = pay.stripe.all("/v1/checkout/sessions")[0]["id"]
        pay.stripe.ask("POST", "/v1/checkout/sessions/%s/expire" % session)
        pay.becomes(tenant, payment_method_status="none")
        second = pay.checkout(tenant)["checkout_url"]
        check(first != second, "the expired session was returned again")
        equal(pay.tenant(tenant)["payment_method_status"], "setup_pending", "state")
        pay.stripe.control(webhooks={"url": "http://127.0.0.1:9/"})
        with clock_shifted(bench, "25 hours"):
            pay.becomes(tenant, payment_method_status="none")


def test_already_paid(bench):
    """For a tenant with a payment method, the agent gets 409 and the human a page; no session is created."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.upgrade(tenant)
        status, reply = pay.send("POST", CHECKOUT, None, tenant["api_key"])
        equal((status, reply["code"]), (409, "ALREADY_PAID"), "POST")
        status, headers, body = pay.open(link_of(tenant), {"Accept": "text/html"})
        check(status == 409 and b"Nothing to do" in body, "the link: %d %s" % (status, body))
        equal(len(pay.stripe.all("/v1/checkout/sessions")), 1, "sessions")


def test_method_gone(bench):
    """Contract 3: a paid tenant whose payment method was removed is treated as free, and can upgrade again."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.upgrade(tenant)
        first = pay.tenant(tenant)
        other = pay.stripe.ask("POST", "/v1/payment_methods", {"type": "card", "card[token]": "tok_visa"})["id"]
        pay.stripe.ask("POST", "/v1/payment_methods/%s/attach" % other, {"customer": first["stripe_customer_id"]})
        pay.stripe.ask("POST", "/v1/payment_methods/%s/detach" % other)
        pay.stripe.ask("POST", "/v1/payment_methods/%s/detach" % first["stripe_payment_method"])
        pay.becomes(tenant, tier="paid", payment_method_status="none", effective_tier="free")
        stored = bench.db.value("select effect from acp.stripe_events where object_id = :'pm' "
                                "and type = 'payment_method.detached'", pm=other)
        equal(stored, "unchanged", "the event of the method that was not in use")
        equal(pay.send("GET", "/api/usage", key=tenant["api_key"])[1]["tier"], "free", "tier")
        pay.upgrade(tenant)
        second = pay.tenant(tenant)
        equal(second["upgraded_at"], first["upgraded_at"], "upgraded_at of the first upgrade")
        check(second["stripe_payment_method"] != first["stripe_payment_method"], "the method")
        pay.settled(tenant)
        equal(pay.customers(tenant)[0]["invoice_settings"]["default_payment_method"], second["stripe_payment_method"],
              "the customer's default")


def test_without_customer(bench):
    """A tenant that was created before Stripe was configured gets its customer with its first checkout."""
    with payments(bench) as pay:
        tenant = bench.onboard()
        status, reply = pay.send("POST", CHECKOUT, None, tenant.key)
        equal(status, 200, "checkout: %s" % reply)
        made = [c for c in pay.stripe.all("/v1/customers") if c["metadata"].get("tenant_uuid") == tenant.id]
        equal(len(made), 1, "customers")


@pytest.mark.slow
def test_stripe_away(bench):
    """Contract 2: if Stripe fails, the reply is 502 with Retry-After. A lost reply does not create a second session."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.stripe.control(fail={"path": "/v1/checkout/sessions", "status": 400, "times": 1})
        status, headers, body = pay.open(pay.url + CHECKOUT, {"X-API-Key": tenant["api_key"]}, "POST", b"")
        equal((status, json.loads(body)["code"]), (502, "UPSTREAM_FAILED"), "refused")
        check(int(headers["Retry-After"]) > 0, "Retry-After")
        equal(pay.tenant(tenant)["payment_method_status"], "none", "state")
        pay.stripe.control(drop={"path": "/v1/checkout/sessions", "method": "POST", "times": -1})
        status, _, body = pay.open(link_of(tenant), {"Accept": "text/html"})
        check(status == 502 and b"This did not work" in body, "replies are lost: %d %s" % (status, body))
        pay.stripe.control(reset=True)
        pay.checkout(tenant)
        equal(len(pay.stripe.all("/v1/checkout/sessions")), 1, "sessions")
        failed = bench.db.value("select count(*) from acp.audit_logs where tenant_id = :'id' and status = 'error' and "
                                "action = 'upgrade.checkout' and error_code = 'UPSTREAM_FAILED'",
                                id=tenant["tenant_uuid"])
        equal(failed, 2, "audit rows of the failures")


def test_in_force_everywhere(bench):
    """Contract 1: an upgrade takes effect in every process for calls that start 100 ms after its answer."""
    with payments(bench, processes="4", key_cache_ms="100") as pay:
        tenant = pay.onboard()
        bench.stack.ctl("tenant", "update", tenant["tenant_uuid"], "--calls-limit", "0")
        for round_ in range(3):
            equal({status for status, _ in parallel(16, lambda _: pay.score(tenant["api_key"]))}, {402}, "calls before")
            event = pay.completed(tenant, time.time() + 10 * round_)
            equal(pay.deliver(event)[1]["effect"], "applied", "the event")
            time.sleep(0.1)
            equal({status for status, _ in parallel(16, lambda _: pay.score(tenant["api_key"]))}, {200}, "calls after")
            customer = pay.tenant(tenant)["stripe_customer_id"]
            gone = pay.detached("pm_%d" % round_, customer, time.time() + 10 * round_ + 5)
            equal(pay.deliver(gone)[1]["effect"], "applied", "the method is removed")
            time.sleep(0.1)


def test_not_configured(bench):
    """Without Stripe, agents and humans get 503 with a message, humans only with a valid link."""
    tenant = bench.onboard()
    reply = bench.send("POST", CHECKOUT, b"", key=tenant.key, content_type=None)
    equal((reply.status, reply.code), (503, "UNAVAILABLE"), "POST")
    link = tenant.reply.json["upgrade_info"]["upgrade_url"]
    reply = bench.get(link[link.index("/api/"):])
    check(reply.status == 503 and "Stripe is not configured" in reply.json["error"], "the link: %s" % reply)
    equal(bench.get(CHECKOUT + "?tenant=x&exp=1&sig=2").status, 404, "a bad link")


def test_described(bench):
    """Contract 2.1: /api/openapi.json describes only what is available, and Stripe's webhook only if it is
    configured."""
    with payments(bench) as pay:
        paths = pay.send("GET", "/api/openapi.json")[1]["paths"]
        equal(set(paths["/api/webhooks/stripe"]), {"post"}, "the webhook")
        equal(set(paths[CHECKOUT]["post"]["responses"]) >= {"200", "401", "404", "409", "502", "503"}, True, "checkout")
        check("/api/billing/invoice" in paths, "the invoice")
        with pay.responder(stripe_webhook_secret=None) as without:
            pay.gate.socket = without.socket
            check("/api/webhooks/stripe" not in pay.send("GET", "/api/openapi.json")[1]["paths"], "not configured")


def test_remote_executor(bench):
    """Contract 2.3: the whole upgrade works with Repo C in another program, which alone has the vendor's key."""
    key = "e2e-executor-key-" + "0123456789abcdef" * 2
    with payments(bench, executor_key=key) as pay, Gate() as front:
        front.socket = pay.gate.socket
        with pay.responder(stripe_key=None, executor_url=front.url, executor_key=key) as kernel:
            pay.gate.socket = kernel.socket
            tenant = pay.onboard()
            made = pay.customer(tenant, 15)
            equal([c["id"] for c in pay.customers(tenant)], [made], "customers")
            pay.upgrade(tenant)
            equal(pay.score(tenant["api_key"])[0], 200, "a paid call")


def test_currency(bench):
    """Contract 5.1: a checkout session has the currency of the installation, with an executor here or elsewhere; a
    session whose creation is repeated keeps the currency of its first attempt."""
    key = "e2e-executor-key-" + "0123456789abcdef" * 2
    with money(bench, executor_key=key) as m, Gate() as front:
        def currencies(tenant):
            return [s["currency"] for s in m.stripe.all("/v1/checkout/sessions") if s["client_reference_id"] == tenant["tenant_uuid"]]

        m.ctl("price", "currency", "EUR", "--amount", "0.01")
        here, elsewhere, again = (m.pay.onboard() for _ in range(3))
        m.pay.checkout(here)
        equal(currencies(here), ["eur"], "with an executor in this program")
        m.stripe.control(drop={"method": "POST", "path": "/v1/checkout/sessions", "times": -1})
        equal(m.pay.send("POST", CHECKOUT, None, again["api_key"])[0], 502, "a lost reply")
        m.stripe.control(reset=True)
        m.ctl("price", "currency", "CHF", "--amount", "0.01")
        m.pay.checkout(again)
        equal(currencies(again), ["eur"], "the same attempt again")
        front.socket = m.pay.gate.socket
        with m.pay.responder(stripe_key=None, executor_url=front.url, executor_key=key) as kernel:
            m.pay.gate.socket = kernel.socket
            m.pay.checkout(elsewhere)
        equal(currencies(elsewhere), ["chf"], "with an executor elsewhere")


def test_calls_while_free_are_not_charged(bench):
    """Contract 5: each call has the tenant's current tier: free before the upgrade, paid after it."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        for _ in range(2):
            equal(pay.score(tenant["api_key"])[0], 200, "a free call")
        pay.upgrade(tenant)
        time.sleep(0.2)
        equal(pay.send("POST", "/api/manage", {"action": CREATE, "params": {"name": "m", "model_type": "linear"}},
                       tenant["api_key"])[0], 200, "a paid call")
        equal(pay.score(tenant["api_key"])[0], 200, "another")
        tiers = until(10, "the rows are stored", lambda: [r["tier"] for r in bench.db.rows(
            "select tier from acp.audit_logs where tenant_id = :'id' and billable order by ts",
            id=tenant["tenant_uuid"])])
        equal(tiers, ["free", "free", "paid", "paid"], "tiers of the billable rows")
