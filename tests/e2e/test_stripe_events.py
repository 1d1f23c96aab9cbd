"""POST /api/webhooks/stripe: signatures over the raw body; each event has one effect, whatever is repeated or
forged."""

import hashlib
import hmac
import json
import os
import random
import re
import time
import uuid

import pytest

from client import NIL
from checks import check, equal, parallel, spread, until
from payments import HOOK, payments

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BODY = {"id": "evt_x", "object": "event", "type": "ping", "created": 1, "data": {"object": {}}}


def stored(bench, event):
    return bench.db.rows("select * from acp.stripe_events where event_id = :'id'", id=event["id"])


def rows_of(bench, replies):
    return bench.db.value("select count(*) from acp.audit_logs where request_id = any(string_to_array(:'ids', ',')::uuid[])",
                          ids=",".join(reply["request_id"] for reply in replies))


def test_forged(bench):
    """Contract 2.1: a signature that is missing, wrong, old or from the future gets 400 and has no effect."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        event = pay.completed(tenant)
        replies = []
        raw = json.dumps(event).encode()
        for what, sent in {
                "no signature": dict(header=""), "another secret": dict(secret="whsec_other"),
                "old": dict(skew=-301), "from the future": dict(skew=+310),
                "empty": dict(header="t="), "nonsense": dict(header="hello"),
                "v0 only": dict(header="t=1,v0=" + "0" * 64),
                "zeros": dict(header="t=%d,v1=%s" % (time.time(), "0" * 64))}.items():
            status, reply = pay.deliver(event, **sent)
            equal((status, reply["code"]), (400, "VALIDATION_ERROR"), what)
            replies.append(reply)
        # A valid signature of another body, and of the same JSON in other bytes.
        at = int(time.time())
        mac = hmac.new(pay.stripe.secret.encode(), b"%d.%s" % (at, raw), hashlib.sha256).hexdigest()
        header = "t=%d,v1=%s" % (at, mac)
        for other in (raw + b" ", raw.replace(b"setup", b"Setup"), json.dumps(event, indent=1).encode()):
            status, reply = pay.deliver(other, header=header)
            equal(status, 400, "another body")
            replies.append(reply)
        equal(stored(bench, event), [], "the inbox")
        row = pay.tenant(tenant)
        equal((row["tier"], row["payment_method_status"]), ("free", "none"), "the tenant")
        equal(rows_of(bench, replies), 0, "audit rows")
        check("refused an event that is not from Stripe" in pay.read_log(), "the log does not report it")
        check("whsec_" not in pay.read_log(), "the log has a secret")
        real = pay.deliver(raw, header=header)[1]
        equal((real["effect"], rows_of(bench, [real])), ("applied", 1), "the real event, and its audit rows")


def test_rotation(bench):
    """Contract 2.1: several v1 signatures are accepted, and two secrets during a rotation."""
    with payments(bench) as pay:
        old, new = pay.stripe.secret, "whsec_new" + uuid.uuid4().hex
        with pay.responder(stripe_webhook_secret="%s %s" % (old, new)) as both:
            pay.gate.socket = both.socket
            tenant = pay.onboard()
            equal(pay.deliver(pay.completed(tenant), secret=old)[0], 200, "with the old secret")
            equal(pay.deliver(pay.completed(tenant), secret=new)[0], 200, "with the new secret")
            equal(pay.deliver(pay.completed(tenant), secret=old + " " + new)[0], 400, "with both as one secret")


def test_malformed(bench):
    """Contract 2: signed bytes that are not a JSON object with an id get 400, another method 405, a too large body 413,
    and without the setting all get 404."""
    with payments(bench, max_body_bytes="20000") as pay:
        for body in (b"", b"{", b"[]", b"null", b"5", b'{"type":"x","created":5}', b'{"id":1}', b'{"id":""}', b'{"id":{}}',
                     b'{"id":"evt_\\u0000","type":"x"}', b'{"id":"evt_1","type":"x"} and more',
                     b'{"id":"' + b"e" * 300 + b'","type":"x","created":5}',
                     b'\xff\xfe', b'<event/>'):
            status, reply = pay.deliver(body)
            equal((status, reply["code"]), (400, "VALIDATION_ERROR"), "body %r" % body[:60])
        equal(pay.deliver(json.dumps({**BODY, "pad": "x" * (4 << 20)}).encode())[0], 413, "too large")
        # Without a plausible signature, the usual limit holds.
        for header in ("", "t=1,v1=" + "0" * 64, "hello"):
            equal(pay.deliver(json.dumps({**BODY, "pad": "x" * 21000}).encode(), header=header)[0], 413, "unsigned: " + header)
        equal(pay.open(pay.url + HOOK)[0], 405, "GET")
        with pay.responder(stripe_webhook_secret=None) as without:
            pay.gate.socket = without.socket
            equal(pay.deliver(BODY)[0], 404, "without the secret")


def test_unknown_events(bench):
    """Contract 2.1: events without a meaning here get 200 and are stored without their payload."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        for kind, subject in (("customer.created", {"id": "cus_1", "email": "private@example.com"}),
                              ("v2.core.something", {}), ("radar.early_fraud_warning.created", {"id": "issfr_1"}),
                              ("checkout.session.completed", {"id": "cs_1", "client_reference_id": "x"})):
            event = pay.event(kind, subject)
            status, reply = pay.deliver(event)
            check(status == 200 and reply["effect"] in ("ignored", "unknown_tenant", "unknown_invoice"), "%s: %s" % (kind, reply))
            row = stored(bench, event)[0]
            equal((row["type"], row["effect"]), (kind, reply["effect"]), "the inbox")
            check("private@" not in json.dumps(row), "the payload is stored: %s" % row)
        # An event that names two tenants, or one only in its reference, which a stranger can set in a payment link.
        other = pay.onboard()
        for more in ({"client_reference_id": other["tenant_uuid"]}, {"metadata": {}}, {"client_reference_id": None}):
            equal(pay.deliver(pay.completed(tenant, **more))[1]["effect"], "mismatch", "%s" % more)
        equal(pay.tenant(tenant)["tier"] + pay.tenant(other)["tier"], "freefree", "tiers")


