"""Restoring a backup (docs/operations.md, "After a restore"): Stripe has each month of a tenant once, each customer is
charged once, and the books agree with Stripe again.

ACP_RESTORE_SEEDS="1 2 3" runs the drill with these seeds; by default it runs once, with a new one."""

import contextlib
import json
import os
import random
import re
import subprocess
import tempfile
import uuid

import pytest

from checks import check, equal, until
from database import PSQL, clean_environment
from payments import Gate
from test_billing import money
from test_stripe_events import odd_events

DAY = 24 * 3600


class Backup:
    """A database of one test that can be dumped and restored with the programs of PostgreSQL."""

    def __init__(self, m, folder):
        self.m, self.dump = m, os.path.join(folder, "acp.dump")

    def _run(self, program, *arguments):
        path = os.path.join(os.path.dirname(PSQL), program)
        done = subprocess.run([path, *arguments], env=clean_environment(), capture_output=True, text=True, timeout=120)
        equal(done.returncode, 0, "%s: %s" % (program, done.stderr))

    def take(self):
        self._run("pg_dump", "-Fc", "-f", self.dump, self.m.db.url)

    def restore(self):
        """Replaces the database by the backup, while no process of the program runs. Stripe's day goes on."""
        m, bench = self.m, self.m.bench
        m.stop()
        m.stripe.control(clock={"advance": DAY + 3600})
        name, role = m.db.name, m.db.value("select current_user as r")
        bench.db.execute("drop database %s with (force)" % name)
        bench.db.execute("create database %s template template0; alter database %s set jit = off" % (name, name))
        self._run("pg_restore", "-d", m.db.url, self.dump)
        m.db.execute('grant acp_app to "%s"' % role)
        # A day later no attempt of the backup holds a lease any more.
        m.db.execute("update acp.outbox set leased_until = null where leased_until is not null")


