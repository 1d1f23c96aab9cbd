"""Webhooks: the receivers of one tenant answer late, a byte at a time, without an end or not at all; that of another
tenant must get every delivery meanwhile."""

import concurrent.futures
import contextlib
import itertools
import json
import threading
from collections import Counter, defaultdict

from background import Background
from checks import Failure, check, until
from oracle import table
from workload import Account, Request

TEST = "webhooks.test"
SCOPE = "manage.webhooks"
BAD = ("/late", "/drip", "/endless", "/silent", "/refuse")  # of the upstream; a closed port is another one
GOOD_KEYS, BAD_KEYS = 5, 20  # a key may test 20 times a minute
SENDERS, MANY, SOME = 4, 60, 8  # calls in one fault that cause deliveries to bad receivers, and to the good one
ARRIVING = 180  # seconds at the end
# What was sent, from the rows of the calls: deliveries themselves are deleted after 30 days.
SENT = """select result_meta->>'resource_id' from acp.audit_logs
    where tenant_id = '%s' and action = '%s' and status = 'success' and error_code is null and not dry_run"""
DELIVERIES = "select delivery_id, status from acp.webhook_deliveries where tenant_id = '%s'"


class Receivers(Background):
    def __init__(self, stack, load, bench, upstream, seed):
        super().__init__()
        self._stack, self._load, self._db, self._upstream = stack, load, bench.db, upstream
        self._clients = [load.stand_by(stack.url, "%s/receivers-%d" % (seed, n)) for n in range(SENDERS + 1)]
        self._lock = threading.Lock()  # generators serve one thread at a time
        good, bad = load.tenant("receiver"), load.tenant("slow-receivers")
        self._good = self._tests(good, GOOD_KEYS, [upstream.url + "/good"])
        self._bad = self._tests(bad, BAD_KEYS, [upstream.url + path for path in BAD] + ["http://127.0.0.1:1/"])
        self._tenant = good.id

    def _tests(self, account, keys, urls):
        """An endless series of calls: each causes a delivery, to one receiver after another."""
        accounts = [Account(account.agent_id, {"tenant_uuid": account.id, "api_key": self._stack.ctl(
            "key", "create", "--tenant", account.id, "--name", "tests", "--scopes", SCOPE).stdout.strip()}, "paid")
                    for _ in range(keys)]
        hooks = [self._hook(account, url) for url in urls]
        for caller, hook in zip(itertools.cycle(accounts), itertools.cycle(hooks)):
            yield Request("webhook", {"action": TEST, "params": {"webhook_id": hook}}, caller, keeps=True)

    def _hook(self, account, url):
        answer = self._clients[0].send(Request("webhook, new", {"action": "webhooks.create", "params": {
            "url": url, "events": ["key.created"]}}, account, keeps=True))
        check(answer.good, "no webhook: %s" % answer)
        return answer.data["webhook_id"]

    def _send(self, client, requests):
        for request in requests:
            client.known(client.send(request))

    def _work(self):
        while not self._stopping.wait(1):
            self._send(self._clients[0], self._next(self._good, 1))

    def _next(self, series, count):
        with self._lock:
            return list(itertools.islice(series, count))

    @contextlib.contextmanager
    def many(self):
        """Within this context many deliveries to bad receivers are caused."""
        shares = [self._next(self._bad, MANY // SENDERS) + self._next(self._good, SOME // SENDERS)
                  for _ in range(SENDERS)]
        with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
            sending = [pool.submit(self._send, *pair) for pair in zip(self._clients[1:], shares)]
            yield
        for one in sending:
            one.result()

    def check(self, expect):
        with contextlib.suppress(Failure):
            until(ARRIVING, "nothing waits", lambda: "pending" not in self._states().values(), 0.5)
        answers = [a for a in self._load.answers() if a.request.action == TEST and a.request.account.id == self._tenant]
        sent = [row[0] for row in table(self._db, SENT % (self._tenant, TEST))]
        lost = {delivery for delivery, _, moment in self._upstream.delivered
                if any(loss.may_take(moment) for loss in self._load.losses)}
        received = [(delivery, body) for delivery, body, _ in self._upstream.delivered]
        for name, wrong in judge(answers, sent, self._states(), received, lost).items():
            expect(name, wrong)

    def _states(self):
        return dict(table(self._db, DELIVERIES % self._tenant))


def judge(answers, sent, states, received, lost):
    """answers: to the calls that cause deliveries. sent: ids of deliveries, from the rows of these calls. states: those
    of the deliveries that are still kept. received: (id, body). lost: those of them that a restore may have taken back.
    Returns promise -> violations."""
    bodies = defaultdict(set)
    for delivery, body in received:
        bodies[delivery].add(body)
    answered = {a.data["delivery_id"]: a for a in answers if a.good}
    refused = {a.request_id for a in answers if not a.good and not a.unsure}
    again = len(received) - len(bodies)
    return {
        "every delivery arrived (%d, %d of them again)" % (len(bodies), again): [
            "%s: %s" % (delivery, answered.get(delivery, "no answer")) for delivery in {*sent, *answered}
            if delivery not in bodies],
        "every delivery is recorded once, as delivered": [
            "%s: %d rows" % (delivery, count) for delivery, count in Counter(sent).items() if count > 1] + [
                "%s: %s" % pair for pair in states.items() if pair[1] != "delivered"],
        "nothing else was delivered": [
            delivery for delivery, texts in bodies.items() if delivery not in lost and (
                delivery not in sent or any(json.loads(text)["data"]["request_id"] in refused for text in texts))],
        "a delivery is the same each time": [
            "%s: %s" % (delivery, texts) for delivery, texts in bodies.items() if len(texts) > 1]}
