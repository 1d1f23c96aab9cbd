"""The outbox: each obligation of Repo C takes effect once, whatever fails; the customer of an onboarding; dead
letters."""

import json
import tempfile
import threading
import time

import pytest

from checks import check, equal, parallel, slowness, until
from payments import payments
from stack import children, end_quietly
from test_usage import clock_shifted


def ctl(bench, pay, *arguments):
    """Runs acpctl with the settings of the installation that accepts payments."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-e2e-") as file:
        kept = {name: bench.stack.setting(name) for name in ("database_url", "key_pepper", "key_pepper_file")}
        settings = {**kept, **{n: v for n, v in pay.settings.items() if n.startswith("stripe_")}}
        file.writelines("%s = %s\n" % pair for pair in settings.items() if pair[1] is not None)
        file.flush()
        return bench.stack.program("acpctl", *arguments, config=file.name)


def listed(bench, pay, state="owed"):
    done = ctl(bench, pay, "--json", "outbox", "list", "--state", state, "--limit", "1000")
    equal(done.returncode, 0, "exit status: %s" % done.stderr)
    return json.loads(done.stdout)


def test_customer_with_onboarding(bench):
    """Contract 2.1: first the tenant is created in B, then the customer through C, whose id is stored on the tenant.
    Then comes the reply with the key."""
    with payments(bench) as pay:
        tenant = pay.onboard(organization_name="Wörks & Co")
        row = pay.tenant(tenant)
        customers = pay.customers(tenant)
        equal([c["id"] for c in customers], [row["stripe_customer_id"]], "the customer at the time of the reply")
        equal((customers[0]["email"], customers[0]["name"]), ("human@example.com", "Wörks & Co"), "email and name")
        equal(tenant["payments"], "stripe", "payments")
        owed = pay.owed(tenant, "true")
        equal([(o["obligation"], o["attempts"], o["done_at"] is not None) for o in owed],
              [("customer-" + tenant["tenant_uuid"], 1, True)], "the obligation")
        made = [r["status"] for r in pay.stripe.requests("POST", "/v1/customers")
                if r["idempotency_key"] == "customer-" + tenant["tenant_uuid"]]
        equal(made, [200], "requests with the obligation's key")


@pytest.mark.slow
def test_customer_while_others_look_for_work(bench):
    """Contract 2.1: the reply waits for the customer, although other processes claim whatever is due in the outbox."""
    with payments(bench) as pay:
        over = threading.Event()

        def claim():
            while not over.is_set():
                bench.db.value("select acp.outbox_take(10, interval '1 second')")
        rival = threading.Thread(target=claim)
        rival.start()
        try:
            tenants = [pay.onboard() for _ in range(40)]
            without = [tenant["tenant_uuid"] for tenant in tenants if not pay.tenant(tenant)["stripe_customer_id"]]
        finally:
            over.set()
            rival.join()
        equal(without, [], "tenants without a customer at the time of the reply")


def test_same_onboarding_again(bench):
    """Contract 2.1: the same Idempotency-Key returns the same reply and creates no second customer."""
    with payments(bench) as pay:
        body = {"agent_id": bench.agent_id(), "email": "human@example.com"}
        replies = parallel(4, lambda _: pay.send("POST", "/api/onboard/leadscoring", body, None,
                                                 {"Idempotency-Key": body["agent_id"]}))
        equal({status for status, _ in replies}, {201}, "statuses")
        equal(len({reply["api_key"] for _, reply in replies}), 1, "keys")
        bench.keys.add(replies[0][1]["api_key"])
        pay.settled(replies[0][1])
        equal(len(pay.customers(replies[0][1])), 1, "customers")


@pytest.mark.slow
def test_stripe_down_at_onboarding(bench):
    """If Stripe is down during onboarding, the reply is 201 within 2 s, and the customer is created later,
    exactly once."""
    with payments(bench) as pay:
        for trouble in ({"fail": {"path": "/v1/customers", "status": 503, "times": -1}},
                        {"slow": {"path": "/v1/customers", "seconds": 4, "times": -1}},
                        {"drop": {"path": "/v1/customers", "times": -1}}):
            pay.stripe.control(**trouble)
            start = time.monotonic()
            tenant = pay.onboard()
            took = time.monotonic() - start
            check(took < 2 * slowness(), "%s: onboarding took %.2f s" % (trouble, took))
            status, _ = pay.score(tenant["api_key"])
            equal(status, 200, "a call with the key")
            pay.stripe.control(reset=True)
            with clock_shifted(bench, "1 hour"):
                pay.becomes(tenant, 40, stripe_customer_id=pay_customer(pay, tenant))
                pay.settled(tenant, 30)
            equal(len(pay.customers(tenant)), 1, "customers after %s" % trouble)
        pay.stripe.stop()
        start = time.monotonic()
        tenant = pay.onboard()
        took = time.monotonic() - start
        check(took < 2 * slowness(), "connection refused: onboarding took %.2f s" % took)
        equal(pay.tenant(tenant)["stripe_customer_id"], None, "customer")
        pay.stripe.start()
        with clock_shifted(bench, "1 hour"):
            pay.customer(tenant)
        equal([c["id"] for c in pay.customers(tenant)], [pay.tenant(tenant)["stripe_customer_id"]], "customers")


def pay_customer(pay, tenant):
    """Waits until Stripe has the tenant's customer; returns its id."""
    return until(40, "Stripe has the customer", lambda: pay.customers(tenant), 0.1)[0]["id"]