class Drill:
    """The life of an installation in steps. What is lost in a restore is not repeated by hand: only the procedure
    brings it back."""

    def __init__(self, m, chance):
        self.m, self.chance = m, chance
        self.tenants = {}  # name -> reply of the onboarding
        self.wanted = {}   # (tenant, month) -> cents that Stripe charged before the restore

    # Steps --------------------------------------------------------------------------------------------------------

    def onboard(self, *names):
        for name in names:
            self.tenants[name] = self.m.pay.onboard(email="%s@example.com" % name)

    def upgrade(self, *names):
        for name in names:
            self.m.pay.upgrade(self.tenants[name])

    def call(self, back, *names):
        self.m.clock(back)
        for name in names:
            known = self.m.db.value("select count(*) from acp.tenants where tenant_id = :'t'",
                                    t=self.tenants[name]["tenant_uuid"])
            if known:
                self.m.calls(self.tenants[name], self.chance.randrange(600, 2000))
        self.m.clock(back - 1, day=2) if back > 1 else self.m.now()

    def close(self, back):
        """A billing run that ends after its first statement."""
        self.m.db.execute("select acp.billing_open(null, (:'m' || '-01')::date, 0.5)", m=self.m.month(back))

    def bill(self, back):
        self.m.run(self.m.month(back))

    def settle(self, *_):
        until(30, "no work is owed", lambda: not self.m.db.value(
            "select count(*) from acp.outbox where done_at is null and not dead"), 0.1)

    def paid(self, back):
        """Waits for Stripe's events of the payments."""
        self.settle()
        until(30, "the invoices are paid", lambda: not self.m.db.value(
            "select count(*) from acp.billing_periods where status in ('pending', 'invoiced')"), 0.1)

    def steps(self):
        m = self.m
        return [("a onboards", lambda: self.onboard("a", "b")), ("a upgrades", lambda: self.upgrade("a", "b")),
                ("calls", lambda: self.call(2, "a", "b")), ("c onboards", lambda: self.onboard("c")),
                ("c upgrades", lambda: self.upgrade("c")), ("more calls", lambda: self.call(2, "a", "b", "c")),
                ("the month is closed", lambda: self.close(2)), ("the month is billed", lambda: self.bill(2)),
                ("the invoices are made", self.settle), ("they are paid", lambda: self.paid(2)),
                ("the next month", lambda: self.call(1, "a", "c")), ("it is closed", lambda: self.close(1)),
                ("it is billed", lambda: self.bill(1)), ("it is paid", lambda: self.paid(1)),
                ("d onboards", lambda: self.onboard("d"))]

    # Stripe ---------------------------------------------------------------------------------------------------------

    def held(self):
        """(tenant, month) -> total of the invoice at Stripe, of which there must be one."""
        found = {}
        for invoice in self.m.invoices():
            name = invoice["metadata"]["tenant_uuid"], invoice["metadata"]["period"]
            check(name not in found, "two invoices of %s" % (name,))
            equal(invoice["metadata"]["kernel_id"], "acp-fcgi", "kernel_id")
            found[name] = invoice["total"]
        return found

    def charged_once(self):
        paid = [e["data"]["object"]["id"] for e in self.m.stripe.all("/v1/events") if e["type"] == "invoice.paid"]
        equal(len(paid), len(set(paid)), "payments of the same invoice")
        equal(sorted(paid), sorted(i["id"] for i in self.m.invoices()), "paid invoices")
        for tenant in self.tenants.values():
            equal(len(self.m.pay.customers(tenant)), 1, "customers of %s" % tenant["tenant_uuid"])

    # The procedure ----------------------------------------------------------------------------------------------------

    def catch_up(self):
        """acpctl stripe replay; creates the tenants that it names."""
        done = self.m.try_ctl("stripe", "replay")
        for line in done.stderr.splitlines():
            if line.startswith("acpctl tenant create"):
                self.m.ctl(*line.split()[1:])
        if done.returncode:
            check("paid at Stripe" in done.stderr and "Nothing was applied" in done.stderr, done.stderr)
            self.m.ctl("stripe", "replay")

    def months(self):
        """The months of invoices at Stripe, and those that were closed here."""
        closed = self.m.db.rows("select to_char(period, 'YYYY-MM') as m from acp.billing_closings")
        return sorted({month for _, month in self.held()} | {row["m"] for row in closed})

    def adopt_all(self):
        report = json.loads(self.m.try_ctl("--json", "reconcile").stdout)
        for tenant, month in sorted({(d["tenant_id"], d["period"]) for d in report["differences"]}):
            self.m.ctl("billing", "adopt", tenant, "--period", month)

    def procedure(self):
        m = self.m
        m.ctl_owner("migrate")
        unknown = json.loads(m.try_ctl("--json", "doctor").stdout)
        stripe = [c for c in unknown if c["check"] == "Stripe"][0]
        lost = [i for i in m.invoices() if not m.db.value(
            "select count(*) from acp.billing_periods where tenant_id = :'t' and period = (:'p' || '-01')::date",
            t=i["metadata"]["tenant_uuid"], p=i["metadata"]["period"])]
        equal(stripe["ok"], not lost, "doctor: %s" % stripe)
        self.catch_up()
        m.start()
        for month in self.months():
            m.ctl("billing", "run", "--period", month)
        self.settle()
        self.adopt_all()
        equal(m.differences(), [], "differences after the procedure")


@contextlib.contextmanager
def drill(bench, chance):
    with money(bench, rate_limits="off") as m, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder, \
            contextlib.ExitStack() as responders:
        def stop():
            m.pay.process.terminate()
            m.pay.process.wait(30)

        def start():
            responder = responders.enter_context(m.pay.responder())
            m.pay.process, m.pay.gate.socket = responder.process, responder.socket

        def ctl_owner(*arguments):
            done = bench.stack.program("acpctl", *arguments, environment={"ACP_DATABASE_URL": m.db.url})
            equal(done.returncode, 0, "acpctl %s: %s" % (arguments, done.stderr))

        m.stop, m.start, m.ctl_owner = stop, start, ctl_owner
        yield Drill(m, chance), Backup(m, folder)


