"""Webhooks: contract 3 (pack webhooks: real signed delivery and retries), https://www.standardwebhooks.com/.

The receivers are HTTP servers of the test on loopback, which the settings of this file allow. The last tests show that
without these settings no private address is reached.
"""

import base64
import hashlib
import hmac
import http.server
import itertools
import json
import socket
import threading
import time

import pytest

from client import refused, succeeded
from fcgi import Responder
from database import METERED
from checks import check, equal, only_on, spread, until
from stack import EXTERNAL, end_quietly, stopped
from test_usage import LIMIT, clock_shifted

# Each of these tests onboards a few tenants, whatever the suite's other settings.
SETTINGS = {"webhook_allow_http": "on", "webhook_allow_private": "on", "webhook_poll_ms": "100",
            "onboard_per_ip": "100000", "onboard_total": "100000"}
STACK = {"settings": SETTINGS}  # conftest.py: the stack of each test here


class Request:
    def __init__(self, path, headers, body):
        self.path, self.headers, self.body = path, headers, body
        self.id = headers.get("webhook-id")

    @property
    def json(self):
        return json.loads(self.body)


class Receiver:
    """An HTTP server that records its requests; answer(request) returns the status of the reply, or a pair of status
    and more headers. A context manager."""

    def __init__(self, answer=lambda request: 204):
        self.requests = []
        self.together = 0  # the maximum number of concurrent requests with one id
        self.most = 0  # the maximum number of concurrent requests
        self._open = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(self.path, self.headers, body)
                outer._enter(request)
                status = answer(request)
                outer._leave(request)
                status, headers = status if isinstance(status, tuple) else (status, {})
                try:
                    self.send_response(status)
                    for name, value in {"Location": "/elsewhere", **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(b"x" * 4096)
                except OSError:
                    pass  # the sender was killed meanwhile

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = "http://127.0.0.1:%d/hook" % self._server.server_port

    def _enter(self, request):
        with self._lock:
            self.requests.append(request)
            self._open[request.id] = self._open.get(request.id, 0) + 1
            self.together = max(self.together, self._open[request.id])
            self.most = max(self.most, sum(self._open.values()))

    def _leave(self, request):
        with self._lock:
            self._open[request.id] -= 1

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def wait(self, count, seconds=15):
        until(seconds, "%d deliveries" % count, lambda: len(self.requests) >= count)
        return self.requests

    def events(self):
        return sorted(request.json["type"] for request in self.requests)


class Tarpit:
    """A server that takes connections and never ends an answer: it sends pieces, one every half second, while there are
    any. A context manager."""

    def __init__(self, pieces=()):
        self.connections = []
        self._pieces = list(pieces)
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = "http://127.0.0.1:%d/hook" % self._listener.getsockname()[1]

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            if self._pieces:
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        try:
            connection.recv(65536)
            for piece in itertools.cycle(self._pieces):
                connection.sendall(piece)
                if self._ended.wait(0.5):
                    return
        except OSError:
            pass  # the sender gave up

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.close()


def queue(bench, tenant, count, *hooks):
    """Makes this number of deliveries to each webhook, which are due now."""
    bench.db.execute("insert into acp.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, payload, status, "
                     "next_attempt_at, created_at) select :'id', gen_random_uuid(), hook::uuid, 'webhook.test', '{}', "
                     "'pending', acp.now(), acp.now() from unnest(string_to_array(:'hooks', ' ')) hook, "
                     "generate_series(1, :'count'::int)", id=tenant.id, count=count,
                     hooks=" ".join(hook["webhook_id"] for hook in hooks))


def signature(secret, request):
    """The signature according to Standard Webhooks, computed independently of the program."""
    key = base64.b64decode(secret[len("whsec_"):])
    stamp = request.headers["webhook-timestamp"]
    text = b"%s.%s.%s" % (request.id.encode(), stamp.encode(), request.body)
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def verify(secret, request):
    check(signature(secret, request) in request.headers["webhook-signature"].split(" "),
          "the signature %s does not verify" % request.headers["webhook-signature"])


def create(bench, tenant, url, *events):
    """Creates a webhook; returns the data of the reply, with its secret."""
    return succeeded(bench.call(tenant.key, "webhooks.create", {"url": url, "events": list(events)})).data


def deliveries(bench, tenant, **params):
    return succeeded(bench.call(tenant.key, "webhooks.deliveries", params)).data


def test_delivery(bench):
    """Contract 3: a test delivery arrives signed, with type, timestamp and data. webhooks.deliveries shows its
    outcome."""
    tenant = bench.onboard()
    with Receiver() as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        check(len(base64.b64decode(hook["secret"][len("whsec_"):], validate=True)) == 32, "secret of 32 bytes")
        made = succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]})).data
        request = receiver.wait(1)[0]
        verify(hook["secret"], request)
        check(signature("whsec_" + base64.b64encode(b"x" * 32).decode(), request) not in
              request.headers["webhook-signature"], "any secret verifies the signature")
        equal((request.path, request.id, request.headers["Content-Type"]),
              ("/hook", made["delivery_id"], "application/json"), "path, webhook-id, type")
        equal((request.json["type"], request.json["data"]["webhook_id"], set(request.json)),
              ("webhook.test", hook["webhook_id"], {"type", "timestamp", "data"}), "payload")
        check(abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60, "webhook-timestamp")
        done = until(10, "it is delivered",
                     lambda: deliveries(bench, tenant, webhook_id=hook["webhook_id"], status="delivered"))
        equal((done[0]["delivery_id"], done[0]["attempts"], done[0]["last_status"], done[0]["last_error"]),
              (made["delivery_id"], 1, 204, None), "the delivery, as listed")
    equal(len(receiver.requests), 1, "requests")