@pytest.mark.slow
def test_worker_killed(bench):
    """If a worker is killed in the middle of an execution, there is finally exactly one customer."""
    with payments(bench, processes="1") as pay:
        pay.stripe.stop()
        tenant = pay.onboard()
        pay.stripe.start()
        pay.stripe.control(slow={"path": "/v1/customers", "method": "POST", "seconds": 2, "times": 1},
                           drop={"path": "/v1/customers", "method": "POST", "times": 1})
        with pay.responder(processes="1") as other:
            until(20, "the obligation is leased", lambda: [o for o in pay.owed(tenant) if o["leased_until"]])
            # Either of them may have the lease, so both are killed.
            for process in (pay.process, other.process):
                end_quietly([*children(process.pid), process.pid])
            pay.process.wait(20)
            other.process.wait(20)
        equal(pay.tenant(tenant)["stripe_customer_id"], None, "customer")
        with pay.responder(), clock_shifted(bench, "3 minutes"):
            pay.customer(tenant)
            pay.settled(tenant)
            equal([c["id"] for c in pay.customers(tenant)], [pay.tenant(tenant)["stripe_customer_id"]], "customers")
            check(pay.owed(tenant, "true")[0]["attempts"] >= 2, "it was not retried")


@pytest.mark.slow
def test_many_workers(bench):
    """Several processes can process one outbox; each obligation is executed by one of them."""
    with payments(bench) as pay:
        pay.stripe.stop()
        tenants = parallel(6, lambda _: pay.onboard())
        bench.db.execute("update acp.outbox set due_at = acp.now() + interval '1 hour' where done_at is null")
        pay.stripe.start()
        with pay.responder(processes="4"):
            bench.db.execute("update acp.outbox set due_at = acp.now() where done_at is null")
            for tenant in tenants:
                pay.settled(tenant, 60)
            for tenant in tenants:
                equal([c["id"] for c in pay.customers(tenant)], [pay.tenant(tenant)["stripe_customer_id"]], "customers")
            made = [r["idempotency_key"] for r in pay.stripe.requests("POST", "/v1/customers") if r["status"] == 200]
            equal(sorted(made), sorted("customer-" + t["tenant_uuid"] for t in tenants), "keys of successful requests")


