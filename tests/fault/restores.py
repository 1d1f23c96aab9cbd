"""A backup of the database, and its restore as docs/restore.md says, while Stripe keeps what it has."""

import json
import os
import subprocess
import time

from checks import check, until
from database import PSQL, Database, clean_environment
from losses import Loss
from money import bill_month, due_months
from oracle import wait_for_journal
from stack import end_quietly, is_running

KINDS = {"database restored": 1}
SPARES = 3
PRICE, PRICED = "0.02", "domain.leadscoring.models.*"
ENDING = 120  # seconds
# A dead one is that of an invoice with another amount.
OPEN = """select count(*) from acp.outbox where done_at is null and not dead and action like 'stripe.invoices.%%'
    and tenant_id = any ('{%s}')"""
FAILED = """select exists (select from acp.billing_periods where tenant_id = :'tenant'
    and to_char(period, 'YYYY-MM') = :'month' and status = 'failed')"""
ROWS = "select request_id as id from acp.audit_logs where request_id = any ('{%s}'::uuid[])"


class Restores:
    def __init__(self, world, shopper):
        self._world, self._stack, self._load, self._stripe = world, world.stack, world.load, world.stripe
        self._db, self._shopper = world.db, shopper
        self._client = world.load.stand_by(world.stack.url, "restores")
        # Otherwise the months of a short run are too cheap for an invoice at Stripe.
        world.stack.ctl("price", "add", "--amount", PRICE, "--currency", "USD", "--action", PRICED)
        self._dump = os.path.join(world.stack.dir, "acp.dump")
        self._adopted = 0
        self._unknown = {}  # (tenant, month) of an invoice that a restored database did not know -> its id

    def _run(self, program, *arguments):
        done = subprocess.run([os.path.join(os.path.dirname(PSQL), program), *arguments], env=clean_environment(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        check(done.returncode == 0, "%s: exit %d: %s" % (program, done.returncode, done.stderr))

    def back_up(self):
        """Takes a backup while calls go on. Returns the loss that its restore will be."""
        # What waits in the journal was answered, and is not in the backup.
        wait_for_journal(self._stack, 60)
        self._load.spare(self._client, SPARES)
        begin = time.monotonic()
        self._run("pg_dump", "-Fc", "-Z1", "-f", self._dump, self._db.url)
        return Loss(begin, time.monotonic())

    def restore(self, loss, set_clock):
        """The procedure. Nobody is at the page of Stripe meanwhile, so every card that was saved is an event there
        already."""
        with self._shopper.pressing:
            self._stop()
            self._load.losses.append(loss)
            held = self._held()
            self._replace()
            set_clock()
            self._stack.ctl("migrate")
            self._stack.ctl("audit", "verify")
            self._note_unknown(held)
            self._replay()
            loss.started = time.monotonic()
            self._stack.restart_responder()
            self._load.spare(self._client, SPARES)
        months = due_months(self._db)
        for month in months:
            bill_month(self._stack, month, self._world.tenants.repair)
        self._world.billed = set(months)
        # Before the next month: what one month leaves goes to the next one.
        tenants = ",".join({tenant for tenant, _ in self._unknown})
        self._settle(tenants)
        if self._delete_drafts():
            self._settle(tenants)
        self._adopt()

    def _settle(self, tenants):
        until(ENDING, "the invoices are found at Stripe", lambda: self._db.value(OPEN % tenants) == 0, 0.3)

    def _stop(self):
        supervisor = self._stack.supervisor
        end_quietly([supervisor], 15)
        until(60, "the program has stopped", lambda: not is_running(supervisor) and not self._stack.responders(), 0.1)

    def _replace(self):
        server = Database(self._db.url).named("postgres")
        server.execute('drop database "%s" with (force)' % self._db.name)
        # With its settings and rights; createdb would make it without them.
        self._run("pg_restore", "--create", "-d", server.url, self._dump)

    # Stripe ---------------------------------------------------------------------------------------------------------

    def _held(self):
        return {(i["metadata"]["tenant_uuid"], i["metadata"]["period"]): i["id"]
                for i in self._stripe.all("/v1/invoices")}

    def _note_unknown(self, held):
        known = {(row["tenant_id"], row["month"]) for row in self._db.rows(
            "select tenant_id, to_char(period, 'YYYY-MM') as month from acp.billing_periods")}
        self._unknown.update({pair: invoice for pair, invoice in held.items() if pair not in known})

    def _replay(self):
        """Applies Stripe's events again. Creates the tenants that the command names."""
        done = self._stack.program("acpctl", "stripe", "replay")
        for line in done.stderr.splitlines():
            if line.startswith("acpctl tenant create"):
                self._stack.ctl(*line.split()[1:])
        if done.returncode:
            check("Nothing was applied" in done.stderr, "stripe replay: %s" % done.stderr)
            self._stack.ctl("stripe", "replay")

    def _delete_drafts(self):
        """Deletes what was unfinished at the stop, and is of rows that were lost. Returns whether there was anything."""
        drafts = [pair for pair, invoice in self._unknown.items()
                  if self._stripe.request("GET", "/v1/invoices/" + invoice)[1].get("status") == "draft"]
        for tenant, month in drafts:
            self._stripe.ask("DELETE", "/v1/invoices/" + self._unknown.pop((tenant, month)))
            if self._db.value(FAILED, tenant=tenant, month=month):
                self._stack.ctl("billing", "retry", tenant, "--period", month)
        return bool(drafts)

    def _adopt(self):
        """Takes over the amounts of invoices that Stripe has and a restored database did not know. Everything else
        stays a difference."""
        done = self._stack.program("acpctl", "--json", "reconcile", "--stripe")
        for pair in sorted({(d["tenant_id"], d["period"]) for d in json.loads(done.stdout)["differences"]}):
            if pair in self._unknown:
                self._stack.ctl("billing", "adopt", pair[0], "--period", pair[1])
                self._adopted += 1

    def check(self, expect):
        answers, losses = self._load.all_answers(), self._load.losses
        found = {row["id"] for row in self._db.rows(ROWS % ",".join(a.request_id for a in lost(answers, losses)))}
        for name, wrong in judge(answers, losses, found).items():
            expect("%s (%d invoices, %d adopted)" % (name, len(self._unknown), self._adopted), wrong)


def lost(answers, losses):
    return [a for a in answers if a.request_id and any(loss.takes(a) for loss in losses)]


def judge(answers, losses, found):
    """found: the request ids that have rows. Returns promise -> violations."""
    taken = lost(answers, losses)
    return {"a restore takes back what was answered after the backup, %d restores, %d answers" % (
        len(losses), len(taken)): ["a row, though it was lost: %s" % a for a in taken if a.request_id in found]}


class RestoreFaults:
    """The fault of Regime."""

    def _database_restored(self, _):
        restores = self._world.restores
        with self._fault():
            loss = restores.back_up()
            self._wait(1, 5)
            note = "%.1f s later" % (time.monotonic() - loss.dumped)
            if self._choice.random() < 0.7:
                note += ", billed before: %s" % self._bill()
                self._wait(0.5, 4)
            restores.restore(loss, lambda: self.set_clock(self._world.offset))
            self._note = ": " + note
