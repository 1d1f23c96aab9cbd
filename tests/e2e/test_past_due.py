"""When a payment fails: the days of grace, cards that are replaced at Stripe, deleted customers, and money that comes back."""

import json
import time

import pytest

from checks import check, equal, parallel, until
from payments import payments
from test_billing import money


def shift(m, seconds):
    """Moves the database's clock by seconds from the real one."""
    m.db.execute("select format('alter database %I set acp.clock_offset = %L', current_database(), :'o') \\gexec",
                 o="%d s" % seconds)


def in_debt(m, **orders):
    """A tenant whose invoice of last month was declined; returns it and the month."""
    tenant = m.paying()
    month = bill(m, tenant, declined=True, **orders)
    m.pay.becomes(tenant, effective_tier="paid")
    until(20, "the tenant is past due", lambda: m.pay.tenant(tenant)["past_due_since"], 0.05)
    return tenant, month


def bill(m, tenant, declined=False):
    """Bills 2000 calls of last month, and waits for the result."""
    m.clock(1)
    m.calls(tenant, 2000)
    m.now()
    month = m.month(1)
    if declined:
        m.stripe.control(decline={"customer": m.pay.tenant(tenant)["stripe_customer_id"], "times": -1})
    m.run(month)
    m.becomes(tenant, month, "failed" if declined else "paid")
    return month


def limit(m, tenant, calls):
    m.ctl("tenant", "update", tenant["tenant_uuid"], "--calls-limit", str(calls))


def usage(m, tenant):
    return m.pay.send("GET", "/api/usage", key=tenant["api_key"])[1]


@pytest.mark.slow
def test_declined_without_events(bench):
    """Contract 5.4: a declined card makes past due even if Stripe's events are lost. Every reply warns, usage, acpctl and
    reports show it, and another card pays the invoice and ends it."""
    with money(bench) as m:
        tenant = m.paying()
        other = m.paying()
        m.stripe.control(webhooks={"url": "http://127.0.0.1:9/"})
        month = bill(m, tenant, declined=True)
        row = until(20, "past due", lambda: m.pay.tenant(tenant)["past_due_since"] and m.pay.tenant(tenant), 0.05)
        equal((row["payment_method_status"], row["effective_tier"]), ("active", "paid"), "the tenant")
        limit(m, tenant, 0)
        status, reply = m.pay.score(tenant["api_key"])
        equal(status, 200, "a call within the days of grace")
        warning = reply["warning"]
        equal(set(warning), {"message", "upgrade_url", "past_due_until"}, "the warning")
        shown = usage(m, tenant)
        equal((shown["tier"], shown["past_due"]["until"]), ("paid", warning["past_due_until"]), "usage")
        check(warning["past_due_until"] in warning["message"], warning["message"])
        status, reply = m.pay.send("POST", "/api/manage", {"action": "meta.version"}, tenant["api_key"])
        equal((status, reply["warning"]["past_due_until"]), (200, warning["past_due_until"]), "a call that is not billable")
        check("warning" not in m.pay.score(other["api_key"])[1], "another tenant is warned")
        check("past_due" not in usage(m, other), "another tenant's usage")
        row = json.loads(m.ctl("--json", "tenant", "show", tenant["tenant_uuid"]))
        row = row[0] if isinstance(row, list) else row
        equal(row["past_due_until"], warning["past_due_until"], "tenant show")
        listed = {t["tenant_id"]: t["past_due_until"] for t in json.loads(m.ctl("--json", "tenant", "list"))}
        equal((listed[tenant["tenant_uuid"]], listed[other["tenant_uuid"]]), (warning["past_due_until"], None), "tenant list")
        seen = m.db.rows("select tenant_id, past_due_since is not null as due from acp_report.invoices where past_due_since is not null")
        equal([(r["tenant_id"], r["due"]) for r in seen], [(tenant["tenant_uuid"], True)], "acp_report.invoices")
        equal(m.db.value("select tier from acp_report.tenants where past_due_until > acp.now()"), "paid", "acp_report.tenants")
        shift(m, 7 * 86400 + 60)
        status, reply = m.pay.score(tenant["api_key"])
        equal((status, reply["code"]), (402, "UPGRADE_REQUIRED"), "a call after the days of grace")
        equal(usage(m, tenant)["tier"], "free", "the tier then")
        m.db.execute("select format('alter database %I reset acp.clock_offset', current_database()) \\gexec")
        # The human opens the link of the warning, and enters another card.
        m.stripe.control(reset=True)
        m.stripe.control(webhooks={"url": m.pay.gate.url + "/api/webhooks/stripe"})
        status, headers, _ = m.pay.open(warning["upgrade_url"])
        equal(status, 303, "the link of the warning")
        m.stripe.complete(headers["Location"])
        m.becomes(tenant, month, "paid")
        until(20, "not past due", lambda: not m.pay.tenant(tenant)["past_due_since"], 0.05)
        check("warning" not in m.pay.score(tenant["api_key"])[1], "still warned")
        m.pay.settled(tenant)
        m.proved()


