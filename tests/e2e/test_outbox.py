"""The outbox: what Repo C owes is done once in effect, whatever fails; onboarding's customer; dead letters."""

import json
import tempfile
import time

from checks import check, equal, parallel, until
from payments import payments
from stack import children, end_quietly
from test_usage import clock_shifted


def ctl(bench, pay, *arguments):
    """acpctl with the settings of the installation that takes payments."""
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
    """Contract 2.1: tenant in B, customer through C with its id stored on the tenant, then the reply with the key."""
    with payments(bench) as pay:
        tenant = pay.onboard(organization_name="Wörks & Co")
        row = pay.tenant(tenant)
        customers = pay.customers(tenant)
        equal([c["id"] for c in customers], [row["stripe_customer_id"]], "the customer, when the reply is there")
        equal((customers[0]["email"], customers[0]["name"]), ("human@example.com", "Wörks & Co"), "who it is")
        equal(tenant["payments"], "stripe", "payments")
        owed = pay.owed(tenant, "true")
        equal([(o["obligation"], o["attempts"], o["done_at"] is not None) for o in owed],
              [("customer-" + tenant["tenant_uuid"], 1, True)], "the obligation")
        made = pay.stripe.requests("POST", "/v1/customers")
        equal([r["idempotency_key"] for r in made if r["status"] == 200], ["customer-" + tenant["tenant_uuid"]], "key")


def test_same_onboarding_again(bench):
    """Contract 2.1: the same Idempotency-Key gives the same reply, and no second customer."""
    with payments(bench) as pay:
        body = {"agent_id": bench.agent_id(), "email": "human@example.com"}
        replies = parallel(4, lambda _: pay.send("POST", "/api/onboard/leadscoring", body, None,
                                                 {"Idempotency-Key": body["agent_id"]}))
        equal({status for status, _ in replies}, {201}, "statuses")
        equal(len({reply["api_key"] for _, reply in replies}), 1, "keys")
        bench.keys.add(replies[0][1]["api_key"])
        pay.settled(replies[0][1])
        equal(len(pay.customers(replies[0][1])), 1, "customers")


def test_stripe_down_at_onboarding(bench):
    """Issue: Stripe down during onboarding: 201 within 2 s, the customer is made later, exactly once."""
    with payments(bench) as pay:
        for trouble in ({"fail": {"path": "/v1/customers", "status": 503, "times": -1}},
                        {"slow": {"path": "/v1/customers", "seconds": 4, "times": -1}},
                        {"drop": {"path": "/v1/customers", "times": -1}}):
            pay.stripe.control(**trouble)
            start = time.monotonic()
            tenant = pay.onboard()
            took = time.monotonic() - start
            check(took < 2, "%s: onboarding took %.2f s" % (trouble, took))
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
        check(time.monotonic() - start < 2, "nobody listens: onboarding took %.2f s" % (time.monotonic() - start))
        equal(pay.tenant(tenant)["stripe_customer_id"], None, "customer")
        pay.stripe.start()
        with clock_shifted(bench, "1 hour"):
            until(60, "the customer is made", lambda: pay.tenant(tenant)["stripe_customer_id"])
        equal([c["id"] for c in pay.customers(tenant)], [pay.tenant(tenant)["stripe_customer_id"]], "customers")


def pay_customer(pay, tenant):
    """Waits until Stripe holds the tenant's customer; its id."""
    return until(40, "Stripe holds the customer", lambda: pay.customers(tenant), 0.1)[0]["id"]