def one_drill(bench, seed):
    chance = random.Random(seed)
    with drill(bench, chance) as (d, backup):
        steps = d.steps()
        first = chance.randrange(len(steps) - 1)
        last = chance.randrange(first + 1, len(steps))
        story = "seed %s: backup after %r, restore after %r" % (seed, steps[first][0], steps[last][0])
        print(story)
        for number, (_, step) in enumerate(steps):
            step()
            if number == first:
                backup.take()
            if number == last:
                d.settle()
                before = d.held()
                backup.restore()
                d.procedure()
                equal(d.held(), before, story)
        d.settle()
        d.held()
        d.charged_once()
        equal(d.m.differences(), [], story)


@pytest.mark.slow
def test_drill(bench):
    """A backup of a random moment is restored a day later, at another random moment: after the documented procedure
    and everything that comes later, Stripe has each month of each tenant once, every customer is charged once, and
    reconcile finds no difference."""
    for seed in os.environ.get("ACP_RESTORE_SEEDS", "").split() or [uuid.uuid4().hex[:8]]:
        one_drill(bench, seed)


def test_backup_before_the_run(bench):
    """A backup of before the billing run is restored after Stripe forgot the keys of the run. The invoices that Stripe
    has are found; nobody is charged twice; the run says so."""
    with drill(bench, random.Random(1)) as (d, backup):
        m = d.m
        d.onboard("a", "b")
        d.upgrade("a", "b")
        d.call(1, "a", "b")
        backup.take()
        month = m.month(1)
        d.bill(1)
        d.paid(1)
        before = d.held()
        equal(len(before), 2, "invoices")
        backup.restore()
        found = sorted(d[0] for d in m.differences())
        equal(found, ["an invoice that was not billed here"] * 2, "reconcile before the run")
        done = m.try_ctl("billing", "run", "--period", month)
        equal(done.returncode, 0, done.stderr)
        check("Stripe has 2 invoices of this installation that this database does not know" in done.stderr, done.stderr)
        # Without the rest of the procedure: whatever was forgotten, nobody is charged twice.
        m.start()
        d.paid(1)
        equal(d.held(), before, "invoices")
        d.charged_once()
        equal(m.differences(), [], "differences")


@pytest.mark.slow
def test_lost_calls(bench):
    """The calls of the last hours before a billing run were lost in a restore: the run does not change the invoice at
    Stripe and makes no second one, says both amounts, and `billing adopt` takes over what Stripe has."""
    with drill(bench, random.Random(2)) as (d, backup):
        m, month = d.m, d.m.month(1)
        d.onboard("a", "b")
        d.upgrade("a", "b")
        m.clock(1)
        m.calls(d.tenants["a"], 900)
        backup.take()
        m.calls(d.tenants["a"], 300)
        m.calls(d.tenants["b"], 700)
        m.now()
        d.bill(1)
        d.paid(1)
        before = d.held()
        backup.restore()
        m.start()
        a, b = d.tenants["a"], d.tenants["b"]
        d.bill(1)
        m.becomes(a, month, "failed")
        held = m.invoices(a)[0]["id"]
        row = m.period(a, month)
        equal((row["error"], row["amount"]),
              ("invoice %s has a total of 120 usd at Stripe, not 90 usd; it was left unchanged (to accept it: acpctl "
               "billing adopt)" % held, 90), "the failure")
        equal(d.held(), before, "invoices at Stripe")
        shown = m.ctl("billing", "adopt", a["tenant_uuid"], "--period", month, "--dry-run")
        equal(shown, "%s, %s: 1.2 USD at Stripe (paid), 0.9 USD here\nadopting it would add a line of 0.3 USD; nothing "
              "was stored\n" % (held, month), "dry run")
        m.ctl("billing", "adopt", a["tenant_uuid"], "--period", month)
        equal(m.period(a, month), {"status": "paid", "amount": 120, "stripe_invoice_id": held, "error": None}, "adopted")
        shown = m.ctl("billing", "show", a["tenant_uuid"], "--period", month)
        check("Adjustment: calls whose records were lost in a restore" in shown, shown)
        equal([d[0] for d in m.differences()], ["an invoice that was not billed here"], "b has no calls any more")
        m.ctl("billing", "adopt", b["tenant_uuid"], "--period", month)
        equal(m.differences(), [], "differences")
        done = m.try_ctl("billing", "adopt", b["tenant_uuid"], "--period", m.month(2))
        check(done.returncode == 1 and "Stripe has no invoice of tenant" in done.stderr, done.stderr)
        equal(d.held(), before, "invoices at Stripe")
        d.charged_once()


