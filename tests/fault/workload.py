"""Clients that make a seeded random mix of calls over real HTTP, follow the answers, and record every answer or its
absence."""

import http.client
import json
import random
import threading
import time
import urllib.parse
import uuid
from collections import defaultdict, deque

from client import CREATE, MANAGE, ONBOARD, SCORE, SCORE_PARAMS
from checks import check
from losses import remaining

LIST = "domain.leadscoring.models.list"
VERSION = "meta.version"
CREATE_KEY, REVOKE_KEY = "iam.keys.create", "iam.keys.revoke"
# Actions of the operator (actions.py). The last two report the quantity that the params name.
APPROVED, QUANTITY_SQL, QUANTITY_HTTP = "fault.approved", "fault.quantity.sql", "fault.quantity.http"
BILLABLE = {SCORE, CREATE, LIST, APPROVED, QUANTITY_SQL, QUANTITY_HTTP}
OUTCOME_UNKNOWN, APPROVAL_REQUIRED = "OUTCOME_UNKNOWN", "APPROVAL_REQUIRED"
# No reply, or one that the web server made because the program was gone: the outcome is unknown.
UNKNOWN = None
# After this many refusals a free tenant is no longer used, and another one is onboarded in its place.
ENOUGH_REFUSALS = 25
# A key may create this many keys a minute, and revoke as many; repeats count.
KEYS_A_MINUTE, LIMITED = 10, 429
PATIENCE = 40  # seconds for which a client repeats a call with unknown outcome


class Account:
    """A tenant and its key."""

    def __init__(self, agent_id, reply, tier, made=None):
        self.agent_id = agent_id
        self.made = made or time.monotonic()
        self.id = reply["tenant_uuid"]
        self.key = reply["api_key"]
        self.tier = tier
        self.refused = 0


class Request:
    """A request, and the expected contents of its audit row."""

    def __init__(self, kind, body, account=None, path=MANAGE, key=None, headers=(), keeps=False):
        self.kind = kind
        self.keeps = keeps  # keep the data of a success
        self.path = path
        self.account = account
        self.key = key or (account.key if account else None)
        self.headers = headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        call = body if isinstance(body, dict) else {}
        self.action = call.get("action")
        self.dry_run = call.get("dry_run", False)
        self.idempotency_key = call.get("idempotency_key")
        self.params = call.get("params", {})
        self.name = self.params.get("name")
        self.model = self.name if self.action == CREATE else None
        self.new_key = self.name if self.action == CREATE_KEY else None
        self.agent = call.get("agent_id") if path == ONBOARD and not headers else None
        self.first = self  # the request that it repeats, with the key from an answer

    @property
    def has_given_key(self):
        """True if the idempotency key comes from an answer."""
        return self.first is not self

    @property
    def sent_key(self):
        return self.idempotency_key or dict(self.headers).get("Idempotency-Key")

    def again(self, key):
        """Returns the same request with that key."""
        if key == self.sent_key:
            return self
        body, headers = json.loads(self.body), self.headers
        if self.path == ONBOARD:
            headers = [("Idempotency-Key", key)]
        else:
            body["idempotency_key"] = key
        repeat = Request(self.first.kind + ", with the given key", body, self.account, self.path, self.key, headers)
        repeat.first, repeat.agent, repeat.keeps = self.first, self.first.agent, self.keeps
        return repeat


class Answer:
    """One recorded answer of a client."""

    __slots__ = ("request", "started", "ended", "status", "code", "request_id", "data", "fault", "web_server",
                 "named_key")

    def __init__(self, request, started):
        self.request = request
        self.started = started
        self.status = UNKNOWN
        self.web_server = False  # the web server answered instead of the program
        self.code = self.request_id = self.data = self.fault = None
        self.named_key = None  # the idempotency key for a repeat, from the answer

    @property
    def good(self):
        return self.status is not UNKNOWN and self.status < 300

    @property
    def unsure(self):
        """True if the call may or may not have been done."""
        return self.status is UNKNOWN or self.code == OUTCOME_UNKNOWN

    @property
    def open(self):
        """True if the answer to a repeat does not tell the outcome."""
        return self.status in (UNKNOWN, LIMITED, 500, 503) or self.code == "IDEMPOTENCY_CONFLICT"

    def __str__(self):
        request = self.request
        return "%s: %s %s, request_id %s, tenant %s, idempotency key %s, at %.3f s" % (
            request.kind, self.status or "no answer", self.code or "", self.request_id,
            request.account.id if request.account else "-", request.idempotency_key, self.started)