def test_other_installation(bench):
    """Contract 5.4: an event about an object of another installation (metadata.kernel_id), which uses the same account and
    may have a copy of this database, is stored and changes nothing. Older objects name no installation."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        name = {"tenant_uuid": tenant["tenant_uuid"]}
        event = pay.completed(tenant, metadata={**name, "kernel_id": "other"})
        reply = pay.deliver(event)[1]
        equal((reply["ok"], reply["effect"]), (True, "foreign"), "of another installation")
        row = stored(bench, event)[0]
        equal((row["effect"], row["tenant_id"]), ("foreign", None), "the inbox")
        row = pay.tenant(tenant)
        equal((row["tier"], row["payment_method_status"]), ("free", "none"), "the tenant")
        equal(pay.owed(tenant), [], "obligations")
        # The customer that the tenant has is its own, even if kernel_id was changed since it was made.
        event = pay.event("customer.updated", {"id": pay.customer(tenant), "object": "customer",
                                               "metadata": {**name, "kernel_id": "former"}})
        equal(pay.deliver(event)[1]["effect"], "unchanged", "the customer of the tenant")
        for metadata in ({**name, "kernel_id": "acp-fcgi"}, name):
            other = pay.onboard()
            metadata = {**metadata, "tenant_uuid": other["tenant_uuid"]}
            equal(pay.deliver(pay.completed(other, metadata=metadata))[1]["effect"], "applied", "metadata %s" % metadata)


def odd_events():
    """Events that Stripe sends, or may send one day, in the form of text: name -> JSON."""
    text = {"id": "evt_%s", "object": "event", "type": "product.updated", "created": int(time.time()), "livemode": False}
    return {
        "of 307 KB": json.dumps({**text, "data": {"object": {"id": "prod_1", "pad": "x" * 307000}}}),
        "of 4 MB": json.dumps({**text, "data": {"object": {"id": "prod_1", "pad": ["é" * 100] * 6000}}}, ensure_ascii=True),
        "42 deep": json.dumps({**text, "data": {"object": json.loads("[" * 42 + "]" * 42)}}),
        "900 deep": json.dumps({**text, "data": {"object": {"id": "prod_1", "a": json.loads("[" * 900 + "]" * 900)}}}),
        "of many tokens": json.dumps({**text, "data": {"object": {"id": "prod_1", "a": list(range(100000))}}}),
        "integer over 2^53": json.dumps({**text, "data": {"object": {"id": "prod_1", "n": 2 ** 53 + 1, "m": 2 ** 70}}}),
        "huge fraction": json.dumps(text)[:-1] + ', "data": {"object": {"n": 1e999, "m": 0.1234567890123456789012345}}}',
        "duplicate member": json.dumps(text)[:-1] + ', "livemode": true, "data": {"object": {"id": "a", "id": "b"}}}',
        "control characters": json.dumps({**text, "data": {"object": {"id": "prod_\u0000", "name": "\u0001\ud800"}}}),
        "thin, of API v2": json.dumps({"id": "evt_%s", "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered",
                                       "created": "2026-11-30T10:20:30.456Z", "livemode": False, "changes": None,
                                       "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"}}),
        "without livemode": json.dumps({n: v for n, v in text.items() if n != "livemode"}),
        "without time": json.dumps({"id": "evt_%s", "type": "x.y"}),
        "strange time": json.dumps({**text, "created": "soon"}),
        "negative time": json.dumps({**text, "created": -5}),
        "without type": json.dumps({"id": "evt_%s", "created": 5}),
        "strange type": json.dumps({**text, "type": "é\n" + "x" * 300}),
        "unknown type": json.dumps({**text, "type": "nobody.knows.this"}),
        "no object": json.dumps({**text, "type": "invoice.paid"}),
        "object is null": json.dumps({**text, "type": "customer.deleted", "data": {"object": None, "previous_attributes": None}}),
        "members of other types": json.dumps({**text, "type": "customer.updated", "data": {"object": {
            "id": "cus_1", "object": "customer", "invoice_settings": 5, "metadata": [], "customer": {"id": 7}},
            "previous_attributes": "x"}}),
        "strange amounts": json.dumps({**text, "type": "refund.created", "data": {"object": {
            "id": "re_strange", "object": "refund", "amount": -1, "amount_refunded": 10 ** 30, "charge": {"id": "ch_1"},
            "payment_intent": None, "status": 5}}}),
    }


def test_odd_events(bench):
    """Contract 2.1: every correctly signed event is stored and answered 200, whatever it holds, also when it is
    repeated."""
    with payments(bench) as pay:
        for what, text in odd_events().items():
            name = uuid.uuid4().hex
            body = text.replace("evt_%s", "evt_" + name).encode()
            status, reply = pay.deliver(body)
            equal((status, reply.get("ok")), (200, True), "%s: %s" % (what, reply))
            equal(pay.deliver(body)[1]["effect"], "duplicate", "%s, again" % what)
            row = stored(bench, {"id": "evt_" + name})[0]
            equal(row["effect"], reply["effect"], what)
            rows = bench.db.value("select count(*) from acp.audit_logs where result_meta->>'resource_id' = :'e'", e="evt_" + name)
            equal(rows, 2, "audit rows of %s" % what)
            if what.startswith("thin"):
                equal((row["type"], row["object_id"], row["effect"]),
                      ("v1.billing.meter.error_report_triggered", "mtr_1", "ignored"), what)
                at = bench.db.value("select acp.rfc3339(created) from acp.stripe_events where event_id = :'e'", e="evt_" + name)
                equal(at, "2026-11-30T10:20:30Z", what)


FAMILIES = ("customer.", "customer_", "payment_method.", "source.", "setup_intent.", "payment_intent.", "charge.",
            "checkout.", "invoice.", "invoice_payment.", "invoiceitem.", "credit_note.", "refund.", "radar.", "mandate.",
            "review.", "cash_balance.", "payment_link.")


def event_types():
    with open(os.path.join(ROOT, "tests/stripe/event_types.txt"), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def decisions():
    """The table of docs/billing.md: [(pattern, what happens)], in its order."""
    with open(os.path.join(ROOT, "docs/billing.md"), encoding="utf-8") as file:
        table = file.read().split("| Event | What happens |", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("|").split("|", 1) for line in table.splitlines() if line.startswith("| `")]
    return [(name, text.strip()) for names, text in rows for name in re.findall("`([a-z_.*0-9]+)`", names)]


def test_every_type_is_decided(bench):
    """docs/billing.md decides every type of event that Stripe's library knows about customers, payment methods, invoices,
    disputes and refunds, and the program does what it says: exactly the types without an effect are ignored."""
    table = decisions()
    types = [name for name in event_types() if name.startswith(FAMILIES)]
    check(len(types) > 90, "only %d types" % len(types))
    known = set(event_types())
    for pattern, _ in table:
        check(pattern in known or pattern.endswith(".*") and any(name.startswith(pattern[:-1]) for name in known),
              "Stripe has no event %s" % pattern)
    with payments(bench) as pay:
        for name in types:
            found = [text for pattern, text in table if pattern == name] or [
                text for pattern, text in table if pattern.endswith("*") and name.startswith(pattern[:-1])]
            check(found, "docs/billing.md does not say what %s does" % name)
            equal(len(found), 1, "rows about %s" % name)
            effect = pay.deliver(pay.event(name, {"id": "x_" + uuid.uuid4().hex}))[1]["effect"]
            equal(effect == "ignored", found[0].startswith("stored, no effect"), "%s: %s" % (name, effect))


def test_nothing_personal_is_stored(bench):
    """Contract 2.1: of an event, only ids, types, times, statuses and amounts reach the database."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.upgrade(tenant)
        secret = "private-%s" % uuid.uuid4().hex
        customer = pay.tenant(tenant)["stripe_customer_id"]
        person = {"name": secret, "email": secret + "@example.com", "phone": secret, "address": {"line1": secret, "city": secret}}
        for name in event_types():
            if name.startswith(FAMILIES):
                subject = {"id": "x_" + uuid.uuid4().hex, "customer": customer, "customer_email": secret, "amount": 5,
                           "customer_name": secret, "billing_details": person, "shipping": person, "description": secret,
                           "card": {"last4": secret, "fingerprint": secret}, "receipt_email": secret, "evidence": person,
                           "metadata": {"tenant_uuid": tenant["tenant_uuid"], "note": secret}, **person}
                equal(pay.deliver(pay.event(name, subject, previous_attributes=person))[0], 200, name)
        tables = bench.db.rows("select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname = 'acp'")
        for table in tables:
            count = bench.db.value("select count(*) from %s t where t::text like '%%' || :'s' || '%%'" % table["name"], s=secret)
            equal(count, 0, "rows of %s with personal data" % table["name"])