def test_key_events(bench):
    """Contract 3: webhooks that subscribe to key events receive created, rotated and revoked keys, without any
    secret."""
    tenant = bench.onboard()
    with Receiver() as all_of_them, Receiver() as revoked:
        create(bench, tenant, all_of_them.url, "*")
        create(bench, tenant, revoked.url, "key.revoked")
        made = succeeded(bench.call(tenant.key, "iam.keys.create", {"name": "k", "scopes": ["manage.read"]})).data
        turned = succeeded(bench.call(tenant.key, "iam.keys.rotate", {"api_key_id": made["api_key_id"]})).data
        for _ in range(2):
            succeeded(bench.call(tenant.key, "iam.keys.revoke", {"api_key_id": turned["api_key_id"]}))
        all_of_them.wait(3)
        revoked.wait(1)
        time.sleep(0.5)
        equal((all_of_them.events(), revoked.events()),
              (["key.created", "key.revoked", "key.rotated"], ["key.revoked"]), "events")
        told = {request.json["type"]: request.json["data"]["api_key_id"] for request in all_of_them.requests}
        equal(told, {"key.created": made["api_key_id"], "key.rotated": turned["api_key_id"],
                     "key.revoked": turned["api_key_id"]}, "keys")
        text = b"".join(request.body for request in all_of_them.requests).decode()
        secrets = (made["api_key"], turned["api_key"], "whsec_")
        check(not any(secret in text for secret in secrets), "a secret in a payload")


def test_undone_calls_tell_nobody(bench):
    """Design: an event is sent only for an effect: a refused call or a dry run sends nothing."""
    tenant = bench.onboard()
    with Receiver() as receiver:
        create(bench, tenant, receiver.url, "*")
        params = {"name": "k", "scopes": ["manage.read"]}
        impact = succeeded(bench.call(tenant.key, "iam.keys.create", params, dry_run=True)).data
        equal([effect["event"] for effect in impact["side_effects"]], ["key.created"], "side_effects")
        refused(bench.call(tenant.key, "iam.keys.create", {**params, "expires_at": "2001-01-01T00:00:00Z"}), 400,
                "VALIDATION_ERROR")
        equal(deliveries(bench, tenant), [], "deliveries")