def test_grace_ends_everywhere(bench):
    """Contract 5.4 and 1: a failed payment, the end of the days of grace and the payment are in force in every process for
    calls that start 100 ms later, also under load, when callers come from the cache."""
    with money(bench, processes="4", key_cache_ms="100", grace_days="1", rate_limits="off") as m:
        tenant = m.paying()
        month = bill(m, tenant)
        invoice = m.period(tenant, month)["stripe_invoice_id"]
        until(20, "all events arrived", lambda: not m.stripe.report()["webhooks"]["under_way"], 0.1)
        m.db.execute("delete from acp.invoice_states; delete from acp.invoice_payments; delete from acp.stripe_marks where "
                     "subject like 'in%'; update acp.billing_periods set status = 'invoiced'")  # as if it were not paid yet
        limit(m, tenant, 0)
        subject = {"id": invoice, "object": "invoice", "status": "open", "metadata": {"tenant_uuid": tenant["tenant_uuid"]}}

        def calls():
            time.sleep(0.1)
            replies = parallel(32, lambda _: m.pay.score(tenant["api_key"]))
            return {(status, "warning" in reply) for status, reply in replies}

        equal(calls(), {(200, False)}, "before")
        equal(m.pay.deliver(m.pay.event("invoice.payment_failed", subject))[1]["effect"], "applied", "the payment fails")
        equal(calls(), {(200, True)}, "within the days of grace")
        for _ in range(2):
            shift(m, 86400 + 5)
            equal(calls(), {(402, False)}, "after the days of grace")
            shift(m, 0)
            equal(calls(), {(200, True)}, "within the days of grace again")
        shift(m, 86400 + 5)
        equal(calls(), {(402, False)}, "after the days of grace")
        equal(m.pay.deliver(m.pay.event("invoice.paid", {**subject, "status": "paid"}))[1]["effect"], "applied", "it is paid")
        equal(calls(), {(200, False)}, "after the payment")
        tiers = m.db.rows("select distinct tier, status from acp.audit_logs where tenant_id = :'t' and billable and ts > "
                          "acp.now() - interval '3 days'", t=tenant["tenant_uuid"])
        equal({(r["tier"], r["status"]) for r in tiers}, {("paid", "success")}, "what is billed")


