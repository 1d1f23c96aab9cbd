"""Absurd numbers: actions that report them, and events of another kernel that have them. They are refused, or counted
exactly; a month of a tenant that cannot be billed is repaired as docs/billing.md says."""

import concurrent.futures
import contextlib
import http.client
import json
import re
import time
import uuid
from collections import Counter

from actions import MAX_QUANTITY
from checks import Failure, check, until
from hub import Hub, event
from oracle import table
from workload import PATIENCE, QUANTITY_HTTP, QUANTITY_SQL, Request

ACTIONS = (QUANTITY_SQL, QUANTITY_HTTP)
REPORTED = (0, 1, MAX_QUANTITY, MAX_QUANTITY + 1, 2 ** 53 - 1, -1)
MOST = 10 ** 12  # of any row
DONE = re.compile("corrected already|on the invoice")  # what acpctl says of a row that needs no correction any more
GOLD = "fault.gold"  # an action of the other kernel: MOST rows of it cannot be charged
PRICES = [("0.01", "fault.*"), ("100", GOLD)]
# Quantity, seconds from now, and whether the event may be stored.
DAY = 24 * 3600
EVENTS = [(0, 0, True), (7, -40 * DAY, True), (3, -399 * DAY, True), (MOST, 0, True), (5, 14 * 60, True),
          (MOST + 1, 0, False), (2 ** 53 - 1, 0, False), (-1, 0, False), (1, 20 * 60, False), (1, -401 * DAY, False),
          (1, 366 * DAY, False)]
MOMENTS = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z"]
ROWS = """select request_id, billing_quantity, billable from acp.audit_logs
    where tenant_id = '%s' and action in ('%s', '%s')"""
STORED = "select event_id, billing_quantity from acp.audit_logs where tenant_id = '%s' and integration = 'e2e-kernel'"
ENORMOUS = STORED + " and action = '%s' and billing_quantity = %d"


def in_range(quantity):
    return 0 <= quantity <= MAX_QUANTITY


def is_absurd(request):
    """True if the action reports a quantity for which the program must answer with an error."""
    return request.action in ACTIONS and not in_range(request.params["n"])


class Sent:
    """One event: its id and quantity, whether it may be stored, and the last status of the answer with its moment."""

    def __init__(self, document, valid):
        self.document, self.valid, self.status, self.moment = document, valid, None, time.monotonic()
        self.id, self.quantity = document["event_id"], document["billing_quantity"]

    def __str__(self):
        return "%s, quantity %s, ts %s: %s" % (self.id, self.quantity, self.document["ts"], self.status)