def test_retry(bench):
    """Contract 3: after a 500 a delivery is retried about 5 s later, with the same id and body and a new, valid
    signature."""
    tenant = bench.onboard()
    arrivals = []

    def answer(_):
        arrivals.append(time.monotonic())
        return 500 if len(arrivals) == 1 else 200

    with Receiver(answer) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        receiver.wait(1)
        failed = until(10, "the failure is stored",
                       lambda: [d for d in deliveries(bench, tenant) if d["last_status"]])[0]
        equal((failed["status"], failed["attempts"], failed["last_status"]), ("pending", 1, 500), "the first attempt")
        check(failed["last_error"] and failed["next_attempt_at"], "last_error and next_attempt_at: %r" % failed)
        first, second = receiver.wait(2)
        check(4 < arrivals[1] - arrivals[0] < 7.5, "the second attempt came after %.1f s" % (arrivals[1] - arrivals[0]))
        equal((second.id, second.body), (first.id, first.body), "id and body")
        check(int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"]), "webhook-timestamp")
        verify(hook["secret"], first)
        verify(hook["secret"], second)
        done = until(10, "it is delivered", lambda: deliveries(bench, tenant, status="delivered"))
        equal((done[0]["attempts"], done[0]["last_error"]), (2, None), "attempts, last_error")


def test_redirects_are_not_followed(bench):
    """Design: a redirect counts as a failed attempt and is not followed."""
    tenant = bench.onboard()
    with Receiver(lambda _: 307) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        until(10, "the failure is stored", lambda: [d for d in deliveries(bench, tenant) if d["last_status"] == 307])
        equal([request.path for request in receiver.requests], ["/hook"], "requested paths")
    succeeded(bench.call(tenant.key, "webhooks.delete", {"webhook_id": hook["webhook_id"]}))


def test_gone(bench):
    """410 Gone disables the webhook; it can be enabled again."""
    tenant = bench.onboard()
    with Receiver(lambda _: 410) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")["webhook_id"]
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook}))
        listed = lambda: succeeded(bench.call(tenant.key, "webhooks.list")).data[0]
        until(10, "it is disabled", lambda: listed()["status"] == "disabled")
        check("410" in listed()["disabled_reason"], "disabled_reason")
        equal(deliveries(bench, tenant)[0]["status"], "failed", "status of the delivery")
        refused(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook}), 400, "VALIDATION_ERROR",
                "/params/webhook_id")
        succeeded(bench.call(tenant.key, "iam.keys.create", {"name": "k", "scopes": ["manage.read"]}))
        equal(len(deliveries(bench, tenant)), 1, "deliveries of a disabled webhook")
        succeeded(bench.call(tenant.key, "webhooks.update", {"webhook_id": hook, "status": "active"}))
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook}))
        receiver.wait(2)


def test_secret_is_shown_once(bench):
    """Contract 3: a secret is only in the reply that creates it. After a rotation both secrets sign for a while."""
    tenant = bench.onboard()
    with Receiver() as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        one = {"webhook_id": hook["webhook_id"]}
        rename = succeeded(bench.call(tenant.key, "webhooks.update", {**one, "description": "d"})).data
        turned = succeeded(bench.call(tenant.key, "webhooks.update", {**one, "rotate_secret": True})).data
        check("secret" not in rename and turned["secret"] != hook["secret"], "secrets: %r, %r" % (rename, turned))
        succeeded(bench.call(tenant.key, "webhooks.test", one))
        request = receiver.wait(1)[0]
        equal(len(request.headers["webhook-signature"].split(" ")), 2, "signatures after a rotation")
        verify(hook["secret"], request)
        verify(turned["secret"], request)
        shown = bench.call(tenant.key, "webhooks.list").body + bench.call(tenant.key, "webhooks.deliveries").body
        stored = bench.db.dump()
        for secret in (hook["secret"], turned["secret"]):
            raw = base64.b64decode(secret[len("whsec_"):])
            check(secret.encode() not in shown, "a list shows the secret")
            check(secret[len("whsec_"):] not in stored and raw.hex() not in stored, "the database has the secret")


