"""Tests the whole program with failing calls: a responder with failing.so preloaded, over a real PostgreSQL. While it
serves a request, the n-th call of a kind in its worker process fails. The answer is compared with the audit rows.

For each answer: a 2xx has exactly one row, of a success; any other answer has no row of a success; the worker keeps
running. At the end the same requests succeed, and acpctl reconcile finds no difference.
"""

import argparse
import functools
import hashlib
import hmac
import json
import mmap
import os
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))

from client import CREATE, ONBOARD, SCORE, SCORE_PARAMS  # noqa: E402
from database import Database  # noqa: E402
from fcgi import Responder  # noqa: E402
from checks import Failure  # noqa: E402
from stack import OwnStack, children, is_running  # noqa: E402
from stripe import StandIn  # noqa: E402

# As in failing.h.
KINDS = {"alloc": 1, "pq": 2, "pq-lost": 3, "pq-after": 4, "curl": 5, "io": 6, "thread": 7}


class Control:
    """The numbers that failing.so maps."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.write(bytes(4096))
        os.chmod(path, 0o666)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4096)

    def _put(self, place, number):
        struct.pack_into("<q", self._map, 8 * place, number)

    def _get(self, place):
        return struct.unpack_from("<q", self._map, 8 * place)[0]

    def arm(self, kind, nth, pid, lasting=False):
        self._put(0, 0)
        for place, number in enumerate((int(lasting), nth, 0, 0, pid), 1):
            self._put(place, number)
        self._put(0, KINDS[kind])

    def disarm(self):
        self._put(0, 0)
        return self._get(4)


class Torture:
    def __init__(self, options, stack, database, control, responder):
        self.options, self.stack, self.db, self.control, self.responder = options, stack, database, control, responder
        self.paid, self.free = self.tenant(paid=True), self.tenant()
        self.number = 0
        self.faults = self.passed = self.failed = 0

    def tenant(self, paid=False):
        agent = "torture-%d-%d" % (os.getpid(), time.monotonic_ns())
        reply = self.patiently(lambda: self.onboard(agent))
        if reply.status != 201:
            raise Failure("onboarding: %d %r" % (reply.status, reply.body))
        if paid:
            self.db.execute("update acp.tenants set tier = 'paid', payment_method_status = 'active'"
                            " where tenant_id = '%s'" % reply.json["tenant_uuid"])
        return reply.json["api_key"]

    def patiently(self, ask):
        """Repeats a request while the program is unavailable: after its last failure it may need a moment for a new
        connection."""
        deadline = time.monotonic() + 10
        while True:
            reply = ask()
            if reply.status not in (500, 503) or time.monotonic() > deadline:
                return reply
            time.sleep(0.05)

    def onboard(self, agent):
        body = json.dumps({"agent_id": agent, "email": "a@b.example"}).encode()
        return self.responder.ask("POST", ONBOARD, body, {"Content-Type": "application/json"})

    def call(self, key, action, params, **more):
        return self.responder.call(key, json.dumps({"action": action, "params": params, **more}).encode())

    def fresh(self, what):
        self.number += 1
        return "%s-%d-%d" % (what, os.getpid(), self.number)

    def stories(self):
        model = {"name": "m", "model_type": "linear"}
        return {
            "onboard": lambda: self.onboard(self.fresh("agent")),
            "paid call": lambda: self.call(self.paid, SCORE, SCORE_PARAMS),
            "free call": lambda: self.call(self.free, SCORE, SCORE_PARAMS),
            "write": lambda: self.call(self.paid, CREATE, {**model, "name": self.fresh("model")}),
            "dry run": lambda: self.call(self.paid, CREATE, {**model, "name": self.fresh("model")}, dry_run=True),
            "idempotent": lambda: self.call(self.paid, CREATE, {**model, "name": self.fresh("model")},
                                            idempotency_key=self.fresh("key")),
            "new API key": lambda: self.call(self.paid, "iam.keys.create",
                                             {"name": self.fresh("key"), "scopes": ["manage.read"]}, dry_run=True),
            "usage": lambda: self.responder.ask("GET", "/api/usage", headers={"X-API-Key": self.paid}),
        }

    def worker(self):
        """Returns the process that serves requests: a new one if the last one died."""
        for _ in range(200):
            found = [pid for pid in children(self.responder.process.pid) if is_running(pid)]
            if found:
                return found[0]
            time.sleep(0.05)
        return self.responder.process.pid

    def fault(self, story, kind, nth, text):
        self.faults += 1
        print("FAIL %s, %s %d: %s" % (story, kind, nth, text))

    def rows_of(self, request_id, wanted):
        """Returns the number of rows of a success. A row may wait in the journal for about a second: after a failure
        the program assumes for a moment that PostgreSQL is down, but still answers callers that it knows."""
        row = "select count(*) from audit_logs where request_id = '%s' and status = 'success'" % request_id
        deadline = time.monotonic() + 10
        while True:
            rows = int(self.db.value(row))
            if rows >= wanted or time.monotonic() > deadline:
                return rows
            time.sleep(0.05)

    def classify(self, story, kind, nth, reply):
        """Reports faults of the answer. Returns its class."""
        wanted = 1 if 200 <= reply.status < 300 and story != "usage" else 0
        rows = self.rows_of(reply.headers["X-Request-Id"], wanted)
        if 200 <= reply.status < 300:
            if rows != wanted:
                self.fault(story, kind, nth, "%d has %d rows of a success" % (reply.status, rows))
            return "2xx"
        if rows:
            self.fault(story, kind, nth, "%d has %d rows of a success: %r" % (reply.status, rows, reply.body[:300]))
        body = reply.json
        if body.get("ok") is not False or body.get("code") not in ("INTERNAL_ERROR", "UNAVAILABLE") or \
                not body.get("request_id") or reply.status not in (500, 503):
            self.fault(story, kind, nth, "no proper refusal: %d %r" % (reply.status, reply.body[:300]))
        return str(reply.status)

    def prepare(self, story):
        """Makes the data for the request whose calls fail."""

    def attempt(self, story, kind, nth, ask, counts):
        """Returns true if a call was made to fail."""
        self.prepare(story)
        worker = self.worker()
        self.control.arm(kind, nth, worker)
        try:
            reply = ask()
        except (Failure, OSError) as error:
            reply = error
        failed = self.control.disarm()
        time.sleep(0.002)
        if not is_running(worker):
            self.fault(story, kind, nth, "the worker ended: %s" % self.responder.read_log()[-300:])
            counts["ended"] = counts.get("ended", 0) + 1
        elif isinstance(reply, Exception):
            self.fault(story, kind, nth, "no answer: %s" % reply)
        else:
            outcome = self.classify(story, kind, nth, reply)
            counts[outcome] = counts.get(outcome, 0) + bool(failed)
        return failed

    def story(self, name, kind, ask):
        counts, nth, made, faults = {}, 1, 0, self.faults
        step = self.options.step if kind == "alloc" else 1
        deadline = time.monotonic() + self.options.seconds
        while self.attempt(name, kind, nth, ask, counts):
            nth += step
            made += 1
            if time.monotonic() > deadline:
                print("     %s, %s: stopped at call %d after %g s" % (name, kind, nth, self.options.seconds))
                break
        for _ in range(3):  # the next call replaces a lost connection
            self.prepare(name)
            reply = self.patiently(ask)
        if not self.is_good(name, reply):
            self.fault(name, kind, nth, "afterwards: %d %r" % (reply.status, reply.body[:300]))
        good = faults == self.faults
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print("%s %-15s %-9s every %2d: %4d failing calls: %s" % ("ok  " if good else "FAIL", name, kind, step, made, ", ".join(
            "%d %s" % (count, outcome) for outcome, count in sorted(counts.items()))), flush=True)

    def is_good(self, story, reply):
        """True if this is a right answer when nothing fails."""
        return 200 <= reply.status < 300 or (story == "free call" and reply.status == 402)

    def reconcile(self):
        done = self.stack.program("acpctl", "reconcile")
        good = done.returncode == 0
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print("%s acpctl reconcile: exit status %d%s" % ("ok  " if good else "FAIL", done.returncode,
                                                         "" if good else "\n" + done.stdout + done.stderr))

    def run(self):
        for name, ask in self.stories().items():
            for kind in self.kinds:
                if self.options.kind in ("", kind) and self.options.story in name:
                    self.story(name, kind, ask)
        self.finish()
        self.reconcile()

    kinds = tuple(KINDS)

    def finish(self):
        """Checks after all stories."""


class MoneyTorture(Torture):
    """The limit and what follows it, with the stand-in for Stripe. Each tenant has one free call."""

    kinds = ("pq", "pq-lost", "pq-after", "curl")

    def __init__(self, stand_in, *more):
        self.stripe = stand_in
        super().__init__(*more)
        self.began = self.db.value("select acp.now()::text")
        self.over = self.tenant()
        self.call(self.over, SCORE, SCORE_PARAMS)
        self.new = self.event = None

    def stories(self):
        return {
            "last free call": lambda: self.call(self.new, SCORE, SCORE_PARAMS),
            "over the limit": lambda: self.call(self.over, SCORE, SCORE_PARAMS),
            "onboard, Stripe": lambda: self.onboard(self.fresh("payer")),
            "checkout": lambda: self.responder.ask("POST", "/api/upgrade/checkout", headers={"X-API-Key": self.new}),
            "webhook": self.deliver,
        }

    def prepare(self, story):
        if story in ("last free call", "checkout"):
            self.new = self.tenant()
        if story == "webhook":
            self.event = self.fresh("evt_torture").replace("-", "_")

    def deliver(self):
        """Sends a signed event without consequences, which must be accepted once."""
        body = json.dumps({"id": self.event, "object": "event", "type": "payment_method.detached",
                           "created": int(time.time()), "livemode": False, "data": {
                               "object": {"id": "pm_x", "object": "payment_method", "customer": None},
                               "previous_attributes": {"customer": "cus_nobody"}}}).encode()
        at = int(time.time())
        mac = hmac.new(self.stripe.secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
        return self.responder.ask("POST", "/api/webhooks/stripe", body, {
            "Content-Type": "application/json", "Stripe-Signature": "t=%d,v1=%s" % (at, mac)})

    def classify(self, story, kind, nth, reply):
        if story == "over the limit" and reply.status == 402:
            if not reply.json.get("upgrade_url"):
                self.fault(story, kind, nth, "402 without a link: %r" % reply.body[:300])
            return "402"
        if story == "last free call":
            self.check_limit(kind, nth, reply)
        if story not in ("checkout", "webhook"):
            return super().classify(story, kind, nth, reply)
        if reply.status not in (200, 500, 502, 503) or (reply.status != 200 and not reply.json.get("request_id")):
            self.fault(story, kind, nth, "no proper refusal: %d %r" % (reply.status, reply.body[:300]))
        if story == "webhook":
            self.check_event(kind, nth, reply)
        return "2xx" if reply.status == 200 else str(reply.status)

    def check_limit(self, kind, nth, first):
        """A tenant with one free call has at most one success, however often it tries."""
        again = lambda: self.call(self.new, SCORE, SCORE_PARAMS)  # noqa: E731
        later = [self.patiently(again), self.patiently(again)]
        done = sum(200 <= reply.status < 300 for reply in (first, *later))
        if done > 1 or (first.status == 200 and [reply.status for reply in later] != [402, 402]):
            self.fault("last free call", kind, nth, "%s of three calls" % [r.status for r in (first, *later)])

    def check_event(self, kind, nth, reply):
        """An event answered with 200 is recorded. When it is sent again, as Stripe does, any event is recorded once."""
        def recorded():
            return int(self.db.value("select count(*) from acp.stripe_events where event_id = :'id'", id=self.event))
        if reply.status == 200 and recorded() != 1:
            self.fault("webhook", kind, nth, "200 has %d recorded events" % recorded())
        for _ in range(2):
            again = self.patiently(self.deliver)
        if again.status != 200 or recorded() != 1:
            self.fault("webhook", kind, nth, "sent again: %d, %d recorded events" % (again.status, recorded()))

    def is_good(self, story, reply):
        return reply.status == 402 if story == "over the limit" else super().is_good(story, reply)

    def finish(self):
        """No tenant used more than its free call. Stripe has one customer for each tenant: the recorded one."""
        self.db.execute("update acp.outbox set due_at = acp.now(), leased_until = null where done_at is null")
        deadline = time.monotonic() + 20
        owed = "select count(*) from acp.outbox where done_at is null and not dead"
        while self.db.value(owed) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.check("nothing is owed to Stripe", self.db.value(owed) == 0)
        self.check("no tenant had more than one free call", not self.db.rows(
            "select tenant_id from audit_logs where status = 'success' and action = '%s' and ts > '%s' group by 1 "
            "having count(*) > 1" % (SCORE, self.began)))
        recorded = {row["tenant_id"]: row["stripe_customer_id"] for row in self.db.rows(
            "select tenant_id, stripe_customer_id from acp.tenants where stripe_customer_id is not null")}
        held = [(c["metadata"].get("tenant_uuid"), c["id"]) for c in self.stripe.all("/v1/customers")]
        self.check("%d customers at Stripe, each once and recorded" % len(held), sorted(held) == sorted(recorded.items()))

    def check(self, what, good):
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        print("%s %s" % ("ok  " if good else "FAIL", what), flush=True)


class Stack(OwnStack):
    """A stack with only PostgreSQL, and the configuration of the programs."""

    def __init__(self, options):
        options.server, options.port, options.workers = "none", 0, None
        super().__init__(options)
        self._up = ["up", "--server", "none", "--install", self.prefix]


def run_stories(options, stack, control, kind, **settings):
    """Runs the stories of one kind of installation, with its own responder."""
    responder = Responder(stack, processes="1", rate_limits="off",
                          journal_dir=os.path.join(os.path.abspath(options.dir), "journal"), **settings)
    responder.stand_under(["env", "LD_PRELOAD=" + os.path.abspath(options.library), "FAILING_CONTROL=" + control.path])
    with responder:
        torture = kind(options, stack, Database(stack.database_url), control, responder)
        torture.run()
    return torture


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True, help="prefix of make install")
    parser.add_argument("--library", required=True, help="failing.so")
    parser.add_argument("--dir", required=True, help="folder for PostgreSQL and logs")
    parser.add_argument("--kind", default="", choices=["", *KINDS])
    parser.add_argument("--story", default="", help="only stories with this in their name")
    parser.add_argument("--step", type=int, default=1, help="make only every STEP-th allocation fail")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of one story and kind")
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    control = Control(os.path.join(options.dir, "control"))
    stack = Stack(options)
    stack.up()
    try:
        done = [run_stories(options, stack, control, Torture, free_calls_limit="1000000")]
        with StandIn() as stand_in:
            done.append(run_stories(options, stack, control, functools.partial(MoneyTorture, stand_in),
                                    free_calls_limit="1", public_url="http://127.0.0.1:9", **stand_in.settings()))
    finally:
        stack.down()
        stack.purge()
    passed, failed = sum(t.passed for t in done), sum(t.failed for t in done)
    print("suite torture-program: %d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