@pytest.mark.slow
def test_given_up_at_stripe(bench):
    """An invoice that was voided at Stripe is not made again, and a draft of lost calls is neither continued nor
    adopted; once it is deleted, the invoice is made."""
    with drill(bench, random.Random(3)) as (d, backup):
        m, month = d.m, d.m.month(1)
        d.onboard("a", "b")
        d.upgrade("a", "b")
        m.clock(1)
        m.calls(d.tenants["a"], 900)
        m.calls(d.tenants["b"], 900)
        backup.take()
        m.calls(d.tenants["b"], 100)
        m.now()
        m.stripe.control(decline={"customer": "*", "times": -1})
        d.bill(1)
        m.becomes(d.tenants["a"], month, "failed")
        m.becomes(d.tenants["b"], month, "failed")
        m.stripe.ask("POST", "/v1/invoices/%s/void" % m.invoices(d.tenants["a"])[0]["id"])
        held = m.invoices(d.tenants["b"])[0]
        draft = m.stripe.ask("POST", "/v1/invoices", {
            "customer": held["customer"], "currency": "usd", "auto_advance": "false",
            **{"metadata[%s]" % n: v for n, v in held["metadata"].items()}})["id"]
        m.stripe.ask("POST", "/v1/invoices/%s" % held["id"], {"metadata[period]": "2000-01"})
        backup.restore()
        m.stripe.control(reset=True)
        m.start()
        d.bill(1)
        m.becomes(d.tenants["a"], month, "failed")
        equal(m.period(d.tenants["a"], month)["error"], "the invoice is void at Stripe", "a voided invoice")
        m.becomes(d.tenants["b"], month, "failed")
        check("Stripe has an unfinished draft %s of this month with other lines" % draft in
              m.period(d.tenants["b"], month)["error"], "the draft: %s" % m.period(d.tenants["b"], month))
        done = m.try_ctl("billing", "adopt", d.tenants["b"]["tenant_uuid"], "--period", month)
        check(done.returncode == 1 and "is a draft, which charges nobody" in done.stderr, done.stderr)
        equal([(i["status"], i["total"]) for i in m.invoices(d.tenants["a"])], [("void", 90)], "invoices of a")
        m.stripe.ask("DELETE", "/v1/invoices/" + draft)
        m.ctl("billing", "retry", d.tenants["b"]["tenant_uuid"], "--period", month)
        m.becomes(d.tenants["b"], month, "paid")


@pytest.mark.slow
def test_customer_after_restore(bench):
    """A tenant that lost its customer in a restore gets the same one again, however late its customer was created
    first, and its invoices at another customer of the same tenant are found."""
    with drill(bench, random.Random(4)) as (d, backup):
        m, month = d.m, d.m.month(1)
        tenant = m.ctl("--json", "tenant", "create", "--agent-id", "late-%s" % uuid.uuid4(), "--email", "late@example.com")
        tenant = {"tenant_uuid": json.loads(tenant)["tenant_id"]}
        m.ctl("tenant", "update", tenant["tenant_uuid"], "--tier", "paid", "--payment-method", "active")
        m.clock(1)
        m.calls(tenant, 800)
        m.now()
        backup.take()
        d.bill(1)
        m.becomes(tenant, month, "failed")  # Stripe has the invoice; the tenant has no card
        first = m.pay.tenant(tenant)["stripe_customer_id"]
        backup.restore()
        m.start()
        d.bill(1)
        m.becomes(tenant, month, "failed")
        equal(m.pay.tenant(tenant)["stripe_customer_id"], first, "the customer")
        equal((len(m.pay.customers(tenant)), len(m.invoices(tenant))), (1, 1), "customers and invoices at Stripe")
        backup.restore()
        other = m.stripe.ask("POST", "/v1/customers", {"email": "late@example.com", "metadata[kernel_id]": "acp-fcgi",
                                                       "metadata[tenant_uuid]": tenant["tenant_uuid"]})["id"]
        m.db.execute("update acp.tenants set stripe_customer_id = :'c' where tenant_id = :'t'", c=other,
                     t=tenant["tenant_uuid"])
        m.start()
        d.bill(1)
        m.becomes(tenant, month, "failed")
        equal([i["customer"] for i in m.invoices(tenant)], [first], "invoices at Stripe")
        equal(m.differences(), [], "differences")


