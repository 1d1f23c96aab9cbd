"""Billing (contract 5): invoices from real calls, runs that are killed and repeated, the invoices at Stripe, the API.

Every test has its own database, because a billed month stays billed."""

import contextlib
import hashlib
import json
import os
import random
import secrets
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import uuid

import pytest

from client import SCORE, SCORE_PARAMS, refused, succeeded
from database import clean_environment
from fcgi import ask
from checks import check, equal, parallel, spread, until
from payments import payments
from scratch import migrated_database

KERNEL_KEY = "e2e-billing-kernel-" + "0123456789abcdef" * 2
JSON = {"Content-Type": "application/json"}
CALLS = """select acp.audit_append_rows(array_agg(jsonb_populate_record(null::acp.audit_logs, jsonb_build_object(
    'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', acp.now() + n * interval '1 millisecond',
    'tenant_id', :'tenant'::uuid, 'integration', 'e2e', 'pack', 'e2e', 'action', 'e2e.' || n % 3, 'actor_type', 'api_key',
    'status', 'success', 'latency_ms', 1, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'paid'))))
    from generate_series(1, :'count'::integer) n"""
PROOF = """select tenant_id, event_id, count(line) from acp_report.billed_calls where period is not null
    group by 1, 2 having count(line) <> 1"""


class Money:
    """An installation that accepts payments, on its own database whose clock can be set."""

    def __init__(self, bench, pay, database):
        self.bench, self.pay, self.db, self.stripe = bench, pay, database, pay.stripe

    def month(self, back):
        """The month that was back months ago, by the real clock."""
        return self.db.value("select to_char(now() - make_interval(months => %d), 'YYYY-MM') as m" % back)

    def clock(self, back, day=15):
        """Sets the database's clock to noon of this day of the month that was back months ago."""
        self.db.execute("""select format('alter database %I set acp.clock_offset = %L', current_database(),
            date_trunc('month', now() at time zone 'UTC') - make_interval(months => :'back'::integer)
            + make_interval(days => :'day'::integer - 1, hours => 12) - now() at time zone 'UTC') \\gexec""", back=back, day=day)

    def now(self):
        self.db.execute("select format('alter database %I reset acp.clock_offset', current_database()) \\gexec")

    def settings(self, **more):
        wanted = {n: v for n, v in self.pay.settings.items() if n.startswith("stripe_") or n == "key_pepper"}
        return {**wanted, "database_url": self.db.url, **more}

    @contextlib.contextmanager
    def config(self, **more):
        with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-e2e-") as file:
            file.writelines("%s = %s\n" % pair for pair in self.settings(**more).items() if pair[1] is not None)
            file.flush()
            yield file.name

    def try_ctl(self, *arguments, **settings):
        with self.config(**settings) as config:
            return self.bench.stack.program("acpctl", *arguments, config=config,
                                            environment={"ACP_DATABASE_URL": settings.get("database_url", self.db.url)})

    def ctl(self, *arguments):
        done = self.try_ctl(*arguments)
        equal(done.returncode, 0, "acpctl %s: %s%s" % (arguments, done.stdout, done.stderr))
        return done.stdout

    def run(self, month, *more):
        return json.loads(self.ctl("--json", "billing", "run", "--period", month, *more))

    def differences(self, *more):
        done = self.try_ctl("--json", "reconcile", *more)
        check(done.returncode in (0, 1) and done.stdout, "reconcile: %s" % done.stderr)
        report = json.loads(done.stdout)
        equal(done.returncode, 1 if report["differences"] else 0, "exit status")
        equal(report["stripe"], True, "compared with Stripe")
        return [(d["what"], d["counted"], d["rows"]) for d in report["differences"]]

    def proved(self):
        equal(self.db.rows(PROOF), [], "paid calls that are not in exactly one line")
        equal(self.differences(), [], "differences")

    def calls(self, tenant, count):
        """Inserts the rows of paid calls of a tenant, at the current time of the database's clock."""
        self.db.execute("set role acp_app; " + CALLS, tenant=tenant["tenant_uuid"], count=count)

    def paying(self):
        tenant = self.pay.onboard()
        self.pay.upgrade(tenant)
        return tenant

    def invoices(self, tenant=None):
        return [i for i in self.stripe.all("/v1/invoices")
                if not tenant or i["metadata"].get("tenant_uuid") == tenant["tenant_uuid"]]

    def period(self, tenant, month):
        return self.db.row("select status, amount, stripe_invoice_id, error from acp.billing_periods where "
                           "tenant_id = :'t' and period = (:'m' || '-01')::date", t=tenant["tenant_uuid"], m=month)

    def becomes(self, tenant, month, status):
        until(20, "the invoice is %s" % status, lambda: self.period(tenant, month)["status"] == status, 0.1)

    def invoice(self, tenant, month=None):
        status, reply = self.pay.send("GET", "/api/billing/invoice" + ("?period=" + month if month else ""), None,
                                      tenant["api_key"])
        equal(status, 200, "invoice: %s" % reply)
        return reply

    def hub(self, body, key="k", method="billing/run"):
        headers = {**JSON, "Authorization": "Bearer " + KERNEL_KEY, **({"Idempotency-Key": key} if key else {})}
        return ask(self.pay.gate.socket, "POST", "/functions/v1/" + method, json.dumps(body).encode(), headers)