def test_dead_letter(bench):
    """A finally refused obligation is a dead letter. acpctl lists it; after acpctl outbox retry it is
    executed."""
    with payments(bench) as pay:
        pay.stripe.control(fail={"path": "/v1/customers", "method": "POST", "status": 400, "times": 1})
        tenant = pay.onboard()
        dead = until(10, "the dead letter", lambda: pay.owed(tenant, "dead"))[0]
        check(dead["error"] and dead["error_code"], "without a reason: %s" % dead)
        time.sleep(2.5)
        equal(pay.owed(tenant, "true")[0]["attempts"], 1, "attempts of the dead letter")
        shown = [o for o in listed(bench, pay, "dead") if o["outbox_id"] == dead["outbox_id"]]
        equal([(o["obligation"], o["state"], o["error_code"]) for o in shown],
              [(dead["obligation"], "dead", dead["error_code"])], "acpctl outbox list --state dead")
        done = ctl(bench, pay, "outbox", "retry", str(dead["outbox_id"]))
        equal((done.returncode, done.stdout), (0, "1 due now\n"), "acpctl outbox retry: %s" % done.stderr)
        pay.customer(tenant, 20)
        equal(len(pay.customers(tenant)), 1, "customers")


def test_acpctl(bench):
    """Acpctl outbox run processes the outbox if no responder does; acpctl outbox drop removes an obligation."""
    with payments(bench) as pay:
        pay.stripe.stop()
        tenants = [pay.onboard(), pay.onboard()]
        # Not with SIGTERM, which would let a running attempt continue for 20 s.
        end_quietly([*children(pay.process.pid), pay.process.pid])
        pay.process.wait(20)
        numbers = [pay.owed(tenant)[0]["outbox_id"] for tenant in tenants]
        bench.db.execute("update acp.outbox set due_at = acp.now() + interval '1 hour', leased_until = null "
                         "where done_at is null")
        pay.stripe.start()
        check(set(numbers) <= {o["outbox_id"] for o in listed(bench, pay)}, "acpctl outbox list")
        done = ctl(bench, pay, "outbox", "drop", str(numbers[1]))
        equal((done.returncode, done.stdout), (0, "dropped %d\n" % numbers[1]), "acpctl outbox drop: %s" % done.stderr)
        equal(ctl(bench, pay, "outbox", "drop", str(numbers[1])).returncode, 1, "dropped again")
        equal(ctl(bench, pay, "outbox", "run").stdout, "0 done, 0 failed\n", "while nothing is due")
        bench.db.execute("update acp.outbox set due_at = acp.now(), leased_until = acp.now() + interval '1 hour' "
                         "where outbox_id = :'n'", n=numbers[0])
        equal(ctl(bench, pay, "outbox", "run").stdout, "0 done, 0 failed\n", "while another process has the lease")
        bench.db.execute("update acp.outbox set leased_until = null where outbox_id = :'n'", n=numbers[0])
        done = ctl(bench, pay, "outbox", "run")
        equal((done.returncode, done.stdout), (0, "1 done, 0 failed\n"), "acpctl outbox run: %s" % done.stderr)
        equal([c["metadata"]["tenant_uuid"] for c in pay.stripe.all("/v1/customers")], [tenants[0]["tenant_uuid"]],
              "customers")
        pay.settings = {}
        done = ctl(bench, pay, "outbox", "run")
        check(done.returncode == 1 and "stripe_key" in done.stderr, "without a key: %s" % done.stderr)


def test_without_executor(bench):
    """Without Stripe, onboarding creates no obligation. A responder without an executor leaves the outbox
    alone."""
    tenant = bench.onboard()
    equal(tenant.reply.json["payments"], "not_configured", "payments")
    equal(bench.db.value("select count(*) from acp.outbox where tenant_id = :'id'", id=tenant.id), 0, "owed")
    bench.db.execute("select acp.outbox_customer(:'id')", id=tenant.id)
    time.sleep(2.5)
    row = bench.db.row("select * from acp.outbox where tenant_id = :'id'", id=tenant.id)
    equal((row["attempts"], row["done_at"]), (0, None), "the obligation")
    bench.db.execute("select acp.outbox_drop(outbox_id) from acp.outbox where tenant_id = :'id'", id=tenant.id)
