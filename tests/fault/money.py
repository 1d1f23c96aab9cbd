"""Money under faults: agents that become paying customers, billed months, and the checks of both at the end."""

import json
import os
import random
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

from background import Background
from client import SCORE, SCORE_PARAMS
from database import clean_environment
from checks import Failure, check, until
from payments import CHECKOUT
from stripe import StandIn
from workload import Account, Request

SETTLING = 600  # seconds after the last fault in which all events must be delivered
STANDING = 120  # seconds after that within which at least one obligation must be done
# Paid calls of closed months and the lines that charge them, counted here and not by the program.
CHARGED = """select (select count(*) from acp.audit_logs where billable and tier = 'paid'
        and ts < acp.period_end(:'last')) as rows,
    (select coalesce(sum(calls), 0) from acp.invoice_lines where kind = 'usage') as lines"""
PROOF = """select tenant_id, event_id, count(line) from acp_report.billed_calls where period is not null
    group by 1, 2 having count(line) <> 1 limit 5"""
INVOICES = """select tenant_id, period, encode(hash, 'hex') as hash, amount from acp.billing_periods order by 1, 2"""


class StackStripe(StandIn):
    """The stand-in of a stack; the caller has started it."""

    def __init__(self, stack):
        self.url, self.key = stack.env["ACP_STRIPE_URL"], stack.env["ACP_STRIPE_KEY"]

    def process(self, stack):
        with open(os.path.join(stack.env["ACP_STATE"], "run", "stripe.pid"), encoding="ascii") as file:
            return int(file.read().split()[0])