@pytest.mark.slow
def test_events_again(bench):
    """Stripe's events whose rows were lost are read from Stripe again: a tenant that upgraded after the backup is paid,
    once it exists again. What was known already is not applied again."""
    with drill(bench, random.Random(5)) as (d, backup):
        m = d.m
        d.onboard("a", "b")
        d.upgrade("b")
        backup.take()
        d.upgrade("a")
        d.onboard("c", "free")
        d.upgrade("c")
        backup.restore()
        equal(m.pay.tenant(d.tenants["a"])["effective_tier"], "free", "after the restore")
        done = m.try_ctl("stripe", "replay")
        lost = d.tenants["c"]["tenant_uuid"]
        wanted = r"acpctl tenant create --tenant-id %s --agent-id \S+ --email c@example.com\n" % lost
        check(done.returncode == 1 and re.match(wanted, done.stderr) and done.stderr.count("\n") == 2, done.stderr)
        equal(m.pay.tenant(d.tenants["a"])["effective_tier"], "free", "nothing was applied")
        m.ctl(*done.stderr.splitlines()[0].split()[1:])
        again = json.loads(m.ctl("--json", "stripe", "replay"))
        check(again["applied"] >= 2 and again["failed"] == 0, str(again))
        m.start()
        for name in "abc":
            m.pay.becomes(d.tenants[name], effective_tier="paid")
        m.pay.settled(d.tenants["c"])
        equal(m.pay.tenant(d.tenants["c"])["stripe_customer_id"], m.pay.customers(d.tenants["c"])[0]["id"], "customer")
        equal(json.loads(m.ctl("--json", "stripe", "replay", "--since", "2020-01-01"))["applied"], 0, "a second time")
        done = m.try_ctl("stripe", "replay", stripe_webhook_secret=None)
        check(done.returncode == 1 and "stripe_webhook_secret is not set" in done.stderr, done.stderr)


def test_replay_of_odd_events(bench):
    """Whatever an event at Stripe holds, the events before it are read too, also over another program that has the key:
    a page of events is read as an event is, and has room for large ones."""
    key = "e2e-executor-key-" + "0123456789abcdef" * 2
    with money(bench, executor_key=key) as m, Gate() as front:
        front.socket = m.pay.gate.socket
        m.stripe.control(webhooks={"hold": True})
        tenants = [m.pay.onboard() for _ in range(2)]
        sent = []
        for tenant, settings in zip(tenants, ({}, {"stripe_key": None, "executor_url": front.url, "executor_key": key})):
            m.stripe.complete(m.pay.checkout(tenant)["checkout_url"])
            odd = odd_events()
            for text in [*odd.values(), *[odd["of 4 MB"]] * 4]:
                sent.append("evt_" + uuid.uuid4().hex)
                m.stripe.control(happen={"what": "event", "text": text.replace("evt_%s", sent[-1])})
            done = m.try_ctl("--json", "stripe", "replay", **settings)
            equal(done.returncode, 0, "stripe replay: " + done.stderr)
            again = json.loads(done.stdout)
            check(again["applied"] >= 1 and again["failed"] == 0, str(again))
            m.pay.becomes(tenant, effective_tier="paid")
        count = m.db.value("select count(*) from acp.stripe_events where event_id = any(string_to_array(:'e', ','))", e=",".join(sent))
        equal(count, len(sent), "odd events in the inbox")