@pytest.mark.slow
def test_card_replaced_at_stripe(bench):
    """Contract 5.4: after a card was replaced in Stripe's portal, with events repeated and in any order, the tenant is paid
    by the new card. It pays what the old one did not."""
    with money(bench, processes="2") as m:
        tenant, month = in_debt(m)
        row = m.pay.tenant(tenant)
        m.stripe.control(reset=True)
        for round_ in range(4):
            m.stripe.control(webhooks={"duplicate": 1, "shuffle": True, "hold": True})
            m.stripe.control(happen={"what": "replace_card", "customer": row["stripe_customer_id"]})
            m.stripe.control(webhooks={"release": True, "hold": False})
            wanted = m.stripe.ask("GET", "/v1/customers/" + row["stripe_customer_id"])["invoice_settings"]["default_payment_method"]
            m.pay.becomes(tenant, effective_tier="paid", stripe_payment_method=wanted)
            until(20, "all events arrived", lambda: not m.stripe.report()["webhooks"]["under_way"], 0.1)
            m.pay.becomes(tenant, effective_tier="paid", stripe_payment_method=wanted)
        m.becomes(tenant, month, "paid")
        until(20, "not past due", lambda: not m.pay.tenant(tenant)["past_due_since"], 0.05)
        m.stripe.control(happen={"what": "update_card", "payment_method": wanted})
        until(20, "all events arrived", lambda: not m.stripe.report()["webhooks"]["under_way"], 0.1)
        m.pay.becomes(tenant, effective_tier="paid", stripe_payment_method=wanted)
        m.stripe.ask("POST", "/v1/payment_methods/%s/detach" % wanted)
        m.pay.becomes(tenant, payment_method_status="none", effective_tier="free")
        m.pay.settled(tenant)
        m.proved()


def test_settled_is_not_charged(bench):
    """Contract 5.4: an invoice that the operator has settled is charged by no retry, neither by its name nor among all
    that failed; another failed invoice is."""
    with money(bench) as m:
        tenant, other, month = m.paying(), m.paying(), m.month(1)
        m.clock(1)
        m.calls(tenant, 2000)
        m.calls(other, 2000)
        m.now()
        m.stripe.control(decline={"customer": "*", "times": -1})
        m.run(month)
        m.becomes(tenant, month, "failed")
        m.becomes(other, month, "failed")
        m.stripe.control(reset=True)
        m.ctl("billing", "settle", tenant["tenant_uuid"], "--period", month)
        equal([row["obligation"] for row in json.loads(m.ctl("--json", "billing", "retry"))],
              ["billing-%s-%s-pay-1" % (other["tenant_uuid"], month)], "what is retried")
        m.becomes(other, month, "paid")
        done = m.try_ctl("billing", "retry", tenant["tenant_uuid"], "--period", month)
        check(done.returncode == 1 and "is settled, so its customer is not charged again" in done.stderr, done.stderr)
        equal([i["status"] for i in m.invoices(tenant)], ["open"], "the settled invoice at Stripe")
        equal(m.period(tenant, month)["status"], "failed", "the settled invoice here")