def test_duplicates_at_once(bench):
    """Contract 2.1: an event that is delivered sixteen times at once has one effect and sixteen audit rows."""
    with payments(bench, processes="4") as pay:
        tenant = pay.onboard()
        event = pay.completed(tenant)
        replies = parallel(16, lambda _: pay.deliver(event))
        equal({status for status, _ in replies}, {200}, "statuses")
        effects = sorted(reply["effect"] for _, reply in replies)
        equal(effects, ["applied"] + ["duplicate"] * 15, "effects")
        rows = bench.db.rows("select actor_type, result_meta->>'effect' as effect from acp.audit_logs "
                             "where tenant_id = :'id' and result_meta->>'resource_id' = :'evt'",
                             id=tenant["tenant_uuid"], evt=event["id"])
        equal(sorted(r["effect"] for r in rows), effects, "audit rows")
        equal({r["actor_type"] for r in rows}, {"system"}, "actor")


class Story:
    """Stripe's objects and events of one tenant: checkouts, payment methods, and removed methods."""

    def __init__(self, pay, tenant, chance):
        self.pay, self.tenant = pay, tenant
        self.customer = pay.customer(tenant)
        self.events, self.method, self.gone = [], None, set()
        at = time.time() - 1000
        for _ in range(chance.randint(2, 6)):
            at += chance.choice((0, 1, 5))
            what = chance.random()
            if what < 0.55 or not self.method:
                at += 1  # two checkouts in the same second would have no defined order
                self.method = self.give_card()
                self.events.append(self.completed(at))
            elif what < 0.8:
                self.gone.add(self.method)
                self.events.append(pay.detached(self.method, self.customer, at))
            else:
                self.events.append(pay.event("checkout.session.expired", {
                    "id": "cs_test_" + uuid.uuid4().hex, "client_reference_id": tenant["tenant_uuid"],
                    "metadata": {"tenant_uuid": tenant["tenant_uuid"]}, "customer": self.customer}, at))

    def give_card(self):
        """Completes a session at the stand-in, whose webhooks are not delivered; returns the payment method."""
        name = self.tenant["tenant_uuid"]
        params = {"mode": "setup", "customer": self.customer, "currency": "usd", "client_reference_id": name,
                  "metadata[tenant_uuid]": name, "success_url": "http://127.0.0.1/", "cancel_url": "http://127.0.0.1/"}
        session = self.pay.stripe.ask("POST", "/v1/checkout/sessions", params)
        self.pay.stripe.complete(session["url"])
        self.session = self.pay.stripe.ask("GET", "/v1/checkout/sessions/" + session["id"])
        return self.pay.stripe.ask("GET", "/v1/setup_intents/" + self.session["setup_intent"])["payment_method"]

    def completed(self, at):
        return self.pay.completed(self.tenant, at, self.session["id"], setup_intent=self.session["setup_intent"])

    def ended(self):
        return "none" if self.method in self.gone else "active"