def test_replayed_create(bench):
    """Contract 3: with one idempotency key one webhook is created, and the replay returns the same secret."""
    tenant = bench.onboard()
    params = {"url": "https://example.com/hook", "events": ["*"]}
    first, second = [bench.call(tenant.key, "webhooks.create", params, idempotency_key="w") for _ in range(2)]
    equal((second.code, second.data), ("IDEMPOTENT_REPLAY", first.data), "the replay")
    equal(len(succeeded(bench.call(tenant.key, "webhooks.list")).data), 1, "webhooks")


def test_urls(bench):
    """URLs with user and password, other schemes and invalid URLs are refused when a webhook is created or
    changed."""
    tenant = bench.onboard()
    hook = create(bench, tenant, "https://example.com/", "*")["webhook_id"]
    for url in ["ftp://example.com/", "https://u:p@example.com/", "https://", "example.com", "https://example.com/#x",
                "https://exa mple.com/", "https://example.com:99999/", "https://bücher.example/"]:
        for action, params in [("create", {"url": url, "events": ["*"]}), ("update", {"webhook_id": hook, "url": url})]:
            refused(bench.call(tenant.key, "webhooks." + action, params), 400, "VALIDATION_ERROR", "/params/url")
    params = {"url": "https://example.com/", "events": ["*", "nothing"]}
    refused(bench.call(tenant.key, "webhooks.create", params), 400, "VALIDATION_ERROR", "/params/events/1")


def test_ceiling(bench):
    """Contract 3: a tenant has at most 20 webhooks, even if created concurrently. The refusal is audited as
    denied."""
    tenant = bench.onboard()
    params = {"url": "https://example.com/hook", "events": ["usage.*"]}
    replies = spread(8, range(24), lambda _: bench.call(tenant.key, "webhooks.create", params))
    equal(sorted(reply.status for reply in replies), [200] * 20 + [403] * 4, "statuses")
    over = [refused(reply, 403, "CEILING_EXCEEDED") for reply in replies if reply.status == 403]
    bench.audit_each(over, status="denied")
    equal(len(succeeded(bench.call(tenant.key, "webhooks.list")).data), 20, "webhooks")


def test_scope(bench):
    """Contract 3: every action of the pack needs manage.webhooks."""
    tenant = bench.onboard()
    reader, _ = bench.make_key(tenant, "manage.read manage.iam")
    for action in ("list", "create", "update", "delete", "test", "deliveries"):
        bench.audit(refused(bench.call(reader, "webhooks." + action), 403, "SCOPE_DENIED"), status="denied")


def test_other_tenants(bench):
    """Another tenant's webhook gets NOT_FOUND for every action and stays unchanged."""
    owner, other = bench.onboard(), bench.onboard()
    hook = create(bench, owner, "https://example.com/", "usage.*")
    one = {"webhook_id": hook["webhook_id"]}
    for action, more in [("update", {"url": "https://example.org/"}), ("update", {"rotate_secret": True}),
                         ("delete", {}), ("test", {}), ("deliveries", {})]:
        for dry_run in {False, action != "deliveries"}:
            refused(bench.call(other.key, "webhooks." + action, {**one, **more}, dry_run=dry_run), 404, "NOT_FOUND")
    equal(succeeded(bench.call(other.key, "webhooks.list")).data, [], "the other's list")
    shown = {name: value for name, value in hook.items() if name != "secret"}
    equal(succeeded(bench.call(owner.key, "webhooks.list")).data, [shown], "the owner's list")


