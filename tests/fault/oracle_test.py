#!/usr/bin/env python3
"""Tests that the oracle finds what it is for: for each of its rules a run that violates it, and one that does not. Exit
status 0: passed."""

import os
import sys
from collections import defaultdict

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("e2e", "fairness"):
    sys.path.insert(0, os.path.join(HERE, "..", folder))

import approvals
import money
import neighbours
import quantities
import receivers
import restores
from losses import Loss, remaining
from oracle import COLUMNS, Oracle, Row
from workload import APPROVAL_REQUIRED, APPROVED, CREATE_KEY, OUTCOME_UNKNOWN, QUANTITY_SQL, UNKNOWN, Answer, Request

CALL = {"action": "domain.leadscoring.models.create", "params": {"name": "m"}}


class Load:
    """The answers of a run, as the oracle asks for them."""

    name = "oracle-test"

    def __init__(self, answers):
        self._answers = answers

    def answers(self):
        return self._answers

    def accounts(self):
        return []

    def is_lost(self, _):
        return False


def answer(status, code, body=None, request_id="request", data=None):
    one = Answer(Request("a call", body or CALL), 0.0)
    one.status, one.code, one.request_id, one.data = status, code, request_id, data
    return one


def row(status, code=None):
    values = dict.fromkeys(COLUMNS, "")
    values.update({"request_id": "request", "tenant_id": "t", "action": CALL["action"], "status": status,
                   "error_code": code or "", "extract(epoch from ts)": "0"})
    return Row(list(values.values()))


def violations(one, *rows):
    oracle = Oracle(None, Load([one]), None, 100, 10)
    oracle._rows = defaultdict(list, {"request": list(rows)})
    oracle._refusals()
    return oracle.violations


# Status and code of the answer, rows of its request, and whether the oracle must object.
CASES = [
    (503, "UNAVAILABLE", [row("success")], True), (403, "APPROVAL_REQUIRED", [row("success")], True),
    (402, "UPGRADE_REQUIRED", [row("success")], True), (409, "IDEMPOTENCY_CONFLICT", [row("success")], True),
    (500, "INTERNAL_ERROR", [row("success")], True), (502, "UPSTREAM_FAILED", [row("success")], True),
    (400, "VALIDATION_ERROR", [row("error", "VALIDATION_ERROR"), row("success")], True),
    (503, "UNAVAILABLE", [row("error", "UNAVAILABLE"), row("error", "UNAVAILABLE")], True),
    (503, "UNAVAILABLE", [row("error", "UNAVAILABLE")], False), (503, "UNAVAILABLE", [], False),
    (403, "APPROVAL_REQUIRED", [row("denied", "APPROVAL_REQUIRED")], False),
    (503, OUTCOME_UNKNOWN, [row("success")], False), (UNKNOWN, None, [row("success")], False),
    (200, None, [row("success")], False),
]


# Approvals: of two calls, of which the operator approved the first and rejected the second. The rules return
# {promise: violations}.
BODY = {"action": APPROVED, "params": {"name": "first"}}
OTHER = {"action": APPROVED, "params": {"name": "second"}}
ASKED = [answer(403, APPROVAL_REQUIRED, BODY, "r1", "a1"), answer(403, APPROVAL_REQUIRED, OTHER, "r2", "a2")]
DONE = answer(200, None, BODY, "r3")
AGAIN = answer(200, None, BODY, "r4")
REFUSED = answer(503, "UNAVAILABLE", BODY, "r4")


def approved(answers, arrived, passed):
    return approvals.judge(ASKED + answers, arrived, passed, {"a1": "approve", "a2": "reject"},
                           [("a1", "first"), ("a2", "second")])


# A neighbour: an attack from 10 to 20 s, and an answer from begin to end.
def attacked(*answers):
    return neighbours.judge(answers, [("an attack", 10, 20)])


def meanwhile(status, code=None, begin=11, end=12, action=None):
    one = answer(status, code, {**CALL, "action": action} if action else None)
    one.started, one.ended = begin, end
    return one


GOOD = meanwhile(200)

# Deliveries to a good receiver: one call was done (d1), one was refused.
def delivered(sent, states, received):
    answers = [answer(200, None, None, "r1", {"delivery_id": "d1"}), answer(403, "CEILING_EXCEEDED", None, "r2")]
    return receivers.judge(answers, sent, states, received, set())


def sent_body(request_id, more=""):
    return '{"data":{"request_id":"%s"}%s}' % (request_id, more)


FIRST = ("d1", sent_body("r1"))
ARRIVED = {"d1": "delivered"}

# Quantities: a call that reports n and its answer, with the quantity of its row; and an event.
def reported(n, status, *row):
    one = answer(status, None, {"action": QUANTITY_SQL, "params": {"n": n}})
    return quantities.judge([one], {"request": row} if row else {})


def event(valid, status, *stored):
    sent = quantities.Sent({"event_id": "e1", "billing_quantity": 5, "ts": ""}, valid)
    sent.status = status
    return quantities.judge_events([sent], stored)


# A backup was taken from 10 to 12 s, and the program started again at 20 s. An answer from begin to end, and
# the rows of its request.
def restored(begin, end, *rows):
    one, losses = meanwhile(200, None, begin, end), [Loss(10, 12, 20)]
    oracle = Oracle(None, Load(remaining([one], losses)), None, 100, 10)
    oracle._rows = defaultdict(list, {"request": list(rows)})
    oracle._rows_of_answers()
    kept = restores.judge([one], losses, {"request"} if rows else set())
    return {"rows": oracle.violations, **kept}