@pytest.mark.slow
def test_storm(bench):
    """After 200 deliveries, duplicated, shuffled and partly forged, the final states are right. Forged ones get
    400; each event has one effect."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with payments(bench, processes="3") as pay:
        pay.stripe.control(webhooks={"url": "http://127.0.0.1:9/", "hold": True})
        stories, sent = [], []
        while sum(len(story.events) for story in stories) < 110:
            chances = [random.Random(chance.random()) for _ in range(8)]
            stories += spread(4, chances, lambda one: Story(pay, pay.onboard(), one))
        events = [event for story in stories for event in story.events]
        for event in events:
            sent += [("real", event)] * chance.choice((1, 1, 2, 3))
        for _ in range(40):
            # A forger would send an upgrade of some tenant, or a real event with a wrong signature.
            fake = chance.choice((pay.completed(chance.choice(stories).tenant), chance.choice(events)))
            sent.append(("forged", {**fake, "id": chance.choice((fake["id"], "evt_forged_" + uuid.uuid4().hex))}))
        check(len(sent) >= 200, "%d deliveries" % len(sent))
        chance.shuffle(sent)

        def deliver(item):
            kind, event = item
            if kind == "real":
                return kind, event, pay.deliver(event)
            fault = chance.choice(({"secret": "whsec_wrong"}, {"skew": -400}, {"header": ""}))
            return kind, event, pay.deliver(event, **fault)

        results = spread(8, sent, deliver)
        equal({status for kind, _, (status, _) in results if kind == "forged"}, {400}, "forged, seed %d" % seed)
        equal({status for kind, _, (status, _) in results if kind == "real"}, {200}, "real, seed %d" % seed)
        firsts = {}
        for kind, event, (_, reply) in results:
            if kind == "real":
                firsts.setdefault(event["id"], []).append(reply["effect"])
        for name, effects in firsts.items():
            equal(sum(effect != "duplicate" for effect in effects), 1, "first deliveries of %s: %s" % (name, effects))
        forged = bench.db.value("select count(*) from acp.stripe_events where event_id like 'evt_forged%'")
        equal(forged, 0, "forged events in the inbox")
        for story in stories:
            pay.settled(story.tenant, 60)
            row = pay.tenant(story.tenant)
            equal((row["tier"], row["payment_method_status"], row["stripe_payment_method"]),
                  ("paid", story.ended(), story.method),
                  "seed %d: %s" % (seed, [(e["type"], e["created"], e["id"]) for e in story.events]))
        print("     %d deliveries of %d events, %d forged, %d tenants" %
              (len(sent), len(events), sum(kind == "forged" for kind, _ in sent), len(stories)))


def test_from_the_stand_in(bench):
    """After duplicated and shuffled webhooks of the stand-in itself, every event has arrived and the states are
    right."""
    with payments(bench, processes="2") as pay:
        pay.stripe.control(webhooks={"duplicate": 2, "shuffle": True, "hold": True})
        tenants = [pay.onboard() for _ in range(4)]
        for tenant in tenants:
            pay.stripe.complete(pay.checkout(tenant)["checkout_url"])
        pay.stripe.control(webhooks={"release": True, "hold": False})
        for tenant in tenants:
            pay.becomes(tenant, 30, effective_tier="paid")
            pay.settled(tenant)
        until(30, "all were delivered", lambda: not pay.stripe.report()["webhooks"]["under_way"], 0.1)
        equal(pay.stripe.report()["webhooks"]["failed"], {}, "deliveries that failed")


def test_database_away(bench):
    """Contract 2.1: the reply is 2xx only after the commit. While PostgreSQL is down it is 503, so that Stripe
    retries."""
    bench.need_own_stack("stops PostgreSQL")
    with payments(bench) as pay:
        tenant = pay.onboard()
        event = pay.completed(tenant)
        bench.stack.restart_postgres(immediate=True)
        until(30, "the event is accepted", lambda: pay.deliver(event)[0] == 200, 0.2)
        equal(pay.tenant(tenant)["tier"], "paid", "tier")
        with pay.responder(database_url="postgresql://acp@127.0.0.1:9/acp", processes="1") as lost:
            pay.gate.socket = lost.socket
            later = pay.completed(tenant)
            equal(pay.deliver(later)[0], 503, "without a database")
        equal(stored(bench, later), [], "the inbox")


def test_over_the_web_server(bench):
    """The real web server passes on the raw body unchanged, so that the signature verifies for any bytes and format."""
    secret = "whsec_" + uuid.uuid4().hex
    bench.arrange({"stripe_webhook_secret": secret})
    for text in ('{"id":"evt_%s","type":"x.y","created":5,'
                 '"data":{"object":{"a":"é\\u00e9 \\ud83d\\ude00 +%%20&=","b":1.50}}}',
                 '{\r\n  "id": "evt_%s",\r\n\t"type": "x.y", "created": 5, "data": {"object": {}}\r\n}\n\n'):
        body = (text % uuid.uuid4().hex).encode()
        at = int(time.time())
        mac = hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
        reply = bench.send("POST", HOOK, body, {"Stripe-Signature": "t=%d,v1=%s,v0=ab" % (at, mac)},
                           content_type="application/json; charset=utf-8")
        equal((reply.status, reply.json.get("effect")), (200, "ignored"), str(reply))
        bench.audit(reply, tenant_id=NIL, actor_type="system", action="stripe.webhook", status="success")
        altered = bench.send("POST", HOOK, body, {"Stripe-Signature": "t=%d,v1=%s" % (at + 1, mac)})
        equal(altered.status, 400, "altered")