class Quantities:
    def __init__(self, stack, load, bench, seed):
        self._stack, self._load, self._db = stack, load, bench.db
        for amount, pattern in PRICES:
            stack.ctl("price", "add", "--amount", amount, "--currency", "USD", "--unit", "row", "--action", pattern,
                      "--from", "2000-01-01T00:00:00Z")
        self._hub = Hub(bench)
        self._account = load.tenant("quantities")
        self._kernel = load.tenant("kernel", hidden=True).id
        self._clients = [load.stand_by(stack.url, "%s/quantities-%d" % (seed, n)) for n in range(len(ACTIONS))]
        self.events = []

    @contextlib.contextmanager
    def many(self):
        """Within this context calls report absurd quantities, and the other kernel sends absurd events."""
        with concurrent.futures.ThreadPoolExecutor(len(ACTIONS) + 1) as pool:
            working = [pool.submit(self._call, *pair) for pair in zip(self._clients, ACTIONS)]
            working.append(pool.submit(self._send_all))
            yield
        for one in working:
            one.result()

    def _call(self, client, action):
        for quantity in REPORTED:
            client.known(client.send(Request("quantity", {"action": action, "params": {"n": quantity}}, self._account)))

    # Events -----------------------------------------------------------------------------------------------------------

    def _send_all(self):
        now = self._now()
        made = [Sent(self._event(quantity, rfc3339(now + seconds)), valid) for quantity, seconds, valid in EVENTS]
        made += [Sent(self._event(1, moment), False) for moment in MOMENTS]
        # A batch with an absurd event is refused as a whole.
        batch = [Sent(self._event(1, rfc3339(now)), False), Sent(self._event(MOST + 1, rfc3339(now)), False)]
        self.events += made + batch
        for one in made:
            self._send([one])
        self._send(batch)

    def _event(self, quantity, moment):
        return event(self._kernel, moment, billing_quantity=quantity, tier="paid", action=GOLD)

    def _now(self):
        def read():
            with contextlib.suppress(Failure):
                return self._db.value("select extract(epoch from acp.now())::float8 as now")
        return until(PATIENCE, "the clock can be read", read, 0.2)

    def _send(self, batch):
        """Sends events until the answer tells whether they are stored: a kernel may repeat them."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = self._hub.post("audit-ingest", [one.document for one in batch]).status
                for one in batch:
                    one.status, one.moment = status, time.monotonic()
                if status in (202, 400):
                    return
            time.sleep(0.2)

    # Billing ----------------------------------------------------------------------------------------------------------

    def repair(self):
        """Corrects the rows because of which a month is blocked. Returns whether there were any."""
        listed = json.loads(self._stack.ctl("--json", "billing", "list", "--status", "blocked").stdout)
        others = [row for row in listed if row["tenant_id"] != self._kernel]
        check(not others, "blocked, though its rows are not absurd: %s" % others[:3])
        for one, _ in table(self._db, ENORMOUS % (self._kernel, GOLD, MOST)) if listed else []:
            done = self._stack.program("acpctl", "billing", "correct", self._kernel, one, "--quantity", "1", "--reason",
                                       "absurd")
            check(done.returncode == 0 or DONE.search(done.stderr), "billing correct: %s" % done.stderr)
        return bool(listed)

    def check(self, expect):
        answers = [a for a in self._load.answers() if a.request.action in ACTIONS]
        rows = {row[0]: (int(row[1]), row[2] == "t") for row in table(
            self._db, ROWS % (self._account.id, *ACTIONS))}
        stored = [(row[0], int(row[1])) for row in table(self._db, STORED % self._kernel)]
        for one in self.events:
            if any(loss.may_take(one.moment) for loss in self._load.losses):
                one.valid = None
        for name, wrong in {**judge(answers, rows), **judge_events(self.events, stored)}.items():
            expect(name, wrong)


def rfc3339(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def judge(answers, rows):
    """answers: to calls that report a quantity. rows: request id -> (quantity, billable). Returns promise ->
    violations."""
    wanted = {a.request_id: a.request.params["n"] for a in answers if a.good}
    return {
        "absurd quantities are refused, others are not (%d calls)" % len(answers): [
            a for a in answers if (a.good and is_absurd(a.request)) or
            (a.status in (500, 502) and not is_absurd(a.request) and not a.unsure)],
        "what is charged is what was reported": [
            "%s: %d instead of %s" % (request, quantity, wanted.get(request, "0 to %d" % MAX_QUANTITY))
            for request, (quantity, billable) in rows.items()
            if billable and (not in_range(quantity) or wanted.get(request, quantity) != quantity)]}


def judge_events(events, stored):
    """events: all that were sent; those that a restore may have taken back are neither valid nor invalid. stored: (id,
    quantity) of the rows. Returns promise -> violations."""
    found, quantities = Counter(one for one, _ in stored), dict(stored)
    return {
        "absurd events are refused, others are stored (%d, %d rows)" % (len(events), len(stored)): [
            one for one in events if one.valid is not None and (
                one.status != (202 if one.valid else 400) or found[one.id] != one.valid)],
        "events are stored with their quantities": [
            "%s, not %d" % (one, quantities[one.id]) for one in events if quantities.get(one.id, one.quantity) !=
            one.quantity] + ["%s: never sent" % one for one in set(found) - {sent.id for sent in events}]}