def test_customer_deleted(bench):
    """Contract 5.4: a tenant whose customer was deleted at Stripe is treated as free. Its next upgrade makes another
    customer, under another key."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.upgrade(tenant)
        first = pay.tenant(tenant)["stripe_customer_id"]
        pay.stripe.control(webhooks={"shuffle": True, "duplicate": 1},
                           happen={"what": "delete_customer", "customer": first})
        pay.becomes(tenant, payment_method_status="none", effective_tier="free", stripe_customer_id=None)
        equal(usage_of(pay, tenant)["tier"], "free", "tier")
        pay.upgrade(tenant)
        second = pay.tenant(tenant)["stripe_customer_id"]
        check(second and second != first, "the customer: %s" % second)
        equal([c["id"] for c in pay.customers(tenant)], [second], "customers at Stripe")
        keys = [o["obligation"] for o in pay.owed(tenant, "action = 'stripe.customers.create'")]
        equal(keys, ["customer-" + tenant["tenant_uuid"], "customer-%s-2" % tenant["tenant_uuid"]], "keys")
        equal(pay.score(tenant["api_key"])[0], 200, "a paid call")


def usage_of(pay, tenant):
    return pay.send("GET", "/api/usage", key=tenant["api_key"])[1]


@pytest.mark.slow
def test_money_that_comes_back(bench):
    """Contract 5.4: refunds, credit notes and disputes are shown on the invoice, and do not change it. A lost dispute makes
    past due until the operator settles it."""
    with money(bench) as m:
        tenant = m.paying()
        month = bill(m, tenant)
        invoice = m.period(tenant, month)["stripe_invoice_id"]

        def shown():
            return m.invoice(tenant, month)

        def happens(member, value, **order):
            m.stripe.control(webhooks={"shuffle": True, "duplicate": 1}, happen={**order, "invoice": invoice})
            until(20, "%s is %s" % (member, value), lambda: shown().get(member) == value, 0.05)

        happens("refunded", 0.2, what="refund", amount=20)
        m.stripe.control(happen={"what": "refund", "amount": 50, "fails": True, "invoice": invoice})
        until(20, "all events arrived", lambda: not m.stripe.report()["webhooks"]["under_way"], 0.1)
        equal(shown()["refunded"], 0.2, "after a refund that failed")
        happens("credited", 0.1, what="credit", amount=10)
        happens("dispute", "early_fraud_warning", what="fraud_warning")
        happens("dispute", "needs_response", what="dispute")
        equal((shown()["status"], m.pay.tenant(tenant)["past_due_since"]), ("paid", None), "while the dispute is open")
        m.proved()
        happens("dispute", "lost", what="dispute", ends="lost")
        until(20, "past due", lambda: m.pay.tenant(tenant)["past_due_since"], 0.05)
        check("past_due_until" in m.pay.score(tenant["api_key"])[1]["warning"], "no warning")
        listed = json.loads(m.ctl("--json", "billing", "list", "--period", month))
        equal([(i["refunded"], i["credited"], i["dispute"], i["status"]) for i in listed], [("0.2", "0.1", "lost", "paid")],
              "billing list")
        report = m.db.row("select refunded_minor, credited_minor, dispute, amount_minor from acp_report.invoices where tenant_id = :'t'",
                          t=tenant["tenant_uuid"])
        equal(report, {"refunded_minor": 20, "credited_minor": 10, "dispute": "lost", "amount_minor": 200}, "acp_report.invoices")
        check("lost" in m.ctl("billing", "show", tenant["tenant_uuid"], "--period", month), "billing show")
        said = m.ctl("billing", "settle", tenant["tenant_uuid"], "--period", month)
        check("counts as settled" in said, said)
        equal(m.pay.tenant(tenant)["past_due_since"], None, "after the operator settled it")
        check(m.try_ctl("billing", "settle", tenant["tenant_uuid"], "--period", month).returncode == 1, "settled twice")
        m.proved()
        # Each delivery has its own audit row, whether it found a tenant or not.
        counts = m.db.row("""select (select count(*) from acp.stripe_events) as events,
            (select count(distinct result_meta->>'resource_id') from acp.audit_logs where action = 'stripe.webhook') as rows""")
        equal(counts["events"], counts["rows"], "events and audit rows")


def test_foreign_invoices(bench):
    """Contract 5.4: an invoice of another installation, or one made by hand for the same customer, makes nobody past due."""
    with payments(bench) as pay:
        tenant = pay.onboard()
        pay.upgrade(tenant)
        customer = pay.tenant(tenant)["stripe_customer_id"]
        invoice = pay.stripe.ask("POST", "/v1/invoices", {"customer": customer, "currency": "usd"})["id"]
        pay.stripe.ask("POST", "/v1/invoiceitems", {"customer": customer, "invoice": invoice, "amount": 500, "currency": "usd"})
        pay.stripe.control(decline={"customer": customer, "times": -1})
        equal(pay.stripe.request("POST", "/v1/invoices/%s/pay" % invoice)[0], 402, "the payment")
        until(20, "the event arrived", lambda: pay.db.value("select count(*) from acp.stripe_events where object_id = :'i' and "
                                                            "type = 'invoice.payment_failed'", i=invoice), 0.05)
        pay.stripe.control(happen={"what": "uncollectible", "invoice": invoice})
        until(20, "all events arrived", lambda: not pay.stripe.report()["webhooks"]["under_way"], 0.1)
        row = pay.tenant(tenant)
        equal((row["past_due_since"], row["effective_tier"]), (None, "paid"), "the tenant")