def test_dry_runs(bench):
    """Contract 3: a dry run lists what would change. It changes nothing except for its audit row."""
    tenant = bench.onboard()
    hook = create(bench, tenant, "https://example.com/a", "usage.*")["webhook_id"]
    before = bench.db.fingerprints(without=METERED)
    new = {"url": "https://example.com/b", "events": ["key.*"]}
    one = {"webhook_id": hook}
    calls = [("create", new), ("update", {**one, **new, "events": ["usage.*"]}), ("delete", one), ("test", one)]
    impacts = [succeeded(bench.call(tenant.key, "webhooks." + action, params, dry_run=True)).data
               for action, params in calls]
    equal(bench.db.fingerprints(without=METERED), before, "tables")
    named = [{kind: impact[kind] for kind in ("creates", "updates", "deletes") if impact[kind]} for impact in impacts]
    equal(named, [
        {"creates": [{"type": "webhook", **new, "description": None, "count": 1}]},
        {"updates": [{"type": "webhook", "webhook_id": hook, "changes": {"url": new["url"]}}]},
        {"deletes": [{"type": "webhook", "webhook_id": hook, "url": "https://example.com/a", "count": 1}]},
        {"creates": [{"type": "webhook_delivery", "event": "webhook.test", "webhook_id": hook,
                      "url": "https://example.com/a", "count": 1}]}], "impacts")
    check(not any("secret" in impact for impact in impacts), "a dry run returned a secret")


def test_usage_events(bench):
    """During 120 calls by 16 clients, usage.warning is sent once, at the 90th call, and usage.limit_reached
    once."""
    tenant = bench.onboard()
    with Receiver() as receiver:
        hook = create(bench, tenant, receiver.url, "usage.*")
        replies = spread(16, range(LIMIT + 20), lambda _: bench.score(tenant.key))
        equal(sorted({reply.status for reply in replies}), [200, 402], "statuses")
        receiver.wait(2)
        time.sleep(1)
        equal(receiver.events(), ["usage.limit_reached", "usage.warning"], "events")
        sent = {request.json["type"]: request.json["data"] for request in receiver.requests}
        numbers = [(sent[name]["calls_used"], sent[name]["calls_remaining"])
                   for name in ("usage.warning", "usage.limit_reached")]
        equal(numbers, [(90, 10), (LIMIT, 0)], "calls_used, calls_remaining")
        for request in receiver.requests:
            verify(hook["secret"], request)


def test_one_sender_at_a_time(bench):
    """Several processes share the queue; each delivery is sent once, by one of them."""
    tenant = bench.onboard()
    with Receiver(lambda _: time.sleep(0.03) or 200) as receiver, Responder(bench.stack, processes="4", **SETTINGS):
        for number in range(4):
            create(bench, tenant, receiver.url, "key.*")
        for reply in spread(4, range(15), lambda n: bench.call(tenant.key, "iam.keys.create",
                                                               {"name": str(n), "scopes": ["manage.read"]})):
            succeeded(reply)
        receiver.wait(60, 30)
        until(10, "all are delivered", lambda: len(deliveries(bench, tenant, status="delivered")) == 60)
        time.sleep(0.5)
        ids = [request.id for request in receiver.requests]
        equal((len(ids), len(set(ids)), receiver.together), (60, 60, 1),
              "requests, ids, concurrent requests with one id")


def test_crashed_sender(bench):
    """A delivery of a crashed process is sent again after its lease, not before, with the same id."""
    bench.need_own_stack("kills processes")
    tenant = bench.onboard()
    release = threading.Event()
    with Receiver(lambda _: release.wait(20) and 200) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        receiver.wait(1)
        end_quietly(bench.stack.responders())
        release.set()
        until(20, "it serves again", lambda: bench.get("/readyz").status == 200)
        succeeded(bench.call(tenant.key, "meta.version"))
        time.sleep(1.5)
        equal(len(receiver.requests), 1, "requests within the lease")
        with clock_shifted(bench, "61 s"):
            first, second = receiver.wait(2)
            until(10, "it is delivered", lambda: deliveries(bench, tenant, status="delivered"))
        equal((second.id, second.body), (first.id, first.body), "id and body")
        verify(hook["secret"], second)