def save_card(stack, stripe, account):
    """Asks for the link, and saves a card there as a person does."""
    request = urllib.request.Request(stack.url + CHECKOUT, b"", {"X-API-Key": account.key}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = json.load(answer)["checkout_url"]
    stripe.complete(page)


def tier(db, account):
    return db.value("select acp.effective_tier(tier, payment_method_status) as tier from acp.tenants "
                    "where tenant_id = :'id'", id=account.id)


def buy(stack, db, stripe, account):
    """Makes a tenant a paying one whose invoices can be charged: otherwise it is past due after its first one."""
    save_card(stack, stripe, account)
    until(30, "the tenant is paying", lambda: tier(db, account) == "paid", 0.1)


class Shopper(Background):
    """Makes one agent after another a customer: it onboards, makes a few calls and asks for the link; then a person
    saves a card. From then on it is a paying tenant of the load."""

    def __init__(self, stack, load, bench, stripe, seed):
        super().__init__()
        self._stack = stack
        self._load, self._db, self._stripe = load, bench.db, stripe
        self._client = load.stand_by(stack.url, "%s/shopper" % seed)
        self._choice = random.Random("%s/shopper" % seed)
        self.with_card = []  # accounts with a saved card: they must be paying tenants at the end
        self._waiting = []  # those not yet seen as paying
        self.pressing = threading.Lock()  # held while a person is at the page: a restore waits for that

    def _work(self):
        number = 0
        # Pauses grow, because each tenant is billed every month and the stand-in is slow.
        while not self._stopping.wait(self._choice.uniform(1, 6) * (1 + len(self.with_card) / 10)):
            number += 1
            self._one("%s-shopper-%d" % (self._load.name, number))
            self._register()

    def _one(self, agent_id):
        account = self._client.onboard(agent_id, "free", self._stopping)
        for _ in range(self._choice.randint(0, 3) if account else 0):
            self._client.send(Request("score, shopper", {"action": SCORE, "params": SCORE_PARAMS}, account))
        while account and not self._load.is_lost(account) and not self._stopping.wait(0.2):
            if self._save_card(account):
                self.with_card.append(account)
                self._waiting.append(account)
                return

    def _save_card(self, account):
        """True once the person has pressed the button. Earlier steps may fail in any way."""
        try:
            with self.pressing:
                save_card(self._stack, self._stripe, account)
            return True
        except (OSError, ValueError, Failure):
            return False

    def _register(self):
        """Adds accounts that are now paying to the load."""
        try:
            for account in list(self._waiting):
                if tier(self._db, account) == "paid":
                    self._waiting.remove(account)
                    # A call that begins 100 ms later is a paid call.
                    time.sleep(0.2)
                    self._load.add_paid(Account(account.agent_id, {"tenant_uuid": account.id, "api_key": account.key},
                                                "paid", account.made))
        except Failure:  # the database is away
            pass


# Months with calls that have ended, except those that are billed with a later one.
DUE = """select distinct to_char(month, 'YYYY-MM') as month from
    (select acp.period(ts) as month from acp.audit_logs where ts < acp.period_start(acp.period(acp.now()))) m
    where month > (select coalesce(max(period), '-infinity') from acp.billing_closings)
       or month in (select period from acp.billing_closings) order by 1"""


def due_months(db):
    return [row["month"] for row in db.rows(DUE)]


def kill_billing(stack, month, seconds):
    """Runs acpctl billing run and kills it after the given seconds if it is still running. Returns how it ended."""
    process = subprocess.Popen([os.path.join(stack.sbin, "acpctl"), "--config", stack.config, "billing", "run",
                                "--period", month], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env=clean_environment(ACP_DATABASE_URL=stack.database_url))
    try:
        return "exit %d" % process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
        return "killed"


def bill_month(stack, month, repair):
    """Runs acpctl billing run. repair(): as an operator who repairs what the run could not bill; returns whether there
    was anything."""
    done = stack.program("acpctl", "billing", "run", "--period", month)
    if done.returncode and repair():
        done = stack.program("acpctl", "billing", "run", "--period", month)
    check(done.returncode == 0, "acpctl billing run --period %s: exit %d: %s" % (month, done.returncode, done.stderr))


def twice(invoices):
    """The months of which Stripe has two invoices."""
    held = Counter((i["metadata"]["tenant_uuid"], i["metadata"]["period"]) for i in invoices)
    return ["tenant %s, %s: %d" % (*pair, number) for pair, number in held.items() if number > 1]


class Books:
    """The end of a run: all obligations are done, every closed month is billed, and the sums match the rows."""

    def __init__(self, stack, bench, stripe, shopper):
        self._stack, self._db, self._stripe, self._shopper = stack, bench.db, stripe, shopper
        self.violations = []
        self.notes = []

    def expect(self, name, wrong):
        self.violations += ["%s: %s" % (name, one) for one in wrong[:5]]
        self.notes.append("%s %s" % ("FAIL" if wrong else "ok", name))

    def attempt(self, name, work):
        """Records a violation if work() fails."""
        try:
            work()
            self.expect(name, [])
        except Failure as error:
            self.expect(name, [error])

    def settle(self):
        """Stripe works again: resends undelivered events, as Stripe does for days, and retries obligations that were
        given up, as an operator does."""
        self._stripe.control(reset=True)

        def all_delivered():
            state = self._stripe.report()["webhooks"]
            if not state["under_way"] and not state["waiting"] and state["failed"]:
                self._stripe.control(webhooks={"send": list(state["failed"])})
            return not state["under_way"] and not state["waiting"] and not state["failed"]

        self.attempt("every event of Stripe was accepted",
                     lambda: until(SETTLING, "webhooks of Stripe", all_delivered, 0.5))
        self._stack.ctl("outbox", "retry", "all")
        self.attempt("nothing is owed to Stripe", self._pay_off)
        self.violations += ["owed: %s" % owed for owed in self._owed()[:5]]

    def _pay_off(self):
        """After an hour many obligations are left, and the stand-in is slow. Checks that their number decreases
        to zero."""
        left = len(self._owed())
        while left:
            until(STANDING, "one of %d obligations is done" % left, lambda most=left: len(self._owed()) < most, 0.5)
            left = len(self._owed())

    def _owed(self):
        return self._db.rows("select tenant_id, obligation, attempts, dead, error, due_at, acp.now() as now "
                             "from acp.outbox where done_at is null order by outbox_id")

    def customers(self):
        with_card = self._shopper.with_card
        self.expect("every tenant with a saved card is paying (%d)" % len(with_card), [
            "tenant %s" % account.id for account in with_card if tier(self._db, account) != "paid"])
        count = {}
        for customer in self._stripe.all("/v1/customers"):
            tenant = customer["metadata"].get("tenant_uuid")
            count[tenant] = count.get(tenant, 0) + 1
        invoices = self._stripe.all("/v1/invoices")
        self.expect("Stripe has each month of a tenant once (%d)" % len(invoices), twice(invoices))
        self.expect("no tenant has two customers at Stripe (%d)" % len(count), [
            "tenant %s: %d" % pair for pair in count.items() if pair[1] > 1])

    def bill(self, months, repair):
        """Bills each ended month twice, oldest first. The second run must change nothing."""
        for month in months:
            self.attempt("acpctl billing run --period %s" % month,
                         lambda m=month: bill_month(self._stack, m, repair))
        self.settle()
        before = self._db.rows(INVOICES)
        for month in months:
            self._stack.ctl("billing", "run", "--period", month)
        self.expect("billing a month again changes no invoice (%d invoices)" % len(before),
                    [] if self._db.rows(INVOICES) == before else ["invoices differ"])

    def balance(self, months):
        charged = self._db.row(CHARGED, last=months[-1] + "-01")
        self.expect("invoices charge the paid calls of closed months (%d)" % charged["rows"],
                    [charged] if charged["rows"] != charged["lines"] else [])
        self.expect("each paid call is in one line", self._db.rows(PROOF))
        done = self._stack.program("acpctl", "reconcile", "--stripe")
        self.expect("acpctl reconcile --stripe", [] if done.returncode == 0 else [
            "exit %d: %s%s" % (done.returncode, done.stdout[-1500:], done.stderr[-600:])])