class Shared:
    """State shared by the clients: tenants, and idempotency keys that other clients may repeat."""

    def __init__(self, name, paid, free):
        self.name = name  # prefix of the models and keys of this run
        self.paid = paid
        self.hot = free  # free tenants whose allowance is being used up
        self.cold = []  # free tenants with no allowance left
        self.idle = []  # idle tenants
        self._made_keys = defaultdict(deque)  # tenant -> times at which it made its last keys
        self.lock = threading.Lock()
        self.keyed = []  # requests with an idempotency key
        self.onboarded = 0
        self.losses = []  # by restores of the database
        self.stopping = threading.Event()

    def free(self, choice):
        with self.lock:
            crowd = self.cold if choice.random() < 0.05 else []
            # A restore may have taken back all that have an allowance left.
            return choice.choice(self._left(crowd) or self._left(self.hot) or self._left(self.cold + self.paid))

    def any_paid(self, choice):
        with self.lock:
            return choice.choice(self._left(self.paid))

    def _left(self, accounts):
        return [account for account in accounts if not self.is_lost(account)]

    def is_lost(self, account):
        return any(loss.may_take(account.made) for loss in self.losses)

    def refuse(self, account):
        """Counts a 402. True for the one client that must onboard a successor."""
        with self.lock:
            account.refused += 1
            return account.refused == ENOUGH_REFUSALS

    def next_agent(self):
        with self.lock:
            self.onboarded += 1
            return "%s-free-%d" % (self.name, self.onboarded)

    def may_make_key(self, account):
        """True if the tenant may make a key now; counts it."""
        with self.lock:
            times = self._made_keys[account.id]
            while times and times[0] < time.monotonic() - 60:
                times.popleft()
            if len(times) >= KEYS_A_MINUTE:
                return False
            times.append(time.monotonic())
            return True

    def register(self, account):
        with self.lock:
            self.idle.append(account)

    def succeed(self, old, new):
        with self.lock:
            if old in self.hot:
                self.hot.remove(old)
                self.cold.append(old)
            self.hot.append(new)

    def accounts(self):
        with self.lock:
            return self.paid + self.hot + self.cold + self.idle

    def add_hot(self, accounts):
        with self.lock:
            self.hot += accounts

    def remember(self, request):
        with self.lock:
            self.keyed.append(request)

    def repeated(self, choice):
        """Returns a recent keyed request, so that repeats meet both running calls and replays."""
        with self.lock:
            return choice.choice(self.keyed[-50:]) if self.keyed else None