@contextlib.contextmanager
def money(bench, **settings):
    with migrated_database(bench) as database:
        database.execute("grant acp_app to current_user")
        url = database.as_role("acp_app").url
        # Its own pepper, so that its onboardings do not count against the limits of other tests.
        with payments(bench, database_url=url, kernel_key=KERNEL_KEY, key_pepper=secrets.token_hex(32), key_pepper_file=None,
                      **{"key_cache_ms": "0", **settings}) as pay:
            pay.db = database
            yield Money(bench, pay, database)


# Real calls ---------------------------------------------------------------------------------------------------------

def test_paid_calls(bench):
    """1,250 paid calls, 50 of which fail, cost 1,200 x 0.001 = 1.20. Calls of the free tier are not billed."""
    with money(bench, rate_limits="off") as m:
        m.clock(1)
        month = m.month(1)
        tenant = m.pay.onboard()
        for _ in range(7):
            equal(m.pay.score(tenant["api_key"])[0], 200, "a free call")
        m.pay.upgrade(tenant)
        good = json.dumps({"action": SCORE, "params": SCORE_PARAMS}).encode()
        bad = json.dumps({"action": SCORE, "params": {**SCORE_PARAMS, "weights": None}}).encode()
        headers = {**JSON, "X-API-Key": tenant["api_key"]}
        bodies = [good] * 1200 + [bad] * 50
        random.Random(1).shuffle(bodies)
        replies = spread(6, bodies, lambda body: ask(m.pay.gate.socket, "POST", "/api/manage", body, headers).status)
        equal((replies.count(200), len(replies)), (1200, 1250), "calls that succeeded")
        preview = m.invoice(tenant, month)
        equal((preview["status"], preview["charges"]["total_charge"], preview["usage"]),
              ("open", 1.2, {"total_calls": 1250, "successful_calls": 1200, "failed_calls": 50}), "the open month")
        m.now()
        dry = m.run(month, "--dry-run")
        real = m.run(month)
        equal(dry["invoices"], real["invoices"], "dry run and run")
        equal((real["amount"], len(real["invoices"])), (120, 1), "billed")
        m.becomes(tenant, month, "paid")
        held = m.invoices(tenant)
        equal([(i["total"], i["status"], i["metadata"]["period"], i["metadata"]["invoice_hash"]) for i in held],
              [(120, "paid", month, real["invoices"][0]["hash"])], "invoices at Stripe")
        shown = m.invoice(tenant, month)
        equal((shown["status"], shown["stripe_invoice_id"], shown["charges"]["total_charge"], shown["hash"]),
              ("paid", held[0]["id"], 1.2, real["invoices"][0]["hash"]), "the tenant's invoice")
        equal(shown["charges"]["lines"], preview["charges"]["lines"], "lines of the preview")
        m.proved()