def test_worker_killed(bench):
    """Issue: a worker that is killed in the middle of an execution leaves one customer, not two and not none."""
    with payments(bench, processes="1") as pay:
        pay.stripe.stop()
        tenant = pay.onboard()
        pay.stripe.start()
        pay.stripe.control(slow={"path": "/v1/customers", "method": "POST", "seconds": 2, "times": 1},
                           drop={"path": "/v1/customers", "method": "POST", "times": 1})
        with pay.responder(processes="1") as other:
            until(20, "the customer is being made", lambda: [o for o in pay.owed(tenant) if o["leased_until"]])
            # Either may hold the lease; both are killed.
            for process in (pay.process, other.process):
                end_quietly([*children(process.pid), process.pid])
            pay.process.wait(20)
            other.process.wait(20)
        equal(pay.tenant(tenant)["stripe_customer_id"], None, "customer")
        with pay.responder(), clock_shifted(bench, "3 minutes"):
            until(60, "the customer is made", lambda: pay.tenant(tenant)["stripe_customer_id"])
            pay.settled(tenant)
            equal([c["id"] for c in pay.customers(tenant)], [pay.tenant(tenant)["stripe_customer_id"]], "customers")
            check(pay.owed(tenant, "true")[0]["attempts"] >= 2, "it was not tried again")


def test_many_workers(bench):
    """Issue: several processes work one outbox off; each obligation is executed by one of them."""
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
            equal(sorted(made), sorted("customer-" + t["tenant_uuid"] for t in tenants), "requests that were done")


def test_dead_letter(bench):
    """Issue: what is refused for good is a dead letter: acpctl lists it, and revives it, and it is done."""
    with payments(bench) as pay:
        pay.stripe.control(fail={"path": "/v1/customers", "method": "POST", "status": 400, "times": 1})
        tenant = pay.onboard()
        dead = until(10, "the dead letter", lambda: pay.owed(tenant, "dead"))[0]
        check(dead["error"] and dead["error_code"], "without a reason: %s" % dead)
        time.sleep(2.5)
        equal(pay.owed(tenant, "true")[0]["attempts"], 1, "attempts: nobody takes a dead one")
        shown = [o for o in listed(bench, pay, "dead") if o["outbox_id"] == dead["outbox_id"]]
        equal([(o["obligation"], o["state"], o["error_code"]) for o in shown],
              [(dead["obligation"], "dead", dead["error_code"])], "acpctl outbox list --state dead")
        done = ctl(bench, pay, "outbox", "retry", str(dead["outbox_id"]))
        equal((done.returncode, done.stdout), (0, "1 due now\n"), "acpctl outbox retry: %s" % done.stderr)
        until(20, "the customer is made", lambda: pay.tenant(tenant)["stripe_customer_id"])
        equal(len(pay.customers(tenant)), 1, "customers")


def test_acpctl(bench):
    """Issue: acpctl outbox run works the outbox off where no responder does; drop ends an obligation."""
    with payments(bench) as pay:
        pay.stripe.stop()
        tenants = [pay.onboard(), pay.onboard()]
        # Not with SIGTERM, which lets an attempt that is under way come to its end, for 20 s.
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
        equal(ctl(bench, pay, "outbox", "run").stdout, "0 done, 0 failed\n", "while another one is at it")
        bench.db.execute("update acp.outbox set leased_until = null where outbox_id = :'n'", n=numbers[0])
        done = ctl(bench, pay, "outbox", "run")
        equal((done.returncode, done.stdout), (0, "1 done, 0 failed\n"), "acpctl outbox run: %s" % done.stderr)
        equal([c["metadata"]["tenant_uuid"] for c in pay.stripe.all("/v1/customers")], [tenants[0]["tenant_uuid"]],
              "customers")
        pay.settings = {}
        done = ctl(bench, pay, "outbox", "run")
        check(done.returncode == 1 and "stripe_key" in done.stderr, "without a key: %s" % done.stderr)


def test_without_executor(bench):
    """Issue: without Stripe onboarding owes nothing, and a responder without an executor leaves the outbox alone."""
    tenant = bench.onboard()
    equal(tenant.reply.json["payments"], "not_configured", "payments")
    equal(bench.db.value("select count(*) from acp.outbox where tenant_id = :'id'", id=tenant.id), 0, "owed")
    bench.db.execute("select acp.outbox_customer(:'id')", id=tenant.id)
    time.sleep(2.5)
    row = bench.db.row("select * from acp.outbox where tenant_id = :'id'", id=tenant.id)
    equal((row["attempts"], row["done_at"]), (0, None), "the obligation")
    bench.db.execute("select acp.outbox_drop(outbox_id) from acp.outbox where tenant_id = :'id'", id=tenant.id)