class Client:
    """A client with one kept-alive connection and its own seeded choices."""

    def __init__(self, shared, url, seed, number, thinks=0):
        parts = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self._choice = random.Random("%s/%d" % (seed, number))
        self._shared = shared
        self._thinks = thinks
        self.answers = []
        self.error = None

    # The mix ----------------------------------------------------------------------------------------------------------

    def _any(self):
        return self._shared.any_paid(self._choice)

    def _tenant(self):
        return self._any() if self._choice.random() < 0.6 else self._shared.free(self._choice)

    def _word(self):
        return "%s-%032x" % (self._shared.name, self._choice.getrandbits(128))

    def _model(self, **members):
        return {"action": CREATE, "params": {"name": self._word(), "model_type": "linear"}, **members}

    def _score_paid(self):
        return Request("score, paid", {"action": SCORE, "params": SCORE_PARAMS}, self._any())

    def _score_free(self):
        account = self._shared.free(self._choice)
        return Request("score, free", {"action": SCORE, "params": SCORE_PARAMS}, account)

    def _create(self):
        return Request("models.create", self._model(), self._tenant())

    def _list(self):
        return Request("models.list", {"action": LIST, "params": {"limit": self._choice.randint(1, 5)}}, self._tenant())

    def _version(self):
        return Request("meta.version", {"action": VERSION}, self._tenant())

    def _dry_run(self):
        body = self._model(dry_run=True)
        if self._choice.random() < 0.5:
            body = {"action": SCORE, "params": SCORE_PARAMS, "dry_run": True}
        return Request("dry run", body, self._tenant())

    def _keyed(self):
        """A call with an idempotency key: a new one, or one used before, sometimes for another request."""
        earlier = self._shared.repeated(self._choice)
        if earlier is None or self._choice.random() < 0.4:
            body = self._model(idempotency_key=self._word())
            if self._choice.random() < 0.4:
                body = {"action": SCORE, "params": SCORE_PARAMS, "idempotency_key": self._word()}
            request = Request("idempotency key, new", body, self._tenant())
            self._shared.remember(request)
            return request
        body = json.loads(earlier.body)
        if earlier.action == CREATE and self._choice.random() < 0.1:
            body["params"] = {**body["params"], "name": self._word()}
            return Request("idempotency key, other request", body, earlier.account)
        return Request("idempotency key, repeated", body, earlier.account)

    def _create_key(self):
        """A key creation without an idempotency key: only its answer has the new key."""
        account = self._any()
        if not self._shared.may_make_key(account):
            return self._create()
        return Request("keys.create", {"action": CREATE_KEY, "params": {
            "name": self._word(), "scopes": ["manage.read"]}}, account)

    def _onboard_plainly(self):
        """Onboarding without an Idempotency-Key: if the answer were lost, its agent_id could never be used again."""
        return Request("onboarding, no key", {"agent_id": self._word(), "email": "fault@example.com"}, path=ONBOARD)

    def _bad(self):
        account = self._tenant()
        return self._choice.choice([
            lambda: Request("bad: not JSON", b'{"action":', account),
            lambda: Request("bad: unknown member", {"action": VERSION, "dryrun": True}, account),
            lambda: Request("bad: unknown action", {"action": "no.such.action"}, account),
            lambda: Request("bad: params", {"action": SCORE, "params": {"leads": 1}}, account),
            lambda: Request("bad: no such model", {"action": SCORE, "params": {
                "model_id": "00000000-0000-4000-8000-000000000000", "leads": SCORE_PARAMS["leads"]}}, account),
            lambda: Request("bad: unknown key", {"action": VERSION}, None, key=account.key[:-1] + "!"),
            lambda: Request("bad: no key", {"action": VERSION})])()

    _MIX = [(_score_paid, 28), (_score_free, 20), (_create, 14), (_list, 7), (_version, 7), (_dry_run, 6), (_keyed, 12),
            (_bad, 6), (_create_key, 2), (_onboard_plainly, 0.3)]

    def _next(self):
        make, = self._choice.choices([make for make, _ in self._MIX], [weight for _, weight in self._MIX])
        return make(self)

    # One exchange -----------------------------------------------------------------------------------------------------

    def send(self, request):
        answer = Answer(request, time.monotonic())
        headers = {"Content-Type": "application/json", **dict(request.headers)}
        if request.key:
            headers["X-API-Key"] = request.key
        try:
            self._connection.request("POST", request.path, request.body, headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next request opens it again
        else:
            self._read(answer, response, body)
        answer.ended = time.monotonic()
        self.answers.append(answer)
        return answer

    def _read(self, answer, response, body):
        request_id = response.headers.get("X-Request-Id")
        if request_id is None:
            answer.web_server = True
            return
        answer.status = response.status
        answer.request_id = request_id
        try:
            reply = json.loads(body)
        except ValueError:
            answer.fault = "the body is not JSON: %r" % body[:200]
            return
        answer.code = reply.get("code")
        if reply.get("request_id") != request_id or reply.get("ok") is not (response.status < 400):
            answer.fault = "ok or request_id do not match the status and X-Request-Id: %r" % body[:200]
        answer.named_key = reply.get("idempotency_key") if answer.code == OUTCOME_UNKNOWN else None
        if answer.named_key and answer.request.sent_key not in (None, answer.named_key):
            answer.fault = "not the idempotency key that was sent: %r" % body[:200]
        if answer.request.model and answer.status == 200 and not answer.request.dry_run:
            answer.data = reply["data"].get("model_id")
        if (answer.request.new_key or answer.request.keeps) and answer.status == 200:
            answer.data = reply["data"]
        if answer.code == APPROVAL_REQUIRED:
            answer.data = reply.get("approval_id")
        if answer.status == 201:
            answer.data = reply

    # Life of a client -------------------------------------------------------------------------------------------------

    def run(self):
        try:
            while not self._shared.stopping.is_set():
                answer = self.ended(self.send(self._next()))
                if answer.status in (UNKNOWN, 503):
                    time.sleep(self._choice.uniform(0.02, 0.1))  # as a client would wait
                elif answer.status == 402 and self._shared.refuse(answer.request.account):
                    self._replace(answer.request.account)
                if self._thinks:
                    time.sleep(self._choice.uniform(0, self._thinks))
        except BaseException as error:  # reported by Load.stop()
            self.error = error

    def ended(self, answer):
        """Makes the follow-up calls that the answer asks for. Returns the last answer."""
        if answer.request.agent:
            return self._onboarded(answer)
        answer = self.known(answer)
        if answer.request.new_key and answer.good and answer.data.get("api_key_id"):
            self._revoke(answer.request.account, answer.data["api_key_id"])
        return answer

    def known(self, answer, end=None):
        """Repeats a call with the key from its answer until the outcome is known or the time is up. Returns the last
        answer."""
        request, end = answer.request, end or time.monotonic() + PATIENCE
        repeating = False
        while time.monotonic() < end and (answer.named_key or (repeating and answer.open)):
            time.sleep(self._choice.uniform(0.05, 0.3))
            request = request.again(answer.named_key) if answer.named_key else request
            repeating = True
            answer = self.send(request)
        return answer

    def done_once(self, answer):
        """Repeats a call: unchanged if nothing was done, or with the key from the answer if the outcome is
        unknown. Does nothing if there was no answer. Returns the last answer."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            answer = self.known(answer, end)
            if answer.status not in (500, 503) or answer.unsure:
                break
            time.sleep(self._choice.uniform(0.05, 0.3))
            answer = self.send(answer.request)
        return answer

    def _onboarded(self, answer):
        answer = self.done_once(answer)
        if answer.good:
            self._shared.register(Account(answer.request.agent, answer.data, "free"))
        return answer

    def _revoke(self, account, key_id):
        request = Request("keys.revoke", {"action": REVOKE_KEY, "params": {"api_key_id": key_id}}, account)
        end = time.monotonic() + PATIENCE
        while self.known(self.send(request), end).open and time.monotonic() < end:
            time.sleep(self._choice.uniform(0.05, 0.3))

    def _replace(self, old):
        account = self.onboard(self._shared.next_agent(), "free", self._shared.stopping)
        if account:
            self._shared.succeed(old, account)

    def onboard(self, agent_id, tier, stopping=None):
        """Repeats until done. With one Idempotency-Key every answer is the same."""
        request = Request("onboarding", {"agent_id": agent_id, "email": "fault@example.com"}, path=ONBOARD,
                          headers=[("Idempotency-Key", str(uuid.uuid5(uuid.NAMESPACE_OID, agent_id)))])
        while not (stopping and stopping.is_set()):
            answer = self.send(request)
            if answer.status in (200, 201):
                return Account(agent_id, answer.data, tier)
            # A 500 is a violation. The oracle reports it, and the run continues.
            check(answer.status in (UNKNOWN, 500, 503), "onboarding was refused: %s" % answer)
            time.sleep(0.05)
        return None


def pay(stack):
    """Returns what makes a tenant a paying one, without Stripe."""
    return lambda account: stack.ctl("tenant", "update", account.id, "--tier", "paid", "--payment-method", "active")


class Load:
    """Runs the given number of clients until stop(), and keeps their answers. thinks: longest pause between two calls,
    in seconds."""

    def __init__(self, url, clients, seed, name, thinks=0):
        self._shared = Shared(name, [], [])
        self._clients = [Client(self._shared, url, seed, number, thinks) for number in range(clients)]
        self._threads = [threading.Thread(target=client.run, daemon=True) for client in self._clients]

    def onboard(self, paid, free, upgrade):
        """Creates the initial tenants. upgrade(account) makes a tenant a paying one."""
        first, self._upgrade = self._clients[0], upgrade
        for number in range(paid):
            account = first.onboard("%s-paid-%d" % (self._shared.name, number), "paid")
            upgrade(account)
            self._shared.paid.append(account)
        for _ in range(free):
            self._shared.hot.append(first.onboard(self._shared.next_agent(), "free"))

    def tenant(self, name, hidden=False):
        """Creates a paying tenant that the clients do not use. hidden: others make its calls, and record no answers."""
        account = self._clients[0].onboard("%s-%s" % (self.name, name), "paid")
        self._upgrade(account)
        if not hidden:
            self._shared.register(account)
        return account

    def start(self):
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._shared.stopping.set()
        for thread in self._threads:
            thread.join(90)
        check(not any(thread.is_alive() for thread in self._threads), "a client did not end within 90 s")
        for client in self._clients:
            if client.error:
                raise client.error

    @property
    def name(self):
        return self._shared.name

    def accounts(self):
        return self._shared.accounts()

    def stand_by(self, url, seed):
        """Adds a client that calls only on request."""
        client = Client(self._shared, url, seed, len(self._clients))
        self._clients.append(client)
        return client

    def add_paid(self, account):
        with self._shared.lock:
            self._shared.paid.append(account)

    def since(self, moment):
        """Yields the answers to calls that began at that time or later, while the run continues. Raises the error of a
        client that has ended."""
        for client in list(self._clients):
            if client.error:
                raise client.error
            for number in range(len(client.answers) - 1, -1, -1):
                if client.answers[number].started < moment:
                    break
                yield client.answers[number]

    def all_answers(self):
        return sorted((answer for client in self._clients for answer in client.answers), key=lambda a: a.started)

    def answers(self):
        """Those that a restore of the database did not take back."""
        return remaining(self.all_answers(), self._shared.losses)

    @property
    def losses(self):
        return self._shared.losses

    def is_lost(self, account):
        """True if the account may be gone since a restore."""
        return self._shared.is_lost(account)

    def spare(self, client, count):
        """Free tenants that take the place of those that a restore will take back."""
        self._shared.add_hot([client.onboard(self._shared.next_agent(), "free") for _ in range(count)])
