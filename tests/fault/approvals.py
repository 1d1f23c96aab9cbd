"""Calls that a person must approve, and what an approval may let through whatever fails meanwhile."""

import concurrent.futures
import contextlib
import json
import random
import time
from collections import Counter, defaultdict

from background import Background
from checks import until
from client import CREATE
from oracle import table
from workload import APPROVAL_REQUIRED, APPROVED, PATIENCE, Request

POLICY = {"name": "fault", "decision": "require_approval", "priority": 10}
DESKS, CALLERS = 5, 3
ROWS = """select request_id, result_meta->'policy'->>'approval_id' from acp.audit_logs
    where tenant_id = '%s' and status = 'success' and error_code is null and action in ('%s', '%s')"""


class Desk:
    """Makes a call that needs an approval, decides about it as the operator does, and lets several clients repeat the
    call at once meanwhile."""

    def __init__(self, stack, account, clients, seed, decided):
        self._stack, self._account, self._clients = stack, account, clients
        self._choice = random.Random(seed)
        self._decided = decided  # approval -> the operator's word

    def one(self, name):
        body = {"action": self._choice.choice([APPROVED, APPROVED, CREATE]), "params": {"name": name}}
        if body["action"] == CREATE:
            body["params"]["model_type"] = "linear"
        approval = self._ask(body)
        if approval is None:
            return
        with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(self._repeat, client, body, self._choice.randint(2, 4)) for client in self._clients]
            self._decide(approval, self._choice.choice(["approve", "approve", "reject"]))
        named = {answer for caller in callers for answer in caller.result()}
        for other in sorted(named - {approval}):
            self._decide(other, "reject")

    def _ask(self, body):
        """Makes the call until it is answered that it needs an approval. Returns the approval."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            answer = self._clients[0].send(self._request(body))
            if answer.code == APPROVAL_REQUIRED and answer.data:
                return answer.data
            time.sleep(0.1)
        return None

    def _request(self, body):
        return Request("approval", body, self._account)

    def _repeat(self, client, body, times):
        """Returns the approvals that the answers ask for."""
        answers = []
        for _ in range(times):
            answers.append(client.known(client.send(self._request(body))))
            time.sleep(0.1)
        # Without one: another call has just used it.
        return {answer.data for answer in answers if answer.code == APPROVAL_REQUIRED and answer.data}

    def _decide(self, approval, word):
        """Runs the command until it is done. If its answer was lost, the approval does not wait any more."""
        self._decided[approval] = word

        def done():
            ended = self._stack.program("acpctl", "approval", word, approval)
            return ended.returncode == 0 or "in its state" in ended.stderr
        until(PATIENCE, "acpctl approval %s %s" % (word, approval), done, 0.3)


class Approvals(Background):
    """A tenant whose calls of APPROVED and models.create need an approval each. All through the run some calls wait for
    one; a fault has more of them at once."""

    def __init__(self, stack, load, bench, upstream, seed):
        super().__init__()
        self._load, self._db, self._upstream = load, bench.db, upstream
        self._account = load.tenant("approvals")
        for action in (APPROVED, CREATE):
            stack.ctl("policy", "add", json.dumps({**POLICY, "action": action}), "--tenant", self._account.id)
        self._number = 0
        self._decided = {}
        self._desks = [Desk(stack, self._account, [load.stand_by(stack.url, "%s/approvals" % seed)
                                                   for _ in range(CALLERS)], "%s/desk-%d" % (seed, n), self._decided)
                       for n in range(DESKS)]

    def _name(self):
        self._number += 1
        return "%s-approval-%d" % (self._load.name, self._number)

    def _work(self):
        while not self._stopping.wait(2):
            self._desks[0].one(self._name())

    @contextlib.contextmanager
    def many(self):
        """Within this context several calls are decided at once."""
        with concurrent.futures.ThreadPoolExecutor(DESKS) as pool:
            desks = [pool.submit(desk.one, self._name()) for desk in self._desks[1:]]
            yield
        for desk in desks:
            desk.result()

    def check(self, expect):
        answers = [a for a in self._load.answers() if a.request.account is self._account]
        passed = [(request, approval or None) for request, approval in table(
            self._db, ROWS % (self._account.id, APPROVED, CREATE))]
        arrived = [(request, name) for request, name, moment in self._upstream.approved
                   if not any(loss.may_take(moment) for loss in self._load.losses)]
        given = [(a.data, a.request.name) for a in self._load.all_answers() if a.code == APPROVAL_REQUIRED]
        for name, wrong in judge(answers, arrived, passed, self._decided, given).items():
            expect(name, wrong)


def judge(answers, arrived, passed, decided, named):
    """answers: to the calls. arrived: (request id, name) of what reached the upstream. passed: (request id, approval)
    of the rows of successes. decided: approval -> word of the operator. named: (approval, name) of all answers that
    asked for one. Returns promise -> violations. What a restore took back may be in decided and named only."""
    asked = Counter(request for request, _ in arrived)
    approved = {approval for approval, word in decided.items() if word == "approve"}
    given = defaultdict(set)  # name -> approvals that the operator gave
    for approval, name in named:
        if approval in approved:
            given[name].add(approval)
    names = Counter(name for _, name in arrived)
    uses = Counter(approval for _, approval in passed)
    return {
        "an approval lets one call through (%d approved, %d used)" % (len(approved), len(uses)): [
            "approval %s, %s: %d successes" % (approval, decided.get(approval, "never decided"), count)
            for approval, count in uses.items() if count > 1 or approval not in approved],
        "the upstream is asked once for each approval (%d times)" % len(arrived): [
            "%s: asked %d times, %d approvals" % (name, count, len(given[name]))
            for name, count in names.items() if count > len(given[name])],
        "a call answered as refused did not reach its upstream": [
            a for a in answers if a.request_id in asked and not a.good and not a.unsure and a.status != 502],
        "a success has asked its upstream once": [
            "%d times: %s" % (asked[a.request_id], a) for a in answers
            if a.request.action == APPROVED and a.good and a.code is None and asked[a.request_id] != 1]}
