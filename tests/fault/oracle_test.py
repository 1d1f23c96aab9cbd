#!/usr/bin/env python3
"""Tests that the oracle finds what it is for: calls whose answer says that nothing was done, and that were done. Exit
status 0: passed."""

import os
import sys
from collections import defaultdict

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from oracle import COLUMNS, Oracle, Row
from workload import OUTCOME_UNKNOWN, UNKNOWN, Answer, Request

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


def answer(status, code):
    one = Answer(Request("a call", CALL), 0.0)
    one.status, one.code, one.request_id = status, code, "request"
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


def main():
    wrong = 0
    for status, code, rows, objects in CASES:
        found = violations(answer(status, code), *rows)
        if bool(found) != objects:
            wrong += 1
            print("FAIL %s %s with the rows %s: %s" % (status, code, [str(one) for one in rows], found or "no objection"))
        else:
            print("ok %s %s, %s" % (status, code, "an objection" if objects else "no objection"))
    return 1 if wrong else 0


sys.exit(main())
