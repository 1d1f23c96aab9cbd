"""The objects of one Stripe account and the behaviour of its endpoints, without HTTP: a call is a method, a path and
decoded parameters. The caller holds the lock of the account."""

import base64
import copy
import json
import os
import random
import re
import secrets
import string
import time

from forms import BadRequest, checked

VERSION = "2026-10-28.endive"
MINIMUM_CHARGE = 50  # USD; less goes to the balance of the customer, as at Stripe
DECLINING = {"0341", "0002"}  # Stripe's test cards that cannot be charged
CREATED = {"gt": "integer", "gte": "integer", "lt": "integer", "lte": "integer"}
PAGING = {"limit": "integer", "starting_after": "text", "ending_before": "text", "created": CREATED}
SESSION_SECONDS = 24 * 3600

ROUTES = []


def route(method, pattern):
    def add(function):
        ROUTES.append((method, re.compile(pattern.replace("ID", "([A-Za-z0-9_]+)") + r"\Z"), function))
        return function
    return add


def missing(kind, value, param="id", status=404):
    return BadRequest(status, "No such %s: '%s'" % (kind, value), code="resource_missing", param=param)


def encoded(body):
    """The JSON of a reply or an event, as Stripe lays it out. An event with the member _text is that text."""
    texts = {}

    def marked(value):
        if isinstance(value, list):
            return [marked(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "_text" in value:
            texts["text %s" % value["id"]] = value["_text"]
            return "text %s" % value["id"]
        return {name: marked(each) for name, each in value.items()}

    text = json.dumps(marked(body), indent=2)
    for mark, raw in texts.items():
        text = text.replace(json.dumps(mark), raw)
    return text.encode()


class Account:
    def __init__(self, state=None):
        self.objects = {}  # id -> object, in order of creation
        self.keys = {}  # idempotency key -> request and reply
        self.offset = 0  # of the account's clock, in seconds
        self.declines = {}  # customer id, or "*" -> how many payments are still declined (-1: all)
        self._fresh = []  # events not delivered yet
        self._state = state
        self._save_from = 0.0  # earliest time of the next save
        if state and os.path.exists(state):
            with open(state, encoding="utf-8") as file:
                kept = json.load(file)
            self.objects, self.offset = kept["objects"], kept["offset"]
            # Requests without a reply when the program ended may be made again.
            self.keys = {key: use for key, use in kept["keys"].items() if use["reply"]}

    def save(self, at_once=False):
        """Saves at once if that is fast. With thousands of objects it saves less often, so that saving takes a tenth
        of the time. Save with at_once before the program ends."""
        began = time.monotonic()
        if not self._state or began < self._save_from and not at_once:
            return
        # In one write: json.dump writes in small pieces, which takes ten times as long.
        text = json.dumps({"objects": self.objects, "offset": self.offset, "keys": self.keys})
        with open(self._state + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(self._state + ".new", self._state)
        took = time.monotonic() - began
        self._save_from = began + 10 * took if took > 0.05 else 0.0

    def now(self):
        return int(time.time() + self.offset)

    # Objects ------------------------------------------------------------------------------------------------------

    def make(self, prefix, kind, **members):
        name = prefix + "_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(24))
        self.objects[name] = {"id": name, "object": kind, "created": self.now(), "livemode": False, **members}
        return self.objects[name]

    def find(self, kind, name, param="id", status=404):
        found = self.objects.get(name)
        if not found or found["object"] != kind:
            raise missing(kind, name, param, status)
        return found

    def each(self, kind, **wanted):
        """Returns the objects, newest first."""
        return [o for o in reversed(list(self.objects.values())) if o["object"] == kind and not o.get("deleted") and
                all(o.get(name) == value for name, value in wanted.items())]

    def event(self, kind, subject, **more):
        data = {"object": copy.deepcopy(subject), **more}
        made = self.make("evt", "event", type=kind, api_version=VERSION, data=data, pending_webhooks=1,
                         request={"id": None, "idempotency_key": None})
        self._fresh.append(made)

    def take_events(self):
        fresh, self._fresh = self._fresh, []
        return fresh

    def page(self, url, found, params):
        limit = params.get("limit", 10)
        if not 1 <= limit <= 100:
            raise BadRequest(400, "Invalid integer: limit must be between 1 and 100", param="limit")
        for name, keep in (("gt", lambda c, v: c > v), ("gte", lambda c, v: c >= v),
                           ("lt", lambda c, v: c < v), ("lte", lambda c, v: c <= v)):
            if name in params.get("created", {}):
                found = [o for o in found if keep(o["created"], params["created"][name])]
        ids = [o["id"] for o in found]
        for name in ("starting_after", "ending_before"):
            if name in params and params[name] not in ids:
                raise missing("object", params[name], name, 400)
        if "starting_after" in params:
            found = found[ids.index(params["starting_after"]) + 1:]
        if "ending_before" in params:
            found = found[:ids.index(params["ending_before"])]
            return self.list_of(url, found[-limit:], len(found) > limit)
        return self.list_of(url, found[:limit], len(found) > limit)

    def list_of(self, url, data, more=False):
        return {"object": "list", "url": url, "has_more": more, "data": [self.shown(o) for o in data]}

    def shown(self, found):
        """Returns an object in the form of an API reply."""
        shown = copy.deepcopy(found)
        shown.pop("_declines", None)
        if found["object"] == "invoice":
            url = "/v1/invoices/%s/lines" % found["id"]
            lines = [self.line_of(item) for item in self.items_of(found["id"])]
            shown["lines"] = {"object": "list", "data": lines[:10], "has_more": len(lines) > 10, "url": url}
        return shown

    def call(self, method, path, params):
        """Returns the reply of the endpoint. Raises BadRequest."""
        self.expire_sessions()
        for wanted, pattern, function in ROUTES:
            found = pattern.match(path)
            if found and wanted == method:
                return self.shown(function(self, params, *found.groups()))
        raise BadRequest(404, "Unrecognized request URL (%s: %s). Please see https://stripe.com/docs or we can help at "
                         "https://support.stripe.com/." % (method, path))

    # Invoices ------------------------------------------------------------------------------------------------------

    def items_of(self, invoice):
        return [o for o in self.objects.values() if o["object"] == "invoiceitem" and o["invoice"] == invoice and
                not o.get("deleted")]

    def line_of(self, item):
        return {"id": "il_" + item["id"][3:], "object": "line_item", "amount": item["amount"], "livemode": False,
                "currency": item["currency"], "description": item["description"], "invoice": item["invoice"],
                "metadata": item["metadata"], "period": item["period"], "quantity": 1, "subtotal": item["amount"],
                "parent": {"type": "invoice_item_details", "invoice_item_details": {"invoice_item": item["id"]}}}

    def total(self, invoice):
        amount = sum(item["amount"] for item in self.items_of(invoice["id"]))
        invoice.update(total=amount, subtotal=amount, amount_due=max(0, amount), amount_remaining=max(0, amount))

    def method_for(self, invoice, params):
        customer = self.find("customer", invoice["customer"])
        name = (params.get("payment_method") or invoice["default_payment_method"] or
                customer["invoice_settings"]["default_payment_method"])
        return self.objects.get(name) if name else None

    def declined(self, customer, method):
        for name in (customer, "*"):
            left = self.declines.get(name, 0)
            if left:
                self.declines[name] = left - 1 if left > 0 else left
                return True
        return method["card"]["last4"] in DECLINING

    def settle(self, invoice, charged=True):
        """Marks an invoice as paid: by a charge, or outside Stripe."""
        due = invoice["amount_due"]
        invoice.update(status="paid", amount_paid=due, amount_remaining=0)
        invoice["status_transitions"]["paid_at"] = self.now()
        self.event("invoice.paid", self.shown(invoice))
        self.event("invoice.payment_succeeded", self.shown(invoice))
        if due and charged:
            self.charge(invoice, due)

    def charge(self, invoice, amount):
        """The payment of an invoice. Only the invoice_payment names the invoice, as in Stripe's API since 2025."""
        shared = {"amount": amount, "currency": invoice["currency"], "customer": invoice["customer"], "metadata": {}}
        intent = self.make("pi", "payment_intent", status="succeeded", amount_received=amount, **shared)
        charge = self.make("ch", "charge", status="succeeded", paid=True, captured=True, refunded=False, disputed=False,
                           amount_captured=amount, amount_refunded=0, payment_intent=intent["id"],
                           billing_details={"address": None, "email": invoice["customer_email"], "name": None,
                                            "phone": None}, **shared)
        intent["latest_charge"] = charge["id"]
        made = self.make("inpay", "invoice_payment", invoice=invoice["id"], amount_paid=amount, amount_requested=amount,
                         currency=invoice["currency"], is_default=True, status="paid",
                         payment={"type": "payment_intent", "payment_intent": intent["id"]},
                         status_transitions={"paid_at": self.now(), "canceled_at": None})
        self.event("charge.succeeded", charge)
        self.event("payment_intent.succeeded", intent)
        self.event("invoice_payment.paid", made)

    def charge_of(self, invoice):
        for made in self.each("invoice_payment", invoice=invoice):
            return self.objects[self.objects[made["payment"]["payment_intent"]]["latest_charge"]]
        raise missing("charge", invoice, "invoice", 400)

    # What happens at Stripe without a request of the program --------------------------------------------------------

    def happen(self, order):
        """{"what": …, and what it is about}; see stand_in.py. Raises BadRequest or KeyError."""
        what = order["what"]
        if what == "replace_card":
            self.replace_card(self.find("customer", order["customer"]), order.get("card", "4242424242424242"))
        elif what == "update_card":
            method = self.find("payment_method", order["payment_method"])
            before, method["card"]["exp_year"] = method["card"]["exp_year"], method["card"]["exp_year"] + 4
            self.event("payment_method.automatically_updated", method, previous_attributes={"card": {"exp_year": before}})
        elif what == "delete_customer":
            customers_delete(self, {}, order["customer"])
        elif what == "uncollectible":
            invoice = self.find("invoice", order["invoice"])
            invoice["status"] = "uncollectible"
            self.event("invoice.marked_uncollectible", self.shown(invoice), previous_attributes={"status": "open"})
        elif what == "credit":
            self.credit(self.find("invoice", order["invoice"]), order["amount"])
        elif what == "refund":
            self.refund(self.charge_of(order["invoice"]), order["amount"], order.get("fails", False))
        elif what == "dispute":
            self.dispute(self.charge_of(order["invoice"]), order.get("ends"))
        elif what == "fraud_warning":
            charge = self.charge_of(order["invoice"])
            self.event("radar.early_fraud_warning.created", self.make(
                "issfr", "radar.early_fraud_warning", actionable=True, charge=charge["id"],
                fraud_type="made_with_stolen_card", payment_intent=charge["payment_intent"]))
        elif what == "event":
            name = re.search('"id": *"(evt_[A-Za-z0-9]+)"', order["text"]).group(1)
            self.objects[name] = {"id": name, "object": "event", "created": self.now(), "type": "odd",
                                  "_text": order["text"]}
            self._fresh.append(self.objects[name])
        else:
            raise KeyError(what)

    def replace_card(self, customer, number):
        """What a person does in Stripe's customer portal: adds a card, makes it the default, removes the one before."""
        method = self.make_card(number)
        attach(self, method, customer["id"])
        settings = customer["invoice_settings"]
        old, settings["default_payment_method"] = settings["default_payment_method"], method["id"]
        self.event("customer.updated", customer, previous_attributes={"invoice_settings": {"default_payment_method": old}})
        if old:
            self.objects[old]["customer"] = None
            self.event("payment_method.detached", self.objects[old], previous_attributes={"customer": customer["id"]})

    def credit(self, invoice, amount):
        note = self.make("cn", "credit_note", invoice=invoice["id"], customer=invoice["customer"], amount=amount,
                         currency=invoice["currency"], status="issued", total=amount, subtotal=amount, type="mixed",
                         reason="order_change", number="CN-1", metadata={}, lines=self.list_of("/v1/credit_notes", []))
        self.event("credit_note.created", note)
        if invoice["status"] == "open":
            invoice["amount_remaining"] -= amount
            if invoice["amount_remaining"] <= 0:
                invoice["status"] = "paid"
                self.event("invoice.paid", self.shown(invoice))

    def refund(self, charge, amount, fails):
        refund = self.make("re", "refund", amount=amount, charge=charge["id"], currency=charge["currency"], metadata={},
                           payment_intent=charge["payment_intent"], reason=None, status="pending")
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.event("refund.created", refund)
        self.event("charge.refunded", charge, previous_attributes={"amount_refunded": charge["amount_refunded"] - amount})
        refund["status"] = "failed" if fails else "succeeded"
        self.event("refund.failed" if fails else "refund.updated", refund, previous_attributes={"status": "pending"})

    def dispute(self, charge, ends):
        """Opens the dispute of a charge, or ends it: won or lost."""
        found = self.each("dispute", charge=charge["id"])
        if not found:
            found = [self.make("dp", "dispute", amount=charge["amount"], charge=charge["id"], metadata={},
                               currency=charge["currency"], payment_intent=charge["payment_intent"], reason="fraudulent",
                               status="needs_response", is_charge_refundable=False, evidence={})]
            charge["disputed"] = True
            self.event("charge.dispute.created", found[0])
            self.event("charge.dispute.funds_withdrawn", found[0])
        if ends:
            found[0]["status"] = ends
            self.event("charge.dispute.closed", found[0], previous_attributes={"status": "needs_response"})
            if ends == "won":
                self.event("charge.dispute.funds_reinstated", found[0])

    # Checkout ------------------------------------------------------------------------------------------------------

    def expire_sessions(self):
        for session in self.each("checkout.session", status="open"):
            if session["expires_at"] <= self.now():
                self.end_session(session)

    def end_session(self, session):
        session.update(status="expired", url=None)
        self.event("checkout.session.expired", session)

    def make_card(self, number):
        return self.make("pm", "payment_method", type="card", customer=None, metadata={}, allow_redisplay="unspecified",
                         billing_details={"address": None, "email": None, "name": None, "phone": None},
                         card={"brand": "visa", "last4": number[-4:], "exp_month": 12, "exp_year": 2034,
                               "country": "US", "funding": "credit", "fingerprint": "f" + number[-4:]})

    def complete_session(self, session, number):
        """Handles a person saving a card on the page."""
        intent = self.objects[session["setup_intent"]]
        method = self.make_card(number)
        customer = session["customer"]
        if not customer:
            customer = self.make("cus", "customer", **new_customer({}))["id"]
            session["customer"] = intent["customer"] = customer
        attach(self, method, customer)
        intent.update(status="succeeded", payment_method=method["id"])
        session.update(status="complete", url=None)
        self.event("setup_intent.succeeded", intent)
        self.event("checkout.session.completed", session)


def new_customer(params):
    settings = params.get("invoice_settings", {})
    return {"email": params.get("email"), "name": params.get("name"), "description": params.get("description"),
            "phone": None, "metadata": params.get("metadata", {}), "balance": 0, "currency": None, "delinquent": False,
            "default_source": None, "address": None, "shipping": None, "next_invoice_sequence": 1,
            "invoice_prefix": "%08X" % random.getrandbits(32), "tax_exempt": "none", "preferred_locales": [],
            "invoice_settings": {"default_payment_method": settings.get("default_payment_method"),
                                 "custom_fields": None, "footer": None, "rendering_options": None}}


def merge_metadata(found, params):
    for name, value in params.get("metadata", {}).items():
        if value == "":
            found["metadata"].pop(name, None)
        else:
            found["metadata"][name] = value


CUSTOMER = {"email": "text", "name": "text", "description": "text", "metadata": "metadata",
            "invoice_settings": {"default_payment_method": "text"}}


def changed_members(before, after):
    """previous_attributes of an event: the former values of what changed, also inside objects."""
    found = {}
    for key, value in before.items():
        if isinstance(value, dict) and isinstance(after[key], dict):
            inner = changed_members(value, after[key])
            found.update({key: inner} if inner else {})
        elif after[key] != value:
            found[key] = value
    return found


@route("POST", "/v1/customers")
def customers_create(account, params):
    params = checked(params, CUSTOMER)
    customer = account.make("cus", "customer", **new_customer(params))
    account.event("customer.created", customer)
    return customer


@route("GET", "/v1/customers")
def customers_list(account, params):
    params = checked(params, {**PAGING, "email": "text"})
    wanted = {"email": params["email"]} if "email" in params else {}
    return account.page("/v1/customers", account.each("customer", **wanted), params)


@route("GET", "/v1/customers/ID")
def customers_get(account, params, name):
    checked(params, {})
    customer = account.find("customer", name)
    return {"id": name, "object": "customer", "deleted": True} if customer.get("deleted") else customer


@route("POST", "/v1/customers/ID")
def customers_update(account, params, name):
    params = checked(params, CUSTOMER)
    customer = account.find("customer", name)
    if customer.get("deleted"):
        raise missing("customer", name)
    default = params.get("invoice_settings", {}).get("default_payment_method")
    if default and account.find("payment_method", default, "invoice_settings[default_payment_method]", 400
                                )["customer"] != name:
        raise BadRequest(400, "The customer does not have a payment method with the ID %s. The payment method must be "
                         "attached to the customer." % default, code="resource_missing",
                         param="invoice_settings[default_payment_method]")
    before = copy.deepcopy(customer)
    merge_metadata(customer, params)
    customer["invoice_settings"].update(params.get("invoice_settings", {}))
    customer.update({key: params[key] or None for key in ("email", "name", "description") if key in params})
    changed = changed_members(before, customer)
    account.event("customer.updated", customer, previous_attributes=changed)
    return customer


@route("DELETE", "/v1/customers/ID")
def customers_delete(account, params, name):
    checked(params, {})
    customer = account.find("customer", name)
    for method in account.each("payment_method", customer=name):
        method["customer"] = None
        account.event("payment_method.detached", method, previous_attributes={"customer": name})
    account.event("customer.deleted", customer)
    customer["deleted"] = True
    return {"id": name, "object": "customer", "deleted": True}


# Payment methods ----------------------------------------------------------------------------------------------------

def attach(account, method, customer):
    account.find("customer", customer, "customer", 400)
    method["customer"] = customer
    account.event("payment_method.attached", method)


TOKENS = {"tok_visa": "4242424242424242", "tok_chargeCustomerFail": "4000000000000341"}


@route("POST", "/v1/payment_methods")
def payment_methods_create(account, params):
    params = checked(params, {"type": ("card",), "card": {"token": "text"}, "metadata": "metadata"}, ["type", "card"])
    token = params["card"].get("token")
    if token not in TOKENS:
        raise missing("token", token, "card[token]", 400)
    return account.make_card(TOKENS[token])


@route("GET", "/v1/payment_methods/ID")
def payment_methods_get(account, params, name):
    checked(params, {})
    return account.find("payment_method", name)


@route("GET", "/v1/payment_methods")
def payment_methods_list(account, params):
    params = checked(params, {**PAGING, "customer": "text", "type": ("card",)}, ["customer"])
    return account.page("/v1/payment_methods", account.each("payment_method", customer=params["customer"]), params)


@route("GET", "/v1/customers/ID/payment_methods")
def customers_payment_methods(account, params, name):
    params = checked(params, {**PAGING, "type": ("card",)})
    account.find("customer", name)
    return account.page("/v1/customers/%s/payment_methods" % name, account.each("payment_method", customer=name),
                        params)


@route("POST", "/v1/payment_methods/ID/attach")
def payment_methods_attach(account, params, name):
    params = checked(params, {"customer": "text"}, ["customer"])
    method = account.find("payment_method", name)
    if method["customer"] and method["customer"] != params["customer"]:
        raise BadRequest(400, "The payment method you provided has already been attached to a customer.")
    attach(account, method, params["customer"])
    return method


@route("POST", "/v1/payment_methods/ID/detach")
def payment_methods_detach(account, params, name):
    checked(params, {})
    method = account.find("payment_method", name)
    if not method["customer"]:
        raise BadRequest(400, "The payment method you provided is not attached to a customer so detachment is "
                         "impossible.")
    customer = account.objects[method["customer"]]
    before, method["customer"] = method["customer"], None
    if customer["invoice_settings"]["default_payment_method"] == name:
        customer["invoice_settings"]["default_payment_method"] = None
        account.event("customer.updated", customer, previous_attributes={
            "invoice_settings": {"default_payment_method": name}})
    account.event("payment_method.detached", method, previous_attributes={"customer": before})
    return method


# Setup intents and checkout ------------------------------------------------------------------------------------------

@route("GET", "/v1/setup_intents/ID")
def setup_intents_get(account, params, name):
    checked(params, {})
    return account.find("setup_intent", name)


@route("GET", "/v1/setup_intents")
def setup_intents_list(account, params):
    params = checked(params, {**PAGING, "customer": "text"})
    wanted = {"customer": params["customer"]} if "customer" in params else {}
    return account.page("/v1/setup_intents", account.each("setup_intent", **wanted), params)


SESSION = {"mode": ("setup",), "customer": "text", "client_reference_id": "text", "metadata": "metadata",
           "success_url": "text", "cancel_url": "text", "currency": "text", "expires_at": "integer",
           "customer_email": "text", "payment_method_types": "list",
           "setup_intent_data": {"metadata": "metadata", "description": "text"}}


def check_session(account, params):
    for name in ("success_url", "cancel_url"):
        if name in params and not re.match(r"https?://[^\s/]", params[name]):
            raise BadRequest(400, "Not a valid URL", code="url_invalid", param=name)
    if "customer" in params and account.find("customer", params["customer"], "customer", 400).get("deleted"):
        raise missing("customer", params["customer"], "customer", 400)
    if len(params.get("client_reference_id", "")) > 200:
        raise BadRequest(400, "Invalid string: client_reference_id; must be at most 200 characters",
                         param="client_reference_id")
    if not params.get("currency") and not params.get("payment_method_types"):
        raise BadRequest(400, "You must provide `currency` when using dynamic payment methods in setup mode.",
                         code="parameter_missing", param="currency")
    ends = params.get("expires_at", account.now() + SESSION_SECONDS)
    if not account.now() + 1799 <= ends <= account.now() + SESSION_SECONDS + 5:
        raise BadRequest(400, "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout "
                         "Session creation.", param="expires_at")
    return ends


@route("POST", "/v1/checkout/sessions")
def sessions_create(account, params):
    params = checked(params, SESSION, ["mode", "success_url"])
    ends = check_session(account, params)
    data = params.get("setup_intent_data", {})
    customer = params.get("customer")
    intent = account.make("seti", "setup_intent", customer=customer, payment_method=None, usage="off_session",
                          status="requires_payment_method", metadata=data.get("metadata", {}),
                          description=data.get("description"), payment_method_types=["card"],
                          client_secret=None, last_setup_error=None)
    session = account.make("cs_test", "checkout.session", mode="setup", status="open", customer=customer,
                           client_reference_id=params.get("client_reference_id"), metadata=params.get("metadata", {}),
                           success_url=params["success_url"], cancel_url=params.get("cancel_url"),
                           currency=params.get("currency"), setup_intent=intent["id"], payment_intent=None,
                           customer_email=params.get("customer_email"), payment_method_types=["card"],
                           payment_status="no_payment_required", expires_at=ends, subscription=None, invoice=None)
    session["url"] = "%s/c/pay/%s" % (account.base, session["id"])
    account.event("setup_intent.created", intent)
    return session


@route("GET", "/v1/checkout/sessions")
def sessions_list(account, params):
    params = checked(params, {**PAGING, "customer": "text"})
    wanted = {"customer": params["customer"]} if "customer" in params else {}
    return account.page("/v1/checkout/sessions", account.each("checkout.session", **wanted), params)


@route("GET", "/v1/checkout/sessions/ID")
def sessions_get(account, params, name):
    checked(params, {})
    return account.find("checkout.session", name)


@route("POST", "/v1/checkout/sessions/ID/expire")
def sessions_expire(account, params, name):
    checked(params, {})
    session = account.find("checkout.session", name)
    if session["status"] != "open":
        raise BadRequest(400, "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout "
                         "Session has a status of %s." % session["status"])
    account.end_session(session)
    return session


# Invoices -----------------------------------------------------------------------------------------------------------

INVOICE = {"customer": "text", "currency": "text", "auto_advance": "boolean", "metadata": "metadata",
           "collection_method": ("charge_automatically", "send_invoice"), "description": "text",
           "pending_invoice_items_behavior": ("exclude", "include"), "default_payment_method": "text",
           "days_until_due": "integer", "footer": "text"}


def customer_of(account, params):
    customer = account.find("customer", params["customer"], "customer", 400)
    if customer.get("deleted"):
        raise missing("customer", params["customer"], "customer", 400)
    return customer


@route("POST", "/v1/invoices")
def invoices_create(account, params):
    params = checked(params, INVOICE, ["customer"])
    customer = customer_of(account, params)
    now = account.now()
    invoice = account.make(
        "in", "invoice", customer=customer["id"], currency=params.get("currency", "usd").lower(), status="draft",
        metadata=params.get("metadata", {}), auto_advance=params.get("auto_advance", False), amount_paid=0,
        collection_method=params.get("collection_method", "charge_automatically"), attempt_count=0, attempted=False,
        description=params.get("description"), footer=params.get("footer"), number=None, starting_balance=0,
        ending_balance=None, default_payment_method=params.get("default_payment_method"), billing_reason="manual",
        period_start=now, period_end=now, hosted_invoice_url=None, invoice_pdf=None, due_date=None,
        customer_email=customer["email"], customer_name=customer["name"], amount_overpaid=0, amount_shipping=0,
        status_transitions={"finalized_at": None, "paid_at": None, "voided_at": None,
                            "marked_uncollectible_at": None})
    if params.get("pending_invoice_items_behavior") == "include":
        for item in account.each("invoiceitem", customer=customer["id"], invoice=None):
            item["invoice"] = invoice["id"]
    account.total(invoice)
    account.event("invoice.created", account.shown(invoice))
    return invoice


@route("GET", "/v1/invoices")
def invoices_list(account, params):
    params = checked(params, {**PAGING, "customer": "text",
                              "status": ("draft", "open", "paid", "uncollectible", "void"),
                              "collection_method": ("charge_automatically", "send_invoice")})
    wanted = {name: params[name] for name in ("customer", "status", "collection_method") if name in params}
    return account.page("/v1/invoices", account.each("invoice", **wanted), params)


@route("GET", "/v1/invoices/ID")
def invoices_get(account, params, name):
    checked(params, {})
    return account.find("invoice", name)


@route("GET", "/v1/invoices/ID/lines")
def invoices_lines(account, params, name):
    params = checked(params, PAGING)
    account.find("invoice", name)
    lines = [{**account.line_of(item), "created": item["created"]} for item in account.items_of(name)]
    return account.page("/v1/invoices/%s/lines" % name, lines, params)


@route("POST", "/v1/invoices/ID")
def invoices_update(account, params, name):
    params = checked(params, {"metadata": "metadata", "description": "text", "auto_advance": "boolean",
                              "default_payment_method": "text", "footer": "text"})
    invoice = account.find("invoice", name)
    if invoice["status"] != "draft" and set(params) - {"metadata", "auto_advance", "default_payment_method"}:
        raise not_editable()
    merge_metadata(invoice, params)
    invoice.update({key: value for key, value in params.items() if key not in ("metadata", "expand")})
    account.event("invoice.updated", account.shown(invoice))
    return invoice


@route("DELETE", "/v1/invoices/ID")
def invoices_delete(account, params, name):
    checked(params, {})
    invoice = account.find("invoice", name)
    if invoice["status"] != "draft":
        raise BadRequest(400, "You can only delete draft invoices.", code="invoice_not_editable")
    account.event("invoice.deleted", account.shown(invoice))
    for item in account.items_of(name):
        item["deleted"] = True
    del account.objects[name]
    return {"id": name, "object": "invoice", "deleted": True}


def not_editable():
    return BadRequest(400, "Finalized invoices can't be updated in this way", code="invoice_not_editable")


def finalize(account, invoice):
    """Sets the number, the amount due after the balance of the customer, and the resulting status."""
    customer = account.objects[invoice["customer"]]
    if not account.items_of(invoice["id"]):
        raise BadRequest(400, "Nothing to invoice for customer", code="invoice_no_customer_line_items")
    account.total(invoice)
    due = invoice["total"] + customer["balance"]
    invoice.update(status="open", starting_balance=customer["balance"], ending_balance=0,
                   number="%s-%04d" % (customer["invoice_prefix"], customer["next_invoice_sequence"]),
                   hosted_invoice_url="%s/i/%s" % (account.base, invoice["id"]))
    if due < MINIMUM_CHARGE:
        due, invoice["ending_balance"] = 0, due
    customer.update(balance=invoice["ending_balance"], next_invoice_sequence=customer["next_invoice_sequence"] + 1,
                    currency=invoice["currency"])
    invoice.update(amount_due=due, amount_remaining=due)
    invoice["status_transitions"]["finalized_at"] = account.now()
    account.event("invoice.finalized", account.shown(invoice))
    if due == 0:
        account.settle(invoice)


@route("POST", "/v1/invoices/ID/finalize")
def invoices_finalize(account, params, name):
    params = checked(params, {"auto_advance": "boolean"})
    invoice = account.find("invoice", name)
    if invoice["status"] != "draft":
        raise BadRequest(400, "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
                         code="invoice_not_editable")
    invoice["auto_advance"] = params.get("auto_advance", invoice["auto_advance"])
    finalize(account, invoice)
    return invoice


@route("POST", "/v1/invoices/ID/pay")
def invoices_pay(account, params, name):
    params = checked(params, {"payment_method": "text", "off_session": "boolean", "paid_out_of_band": "boolean"})
    invoice = account.find("invoice", name)
    if invoice["status"] == "draft":
        finalize(account, invoice)
        if invoice["status"] == "paid":
            return invoice
    if invoice["status"] != "open":
        raise BadRequest(400, "Invoice is already paid" if invoice["status"] == "paid" else
                         "This invoice can no longer be paid")
    if params.get("paid_out_of_band"):
        account.settle(invoice, charged=False)
        return invoice
    method = account.method_for(invoice, params)
    if not method:
        raise BadRequest(400, "There is no `default_payment_method` set on this Customer or Invoice. Please set a "
                         "`default_payment_method` prior to attempting payment.", code="resource_missing")
    invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
    if account.declined(invoice["customer"], method):
        account.event("invoice.payment_failed", account.shown(invoice))
        raise BadRequest(402, "Your card was declined.", "card_error", code="card_declined",
                         decline_code="generic_decline")
    account.settle(invoice)
    return invoice


@route("POST", "/v1/invoices/ID/void")
def invoices_void(account, params, name):
    checked(params, {})
    invoice = account.find("invoice", name)
    if invoice["status"] != "open":
        raise BadRequest(400, "You can only void an open invoice.", code="invoice_not_editable")
    invoice.update(status="void", amount_remaining=0)
    invoice["status_transitions"]["voided_at"] = account.now()
    account.event("invoice.voided", account.shown(invoice))
    return invoice


# Invoice items -------------------------------------------------------------------------------------------------------

ITEM = {"customer": "text", "invoice": "text", "amount": "integer", "currency": "text", "description": "text",
        "metadata": "metadata", "period": {"start": "integer", "end": "integer"}, "discountable": "boolean"}


@route("POST", "/v1/invoiceitems")
def invoiceitems_create(account, params):
    params = checked(params, ITEM, ["customer", "amount", "currency"])
    customer = customer_of(account, params)
    invoice = account.find("invoice", params["invoice"], "invoice", 400) if "invoice" in params else None
    if invoice and invoice["status"] != "draft":
        raise not_editable()
    if invoice and invoice["customer"] != customer["id"]:
        raise BadRequest(400, "The invoice does not belong to the customer", param="invoice")
    if invoice and invoice["currency"] != params["currency"].lower():
        raise BadRequest(400, "The currency of the invoice item must be that of the invoice", param="currency")
    now = account.now()
    item = account.make("ii", "invoiceitem", customer=customer["id"], invoice=params.get("invoice"), date=now,
                        amount=params["amount"], currency=params["currency"].lower(), quantity=1, proration=False,
                        description=params.get("description"), metadata=params.get("metadata", {}),
                        discountable=params.get("discountable", True), discounts=[], tax_rates=[],
                        period=params.get("period", {"start": now, "end": now}))
    if invoice:
        account.total(invoice)
    account.event("invoiceitem.created", item)
    return item


@route("GET", "/v1/invoiceitems")
def invoiceitems_list(account, params):
    params = checked(params, {**PAGING, "customer": "text", "invoice": "text", "pending": "boolean"})
    wanted = {name: params[name] for name in ("customer", "invoice") if name in params}
    if params.get("pending"):
        wanted["invoice"] = None
    return account.page("/v1/invoiceitems", account.each("invoiceitem", **wanted), params)


@route("GET", "/v1/invoiceitems/ID")
def invoiceitems_get(account, params, name):
    checked(params, {})
    return account.find("invoiceitem", name)


@route("DELETE", "/v1/invoiceitems/ID")
def invoiceitems_delete(account, params, name):
    checked(params, {})
    item = account.find("invoiceitem", name)
    invoice = account.objects.get(item["invoice"])
    if invoice and invoice["status"] != "draft":
        raise not_editable()
    del account.objects[name]
    if invoice:
        account.total(invoice)
    account.event("invoiceitem.deleted", item)
    return {"id": name, "object": "invoiceitem", "deleted": True}


# Events ---------------------------------------------------------------------------------------------------------------

@route("GET", "/v1/events")
def events_list(account, params):
    params = checked(params, {**PAGING, "type": "text", "types": "list"})
    found = account.each("event")
    if "type" in params:
        found = [e for e in found if e["type"] == params["type"] or
                 params["type"].endswith("*") and e["type"].startswith(params["type"][:-1])]
    if "types" in params:
        found = [e for e in found if e["type"] in params["types"]]
    return account.page("/v1/events", found, params)


@route("GET", "/v1/events/ID")
def events_get(account, params, name):
    checked(params, {})
    return account.find("event", name)


def key_shown(authorization):
    """Returns the API key of an Authorization header: Bearer, or the user of Basic; None if missing."""
    kind, _, value = (authorization or "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0]
    except ValueError:
        return None