@pytest.mark.slow
def test_two_installations(bench):
    """Two installations use one Stripe account: each leaves out the invoices of the other, in reconcile, in doctor and
    when it looks for an invoice."""
    with money(bench) as m:
        tenant = m.paying()
        customer = m.pay.tenant(tenant)["stripe_customer_id"]
        m.clock(1)
        m.calls(tenant, 800)
        m.now()
        month = m.month(1)
        foreign = {"customer": customer, "currency": "usd", "auto_advance": "false", "metadata[period]": month}
        for more in ({"metadata[kernel_id]": "other", "metadata[tenant_uuid]": str(uuid.uuid4())},
                     {"metadata[kernel_id]": "other", "metadata[tenant_uuid]": tenant["tenant_uuid"]},
                     {"metadata[tenant_uuid]": str(uuid.uuid4())}):
            m.stripe.ask("POST", "/v1/invoices", {**foreign, **more})
        m.run(month)
        m.becomes(tenant, month, "paid")
        m.proved()
        report = json.loads(m.ctl("--json", "reconcile"))
        equal((report["count"], report["foreign_invoices"]), (0, 3), "foreign invoices")
        check("left out: 3 invoices at Stripe of other installations" in m.ctl("reconcile"), "the line is missing")
        own = [i for i in m.invoices(tenant) if i["metadata"].get("kernel_id") == "acp-fcgi"]
        equal([i["total"] for i in own], [80], "own invoices")
        stripe = [c for c in json.loads(m.try_ctl("--json", "doctor").stdout) if c["check"] == "Stripe"][0]
        check(stripe["ok"], str(stripe))
        m.stripe.ask("POST", "/v1/invoices", {**foreign, "metadata[kernel_id]": "acp-fcgi",
                                              "metadata[tenant_uuid]": str(uuid.uuid4())})
        equal([d[0] for d in m.differences()], ["an invoice that was not billed here"], "of a tenant that was lost")
        stripe = [c for c in json.loads(m.try_ctl("--json", "doctor").stdout) if c["check"] == "Stripe"][0]
        check(not stripe["ok"] and "was the database restored?" in stripe["said"], str(stripe))


def test_metadata(bench):
    """Customers, checkout sessions, setup intents and invoices at Stripe name the installation, so that several can
    share an account."""
    with money(bench) as m:
        tenant = m.paying()
        m.clock(1)
        m.calls(tenant, 700)
        m.now()
        m.run(m.month(1))
        m.becomes(tenant, m.month(1), "paid")
        for path in ("customers", "checkout/sessions", "setup_intents", "invoices", "invoiceitems"):
            equal({(o["metadata"]["kernel_id"], o["metadata"]["tenant_uuid"]) for o in m.stripe.all("/v1/" + path)},
                  {("acp-fcgi", tenant["tenant_uuid"])}, path)


def test_onboarding_asks_once(bench):
    """An onboarding makes one request to Stripe, and an invoice takes one search more than its steps."""
    with money(bench) as m:
        m.pay.onboard()
        equal([(r["method"], r["path"]) for r in m.stripe.requests()], [("POST", "/v1/customers")], "requests")
        tenant = m.paying()
        m.clock(1)
        m.calls(tenant, 700)
        m.now()
        before = len(m.stripe.requests())
        m.run(m.month(1))
        m.becomes(tenant, m.month(1), "paid")
        asked = [r["path"].split("/")[2:] for r in m.stripe.requests()[before:] if r["method"] == "GET"]
        equal(asked[0], ["invoices"], "the run looks for unknown invoices")
        equal(len([path for path in asked if path == ["invoices"]]), 2, "searches: %s" % asked)
        equal(len([path for path in asked if path == ["customers"]]), 0, "searches for customers")