def test_hash_a_year_later(bench):
    """Recomputing a month a year later, after price changes, produces the same bytes and hash."""
    with money(bench) as m:
        tenant = m.paying()
        m.clock(1)
        month = m.month(1)
        m.calls(tenant, 900)
        m.now()
        real = m.run(month)
        text = m.ctl("billing", "show", tenant["tenant_uuid"], "--period", month, "--text")
        equal(hashlib.sha256(text.encode()).hexdigest(), real["invoices"][0]["hash"], "SHA-256 of the text")
        equal(json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False), text,
              "the text is canonical JSON")
        m.becomes(tenant, month, "paid")
        m.ctl("price", "add", "--amount", "5", "--currency", "USD", "--action", "e2e.*")
        m.clock(-12)
        m.ctl("price", "add", "--amount", "7", "--currency", "USD", "--action", "e2e.1")
        equal(m.run(month, "--dry-run")["invoices"], real["invoices"], "recomputed")
        equal(m.run(month)["invoices"], [{**invoice, "status": "paid"} for invoice in real["invoices"]], "run again")
        equal(m.ctl("billing", "show", tenant["tenant_uuid"], "--period", month, "--text"), text, "the text")
        done = m.try_ctl("price", "add", "--amount", "1", "--currency", "EUR")
        check(done.returncode == 1 and "has billed in USD" in done.stderr, done.stderr)
        m.proved()


@pytest.mark.slow
def test_carried_over(bench):
    """An amount too small for an invoice is carried over, and billed once enough has accumulated."""
    with money(bench) as m:
        m.db.execute("insert into acp.prices (unit, action_pattern, unit_amount, currency, valid_from) values "
                     "('call', 'e2e.*', 0.2, 'USD', '2020-01-01')")
        tenant = m.paying()
        for back, status, amount in ((3, "carried", 0), (2, "carried", 0), (1, "paid", 60)):
            m.clock(back)
            m.calls(tenant, 1)
            m.clock(back - 1, day=1)
            m.run(m.month(back))
            m.becomes(tenant, m.month(back), status)
            equal(m.period(tenant, m.month(back))["amount"], amount, "amount")
        equal([i["total"] for i in m.invoices(tenant)], [60], "invoices at Stripe")
        m.now()
        m.proved()


@pytest.mark.slow
def test_credit_and_decline(bench):
    """A credit is a negative line with its reason. A declined invoice fails, and is paid on a retry."""
    with money(bench) as m:
        tenant = m.paying()
        customer = m.pay.tenant(tenant)["stripe_customer_id"]
        m.clock(1)
        m.calls(tenant, 2000)
        m.now()
        month = m.month(1)
        m.ctl("billing", "credit", tenant["tenant_uuid"], "--amount", "0.80", "--reason", "an outage")
        m.stripe.control(decline={"customer": customer, "times": 2})
        m.run(month)
        m.becomes(tenant, month, "failed")
        equal([(i["total"], i["status"]) for i in m.invoices(tenant)], [(120, "open")], "at Stripe")
        check("Credit: an outage" in m.ctl("billing", "show", tenant["tenant_uuid"], "--period", month), "the credit is missing")
        equal(m.differences(), [], "differences with a failed invoice")
        m.ctl("billing", "retry")
        m.becomes(tenant, month, "failed")
        until(20, "the retry is done", lambda: not m.pay.owed(tenant), 0.1)
        m.ctl("billing", "retry", tenant["tenant_uuid"], "--period", month)
        m.becomes(tenant, month, "paid")
        equal([(i["total"], i["status"]) for i in m.invoices(tenant)], [(120, "paid")], "at Stripe")
        done = m.try_ctl("billing", "retry", tenant["tenant_uuid"], "--period", month)
        check(done.returncode == 1 and "is paid" in done.stderr, done.stderr)
        m.proved()


# Runs that are killed -----------------------------------------------------------------------------------------------