def test_slow_receivers_of_another_tenant(bench):
    """Contract 6: whatever the receivers of one tenant do, the deliveries of another arrive soon."""
    slow, other = bench.onboard(), bench.onboard()
    headers = [b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"]
    with Tarpit() as silent, Tarpit([b"H"]) as dripping, Tarpit(headers) as endless, \
            Receiver(lambda _: time.sleep(14) or 204) as late, Receiver() as receiver:
        hooks = [create(bench, slow, where.url, "key.*") for where in (silent, dripping, endless, late)]
        queue(bench, slow, 50, *hooks)
        until(20, "the slow receivers are busy", lambda: all(
            [silent.connections, dripping.connections, endless.connections, late.requests]))
        hook = create(bench, other, receiver.url, "key.*")
        for number in range(1, 6):
            succeeded(bench.call(other.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
            receiver.wait(number, 8)  # the promise is 2 s on an idle machine; with one sender for all it took minutes
        running = bench.db.value("select count(*) from acp.webhook_leases where tenant_id = :'id'", id=slow.id)
        check(int(running) <= 8, "deliveries of one tenant that are sent at a time: %s" % running)
        for hook in hooks:
            succeeded(bench.call(slow.key, "webhooks.delete", {"webhook_id": hook["webhook_id"]}))


def test_share_over_processes(bench):
    """Contract 6: of one tenant 8 deliveries are sent at a time, over all processes; deleting the webhook frees no
    sender before its attempt ends."""
    tenant = bench.onboard()
    with Receiver(lambda _: time.sleep(1) or 204) as receiver, Responder(bench.stack, processes="4", **SETTINGS):
        hook = create(bench, tenant, receiver.url, "key.*")
        queue(bench, tenant, 24, hook)
        receiver.wait(8)
        succeeded(bench.call(tenant.key, "webhooks.delete", {"webhook_id": hook["webhook_id"]}))
        queue(bench, tenant, 16, create(bench, tenant, receiver.url, "key.*"))
        receiver.wait(24, 30)
        equal((receiver.most, receiver.together), (8, 1), "concurrent requests, concurrent requests with one id")
        until(10, "all are delivered", lambda: len(deliveries(bench, tenant, status="delivered")) == 16)


def test_an_outcome_that_cannot_be_recorded(bench):
    """If the database refuses the outcome of one delivery, those that ended together with it are still recorded: none
    of them is sent again."""
    bench.need_own_stack("adds a trigger to the database")
    tenant = bench.onboard()
    release = threading.Event()
    with Receiver(lambda _: release.wait(20) and 200) as receiver:
        bad, good = create(bench, tenant, receiver.url, "key.*"), create(bench, tenant, receiver.url, "key.*")
        bench.db.execute("create function public.refuse() returns trigger language plpgsql as "
                         "'begin raise exception ''refused''; end'; create trigger refuse before update on "
                         "acp.webhook_deliveries for each row when (new.status = 'delivered' and new.webhook_id = '%s') "
                         "execute function public.refuse()" % bad["webhook_id"])
        try:
            queue(bench, tenant, 3, bad, good)
            receiver.wait(6)
            with stopped(bench.stack.responders()):
                release.set()
                time.sleep(0.5)  # when the senders go on, all receivers have answered
            until(10, "the others are recorded", lambda: len(deliveries(bench, tenant, status="delivered")) == 3)
            equal({one["webhook_id"] for one in deliveries(bench, tenant, status="delivered")}, {good["webhook_id"]},
                  "their webhook")
        finally:
            bench.db.execute("drop trigger refuse on acp.webhook_deliveries; drop function public.refuse()")


def test_receiver_asks_for_a_pause(bench):
    """A receiver that answers 429 or 503 with Retry-After gets nothing before: neither that delivery nor another."""
    tenant = bench.onboard()
    with Receiver(lambda _: (429, {"Retry-After": "120"})) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        until(10, "the answer is stored", lambda: [d for d in deliveries(bench, tenant) if d["last_status"] == 429])
        due = "select next_attempt_at - acp.now() between interval '100 s' and interval '120 s' and attempts = 1 " \
              "from acp.webhook_deliveries where tenant_id = :'id'"
        equal(bench.db.value(due, id=tenant.id), True, "the next attempt is 120 s later")
        succeeded(bench.call(tenant.key, "iam.keys.create", {"name": "k", "scopes": ["manage.read"]}))
        with clock_shifted(bench, "30 s"):
            time.sleep(1)
            equal(len(receiver.requests), 1, "requests within the pause")
        with clock_shifted(bench, "121 s"):
            receiver.wait(3)


def test_endless_answer(bench):
    """A receiver's answer counts by its status: one that never ends is delivered all the same."""
    tenant = bench.onboard()
    with Tarpit([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 4000000]) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        done = until(10, "it is delivered", lambda: deliveries(bench, tenant, status="delivered"))[0]
        equal((done["attempts"], done["last_status"], done["last_error"]), (1, 200, None), "the delivery")


@pytest.mark.slow
def test_ceiling_of_pending_deliveries(bench):
    """Contract 6: of 20 tests by 16 clients as many are queued as may wait; the others are refused and audited."""
    bench.arrange({**SETTINGS, "ceiling_deliveries": "15"})
    tenant, other = bench.onboard(), bench.onboard()
    hook = {"webhook_id": create(bench, tenant, "http://127.0.0.1:9/", "key.*")["webhook_id"]}
    replies = spread(16, range(20), lambda _: bench.call(tenant.key, "webhooks.test", hook))
    equal(sorted(reply.status for reply in replies), [200] * 15 + [403] * 5, "statuses")
    over = [refused(reply, 403, "CEILING_EXCEEDED") for reply in replies if reply.status == 403]
    bench.audit_each(over, status="denied")
    equal(len(deliveries(bench, tenant)), 15, "deliveries")
    another = {"webhook_id": create(bench, other, "http://127.0.0.1:9/", "key.*")["webhook_id"]}
    succeeded(bench.call(other.key, "webhooks.test", another))


@only_on(EXTERNAL, "the others start its processes themselves")
@pytest.mark.slow
def test_graceful_stop(bench):
    """SIGTERM ends an idle process at once, and a sending process after its delivery, unless the receiver is slow."""
    tenant = bench.onboard()
    with Receiver(lambda _: time.sleep(2) or 200) as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        receiver.wait(1)
        bench.stack.restart_responder()
        equal(len(deliveries(bench, tenant, status="delivered")), 1, "deliveries that ended with the process")
    with Receiver(lambda _: time.sleep(14) or 200) as slow:
        hook = create(bench, tenant, slow.url, "key.*")
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        slow.wait(1)
        start = time.monotonic()
        bench.stack.restart_responder()
        check(time.monotonic() - start < 8, "a slow receiver delayed the restart: %.1f s" % (time.monotonic() - start))
    with Responder(bench.stack, **{**SETTINGS, "webhook_poll_ms": "60000"}) as idle:
        start = time.monotonic()
        idle.process.terminate()
        equal(idle.process.wait(20), 0, "exit status")
        check(time.monotonic() - start < 2, "an idle process took %.1f s to stop" % (time.monotonic() - start))


# Other settings -------------------------------------------------------------------------------------------------------

def test_private_address_at_delivery(bench):
    """An address that is private at the time of delivery is refused, whatever was allowed before."""
    tenant = bench.onboard()
    with Receiver() as receiver:
        hook = create(bench, tenant, receiver.url, "key.*")
        bench.arrange({**SETTINGS, "webhook_allow_private": "off"})
        succeeded(bench.call(tenant.key, "webhooks.test", {"webhook_id": hook["webhook_id"]}))
        failed = until(10, "the failure is stored",
                       lambda: [d for d in deliveries(bench, tenant) if d["last_error"]])[0]
        equal((failed["status"], failed["last_status"]), ("pending", None), "status")
        equal(receiver.requests, [], "requests")
    succeeded(bench.call(tenant.key, "webhooks.delete", {"webhook_id": hook["webhook_id"]}))


def test_default_settings(bench):
    """By default only https:// URLs are accepted, and none with a literal private address or localhost."""
    bench.arrange()
    tenant = bench.onboard()
    for url in ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1:8443/x",
                "https://127.1/", "https://2130706433/", "https://localhost/", "https://169.254.169.254/latest",
                "https://[::ffff:10.0.0.1]/"]:
        refused(bench.call(tenant.key, "webhooks.create", {"url": url, "events": ["*"]}), 400, "VALIDATION_ERROR",
                "/params/url")
    create(bench, tenant, "https://example.com/hook", "usage.*")