def held(*months):
    return {"invoices": money.twice([{"metadata": {"tenant_uuid": "t", "period": month}} for month in months])}


# What happened, what the rules return, and whether they must object.
JUDGED = [
    ("one approved call", approved([DONE], [("r3", "first")], [("r3", "a1")]), False),
    ("a call without an answer", approved([], [("r3", "first")], []), False),
    ("two successes with one approval", approved([DONE, AGAIN], [("r3", "first")], [("r3", "a1"), ("r4", "a1")]), True),
    ("a success with a rejected approval", approved([], [], [("r9", "a2")]), True),
    ("a success without an approval", approved([], [], [("r9", None)]), True),
    ("the upstream asked twice", approved([DONE], [("r3", "first"), ("r9", "first")], [("r3", "a1")]), True),
    ("the upstream asked after a rejection", approved([], [("r9", "second")], []), True),
    ("a refused call at the upstream", approved([REFUSED], [("r4", "first")], []), True),
    ("a delivery", delivered(["d1"], ARRIVED, [FIRST]), False),
    ("a delivery twice", delivered(["d1"], ARRIVED, [FIRST, FIRST]), False),
    ("a delivery that is not kept any more", delivered(["d1"], {}, [FIRST]), False),
    ("a delivery that did not arrive", delivered(["d1"], ARRIVED, []), True),
    ("a delivery whose call has no row", delivered([], {}, []), True),
    ("a delivery that still waits", delivered(["d1"], {"d1": "pending"}, [FIRST]), True),
    ("a delivery that failed", delivered(["d1"], {"d1": "failed"}, [FIRST]), True),
    ("a delivery of two calls", delivered(["d1", "d1"], ARRIVED, [FIRST]), True),
    ("a delivery of no call", delivered(["d1"], ARRIVED, [FIRST, ("d9", sent_body("r9"))]), True),
    ("a delivery of a refused call", delivered(["d1", "d2"], ARRIVED, [FIRST, ("d2", sent_body("r2"))]), True),
    ("a delivery that changes", delivered(["d1"], ARRIVED, [FIRST, ("d1", sent_body("r1", ',"n":2'))]), True),
    ("a quantity of 0", reported(0, 200, 0, True), False),
    ("the largest quantity", reported(quantities.MAX_QUANTITY, 200, quantities.MAX_QUANTITY, True), False),
    ("an absurd quantity, refused", reported(2 ** 53 - 1, 500, 1, False), False),
    ("an absurd quantity, answered with success", reported(quantities.MAX_QUANTITY + 1, 200, 1, True), True),
    ("an absurd quantity, charged", reported(-1, 500, -1, True), True),
    ("a good quantity, refused", reported(1, 500), True),
    ("another quantity charged than was reported", reported(7, 200, 8, True), True),
    ("a good event", event(True, 202, ("e1", 5)), False),
    ("an absurd event, refused", event(False, 400), False),
    ("an absurd event, accepted", event(False, 202, ("e1", 5)), True),
    ("an absurd event, refused and stored", event(False, 400, ("e1", 5)), True),
    ("a good event, refused", event(True, 400), True),
    ("a good event, lost", event(True, 202), True),
    ("a good event, stored twice", event(True, 202, ("e1", 5), ("e1", 5)), True),
    ("an event with another quantity", event(True, 202, ("e1", 6)), True),
    ("an event of nobody", event(True, 202, ("e1", 5), ("e9", 5)), True),
    ("an answer after the backup, lost", restored(13, 14), False),
    ("an answer during the backup, lost", restored(9, 11), False),
    ("an answer during the start, lost", restored(19, 21), False),
    ("an answer before the backup, lost", restored(8, 9), True),
    ("an answer after the restore, lost", restored(21, 22), True),
    ("an answer after the backup, not lost", restored(13, 14, row("success")), True),
    ("an invoice of each month", held("2026-10", "2026-11"), False),
    ("two invoices of a month", held("2026-10", "2026-10"), True),
    ("answers during an attack", attacked(GOOD, meanwhile(402, "UPGRADE_REQUIRED")), False),
    ("a limited key during an attack", attacked(GOOD, meanwhile(429, "RATE_LIMITED", action=CREATE_KEY)), False),
    ("a 503 of an earlier fault", attacked(GOOD, meanwhile(503, "UNAVAILABLE", 9, 11)), False),
    ("a 429 during an attack", attacked(GOOD, meanwhile(429, "RATE_LIMITED")), True),
    ("a 503 during an attack", attacked(GOOD, meanwhile(503, "UNAVAILABLE")), True),
    ("no answer during an attack", attacked(GOOD, meanwhile(UNKNOWN)), True),
    ("no success during an attack", attacked(meanwhile(402, "UPGRADE_REQUIRED")), True),
    ("a success that asked nobody", approved([DONE], [], [("r3", "a1")]), True),
]


def cases():
    """Yields (description, violations, whether there must be some)."""
    for status, code, rows, objects in CASES:
        yield "%s %s with the rows %s" % (status, code, [str(one) for one in rows]), violations(
            answer(status, code), *rows), objects
    for what, found, objects in JUDGED:
        yield what, [one for wrong in found.values() for one in wrong], objects


def main():
    wrong = 0
    for what, found, objects in cases():
        wrong += bool(found) != objects
        print("%s %s: %s" % ("ok" if bool(found) == objects else "FAIL", what, "; ".join(map(str, found)) or
                             "no objection"))
    return 1 if wrong else 0


sys.exit(main())