class Wire:
    """A proxy on a Unix socket in front of PostgreSQL that kills a program at its n-th message."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parts.query))
        self._to = "%s/.s.PGSQL.%s" % (query["host"], query.get("port", "5432"))
        self._dir = tempfile.TemporaryDirectory(prefix="acp-w-")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._dir.name + "/.s.PGSQL.5432")
        self._socket.listen(16)
        self.url = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode({"host": self._dir.name, "port": 5432})))
        self._plan = None
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._socket.close()
        self._dir.cleanup()

    def plan(self, process, messages, before):
        """Plans to kill the process at this message: before PostgreSQL receives it, or after PostgreSQL has executed
        it."""
        self._plan = {"process": process, "left": messages, "before": before}

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._to)
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()

    def _pump(self, source, target, counted):
        try:
            self._pass_on(source, target, counted)
        finally:
            # The other thread waits for one of them. Closing alone would end neither that thread nor the transaction of
            # a killed process.
            for end in source, target:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _pass_on(self, source, target, counted):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    return
                plan = self._plan
                if counted and plan:
                    plan["left"] -= 1
                    if plan["left"] == 0 and plan["before"]:
                        plan["process"].kill()
                        return
                    if plan["left"] == 0:
                        target.sendall(data)
                        time.sleep(0.15)  # PostgreSQL executes the message
                        plan["process"].kill()
                        return
                target.sendall(data)


def killed_at_every_message(m, arguments, before, after_each=None):
    """Runs acpctl repeatedly, each time killed one message later, until it completes. Returns the number of kills."""
    wire = Wire(m.db.url)
    kills = 0
    try:
        with m.config(database_url=wire.url) as config:
            while True:
                command = [os.path.join(m.bench.stack.sbin, "acpctl"), "--config", config, *arguments]
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE, env=clean_environment())
                wire.plan(process, kills + 1, before)
                _, error = process.communicate(timeout=120)
                if process.returncode != -9:
                    equal(process.returncode, 0, "exit status after %d kills: %s" % (kills, error.decode()))
                    return kills
                kills += 1
                check(kills < 200, "it never completes")
                if after_each:
                    after_each()
    finally:
        wire.close()


@pytest.mark.slow
def test_killed_runs(bench):
    """Billing runs of 20 random tenants are killed at every step and repeated, or run in parallel; the outbox
    run is killed too. Each tenant has exactly one correct invoice a month at Stripe, and reconcile finds no
    difference."""
    chance = random.Random(uuid.uuid4().int)
    with money(bench) as m:
        tenants = parallel(4, lambda _: [m.paying() for _ in range(5)])
        tenants = [tenant for some in tenants for tenant in some]
        # From here on, only acpctl processes the outbox.
        m.pay.process.terminate()
        m.pay.process.wait(30)
        wanted = {}
        for back, before in ((3, True), (2, False), (1, None)):
            m.clock(back)
            month = m.month(back)
            for tenant in tenants:
                count = chance.randrange(500, 3000)
                m.calls(tenant, count)
                wanted[tenant["tenant_uuid"], month] = (count + 5) // 10
            m.clock(back - 1, day=2) if back > 1 else m.now()
            dry = m.run(month, "--dry-run")
            if before is None:
                runs = parallel(4, lambda _: m.try_ctl("--json", "billing", "run", "--period", month))
                equal([r.returncode for r in runs], [0] * 4, "runs in parallel: %s" % [r.stderr for r in runs])
                equal([json.loads(r.stdout)["invoices"] for r in runs], [dry["invoices"]] * 4, "their invoices")
            else:
                kills = killed_at_every_message(m, ["billing", "run", "--period", month], before)
                check(kills >= 5, "killed only %d times" % kills)
                equal(m.run(month)["invoices"], dry["invoices"], "after %d kills" % kills)
            equal(m.db.value("select count(*) from acp.outbox where action = 'stripe.invoices.create' and "
                             "params->>'period' = :'m'", m=month), 20, "obligations of " + month)
        m.now()
        # Crashed attempts are due again when their lease expires.
        for kill in range(12):
            process_killed_somewhere(m, chance.randrange(3, 60), kill % 2 == 0)
            m.db.execute("update acp.outbox set leased_until = now() where leased_until is not null")
        done = parallel(2, lambda _: m.try_ctl("outbox", "run"))
        equal([d.returncode for d in done], [0, 0], "outbox run: %s" % [d.stdout + d.stderr for d in done])
        held = {}
        for invoice in m.invoices():
            name = invoice["metadata"]["tenant_uuid"], invoice["metadata"]["period"]
            check(name not in held, "two invoices of %s" % (name,))
            held[name] = invoice["total"]
        equal(held, wanted, "invoices at Stripe")
        m.proved()


def process_killed_somewhere(m, messages, before):
    wire = Wire(m.db.url)
    try:
        with m.config(database_url=wire.url) as config:
            process = subprocess.Popen([os.path.join(m.bench.stack.sbin, "acpctl"), "--config", config, "outbox", "run"],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=clean_environment())
            wire.plan(process, messages, before)
            process.wait(120)
    finally:
        wire.close()


# The API ------------------------------------------------------------------------------------------------------------

def test_run_over_http(bench):
    """Contract 2.2: billing/run needs an Idempotency-Key, bills once, and repeats its reply for the same key."""
    with money(bench) as m:
        tenant = m.paying()
        m.clock(1)
        m.calls(tenant, 700)
        m.now()
        month = m.month(1)
        refused(m.hub({}, key=None), 400, "VALIDATION_ERROR", "/idempotency_key")
        refused(m.hub({"period": "2026-13"}), 400, "VALIDATION_ERROR", "/period")
        refused(m.hub({"period": m.month(0)}), 400, "VALIDATION_ERROR", "/period")
        dry = succeeded(m.hub({"dry_run": True})).json
        equal(m.db.value("select count(*) from acp.billing_runs"), 0, "runs after a dry run")
        first = succeeded(m.hub({"period": month})).json
        equal((first["period"], first["amount"], first["invoices"]), (month, 70, dry["invoices"]), "the run")
        again = succeeded(m.hub({"period": month})).json
        equal({**again, "request_id": ""}, {**first, "request_id": ""}, "the same key")
        # By now the delivery worker may have created the invoice at Stripe, and Stripe may have charged it.
        amounts = lambda run: [{**invoice, "status": None} for invoice in run["invoices"]]
        equal(amounts(succeeded(m.hub({}, key="other")).json), amounts(first), "another key")
        refused(m.hub({"period": m.month(2)}), 422, "IDEMPOTENCY_MISMATCH")
        equal(amounts(m.run(month)), amounts(first), "acpctl afterwards")
        invoice = succeeded(m.hub({"tenant_id": tenant["tenant_uuid"], "period": month}, method="billing/invoice")).json
        equal(invoice["charges"]["total_charge"], 0.7, "billing/invoice for a kernel")
        rows = m.db.rows("select status, result_meta from acp.audit_logs where action = 'hub.billing.run' order by ts")
        equal([r["status"] for r in rows].count("success"), 4, "audit rows of runs: %s" % rows)
        m.becomes(tenant, month, "paid")
        equal(len(m.invoices(tenant)), 1, "invoices at Stripe")
        m.proved()


def test_invoice_endpoint(bench):
    """Contract 2.1: GET /api/billing/invoice needs the tenant's key and a valid month, and shows only the tenant's own
    invoice."""
    with money(bench) as m:
        tenant, other = m.paying(), m.pay.onboard()
        m.calls(tenant, 3)
        mine = m.invoice(tenant)
        equal((mine["tenant_uuid"], mine["status"], mine["charges"]["total_charge"], mine["charges"]["carried_out"],
               mine["charges"]["per_call"], mine["stripe_invoice_id"]),
              (tenant["tenant_uuid"], "open", 0.003, 0.003, 0.001, None), "the open month")
        equal(m.invoice(other)["charges"]["lines"], [], "another tenant's")
        for path, key, status in (("", None, 401), ("?period=2026-1", tenant["api_key"], 400), ("?period=x", tenant["api_key"], 400)):
            equal(m.pay.send("GET", "/api/billing/invoice" + path, None, key)[0], status, path or "no key")
        equal(m.pay.send("POST", "/api/billing/invoice", {}, tenant["api_key"])[0], 405, "POST")
        before = m.db.value("select count(*) from acp.audit_logs")
        m.invoice(tenant)
        equal(m.db.value("select count(*) from acp.audit_logs"), before, "audit rows")


def test_remote_hub_has_the_invoice(bench):
    """Contract 2.1: a kernel with a hub gets the invoice from the hub. acpctl on the kernel refers to the hub."""
    with money(bench) as m:
        tenant = m.paying()
        m.calls(tenant, 4)
        key = tenant["api_key"]
        with m.pay.responder(hub_url=m.pay.url, hub_key=KERNEL_KEY, kernel_key=None, stripe_key=None,
                             stripe_webhook_secret=None) as kernel:
            reply = succeeded(kernel.ask("GET", "/api/billing/invoice", headers={"X-API-Key": key}))
            equal({**reply.json, "request_id": ""}, {**m.invoice(tenant), "request_id": ""}, "the hub's invoice")
        done = m.try_ctl("billing", "run", hub_url=m.pay.url, hub_key=KERNEL_KEY)
        check(done.returncode == 1 and "run this there" in done.stderr, done.stderr)


# Reconciliation and archives ----------------------------------------------------------------------------------------

def test_reconcile_names_what_stripe_has_wrong(bench):
    """Reconcile compares with the invoices at Stripe, with zero tolerance, and names each difference."""
    with money(bench) as m:
        tenant = m.paying()
        customer = m.pay.tenant(tenant)["stripe_customer_id"]
        m.clock(1)
        m.calls(tenant, 800)
        m.now()
        month = m.month(1)
        m.run(month)
        m.becomes(tenant, month, "paid")
        m.proved()
        stray = {"customer": customer, "currency": "usd", "auto_advance": "false", "metadata[tenant_uuid]": tenant["tenant_uuid"],
                 "metadata[invoice_hash]": "x"}
        m.stripe.ask("POST", "/v1/invoices", {**stray, "metadata[period]": month})
        m.stripe.ask("POST", "/v1/invoices", {**stray, "metadata[period]": m.month(2)})
        found = m.differences()
        equal(sorted(what for what, _, _ in found), ["an invoice that was not billed here", "one invoice"], "strays")
        equal([d[0] for d in m.differences("--period", m.month(2))], ["an invoice that was not billed here"], "of one month")
        m.db.execute("update acp.billing_periods set status = 'failed'")
        check("status of the invoice" in [what for what, _, _ in m.differences()], "a wrong status")
        done = m.try_ctl("reconcile", "--stripe", stripe_key=None)
        check(done.returncode == 1 and "no executor is configured" in done.stderr, done.stderr)
        done = m.try_ctl("reconcile", stripe_key=None)
        check("the invoices at Stripe are not compared" in done.stdout, done.stdout)


@pytest.mark.slow
def test_archive_waits_for_billing(bench):
    """A month with paid calls that are on no invoice is not archived. A billed month is, and its invoices still
    verify."""
    with money(bench) as m, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        tenant = m.paying()
        m.clock(2)
        m.calls(tenant, 600)
        m.now()
        month = m.month(2)
        arguments = ("audit", "archive", "--month", month, "--dir", folder)
        done = m.try_ctl(*arguments)
        check(done.returncode == 1 and "600 paid calls are on no invoice yet" in done.stderr, done.stdout + done.stderr)
        m.run(month)
        m.becomes(tenant, month, "paid")
        m.ctl(*arguments)
        m.proved()
        m.clock(2)
        m.calls(tenant, 5)
        m.now()
        check(m.try_ctl(*arguments).returncode == 1, "a month with late rows was archived before the next run")
        m.ctl(*arguments, "--unbilled")
        equal([(counted, rows) for _, counted, rows in m.differences()], [(200, 201), (200, 202), (200, 202)],
              "differences of calls archived unbilled")
