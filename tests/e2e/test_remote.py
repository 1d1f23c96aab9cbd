"""A kernel A whose hub is another acp-fcgi: contract 3 (fail-open usage, fail-closed writes). Nothing is
lost."""

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid

import pytest

from client import CREATE, NIL, ONBOARD, SCORE, SCORE_PARAMS, refused, succeeded
from database import with_user
from fcgi import Responder
from checks import check, equal, only_on, parallel, until
from hub import Hub
from test_actions_dir import Folder, Upstream, action
from stack import EXTERNAL, children, end_quietly, is_running
from scratch import migrated_database

MODEL = {"name": "m", "model_type": "linear", "weights": {"a": 1}}
LIST = "domain.leadscoring.models.list"
JSON = {"Content-Type": "application/json"}
WAITING = "select count(*) from pg_stat_activity where usename = 'acp_app' and wait_event_type = 'Lock'"
ASKED_AGAIN = 1  # seconds; each process stops calling a hub that did not answer for half a second


def received(connection):
    """What a connection has received and nobody has read."""
    try:
        return connection.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


class Line:
    """The network between A and the hub: a TCP forwarder that can refuse connections ("refuse") or stop ("hang")."""

    def __init__(self, host, port):
        self._target = (host, port)
        self._mode = "pass"
        self._open = set()
        self._lock = threading.Lock()
        self.connections = 0
        self.back = -ASKED_AGAIN
        self._listen()
        self.port = self._listener.getsockname()[1]

    def _listen(self, port=0):
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._keep(near)
            if self._mode == "pass":
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _keep(self, connection):
        with self._lock:
            self._open.add(connection)

    def _connect(self, near):
        try:
            far = socket.create_connection(self._target, timeout=60)
        except OSError:
            near.close()
            return
        self._keep(far)
        threading.Thread(target=self._copy, args=(far, near), daemon=True).start()
        self._copy(near, far)

    def _copy(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _drop(self):
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._open.clear()

    def holds(self, text):
        """Whether a stopped connection has received the text."""
        with self._lock:
            return any(text.encode() in received(connection) for connection in self._open)

    def set(self, mode):
        was, self._mode = self._mode, mode
        if mode == "refuse" and was != "refuse":
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        elif was == "refuse" and mode != "refuse":
            self._listen(self.port)
        self._drop()
        if mode == "pass" != was:
            self.back = time.monotonic()

    def close(self):
        self.set("refuse")


class Kernel:
    """Kernel A: a responder with its own database, called on its socket."""

    def __init__(self, bench, responder, database, line):
        self.bench, self.responder, self.db, self.line = bench, responder, database, line

    def request(self, method, path, body=None, key=None, headers=()):
        more = {**JSON, **dict(headers), **({"X-API-Key": key} if key else {})}
        return self.responder.ask(method, path, b"" if body is None else json.dumps(body).encode(), more)

    def call(self, key, action, params=None, **members):
        return self.request("POST", "/api/manage", {"action": action, "params": params or {}, **members}, key)

    def score(self, key):
        return self.call(key, SCORE, SCORE_PARAMS)

    def onboard(self, headers=(), **more):
        body = {"agent_id": self.bench.agent_id(), "email": "agent@example.com", **more}
        return self.request("POST", ONBOARD, body, headers=headers)

    def tenant(self):
        reply = succeeded(self.onboard(), 201)
        return reply.json["tenant_uuid"], reply.json["api_key"]

    def waiting(self):
        return self.db.value("select count(*) from acp.audit_outbox")

    def audit(self, reply):
        return self.db.row("select * from acp.audit_logs where request_id = :'id'", id=reply.request_id)

    def delivered(self, seconds=15, given_away=0):
        """Waits until the hub has every row, and checks that the rows are the same in both databases, except for those
        that the hub gave away. One process delivers for all; the others may consider the hub down a little longer."""
        until(seconds, "the outbox is empty", lambda: self.waiting() == 0)
        time.sleep(max(0, self.line.back + ASKED_AGAIN - time.monotonic()))
        columns = "event_id, request_id, ts, tenant_id, integration, action, status, billable, tier, billing_quantity, result_meta"
        ours = self.db.rows("select %s from acp.audit_logs order by event_id" % columns)
        ids = "{%s}" % ",".join(row["event_id"] for row in ours)
        theirs = self.bench.db.rows("select %s from acp.audit_logs where event_id = any (:'ids'::uuid[]) order by event_id"
                                    % columns, ids=ids)
        over = [row for row in theirs if (row["result_meta"] or {}).get("usage_check") == "failed_open_over_limit"]
        equal([row["billable"] for row in over], [False] * given_away, "calls given away")
        for row in over:
            row.update(billable=True, result_meta={**row["result_meta"], "usage_check": "failed_open"})
        equal(theirs, ours, "rows of the hub")
        return ours


class CopiedProgram:
    """The stack's settings with a copy of the program, so that a search for the hub's processes by their file finds
    only those."""

    def __init__(self, stack, folder):
        self.sbin = folder
        self.setting = stack.setting
        shutil.copy(os.path.join(stack.sbin, "acp.fcgi"), folder)


@contextlib.contextmanager
def kernel_a(bench, **settings):
    hub = Hub(bench)
    line = Line(bench.http.host, bench.http.port)
    try:
        with migrated_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
            url = "http://127.0.0.1:%d%s" % (line.port, bench.http.prefix)
            options = {"database_url": with_user(database.url, "acp_app"), "hub_url": url, "hub_key": hub.key,
                       "kernel_id": "e2e-kernel-a", "key_pepper": "a" * 64, "key_pepper_file": None,
                       "onboard_per_ip": "100000", **settings}
            with Responder(CopiedProgram(bench.stack, folder), **options) as responder:
                yield Kernel(bench, responder, database, line)
    finally:
        line.close()


def hub_quota(bench, tenant):
    rows = bench.db.rows("select used, reserved from acp.usage_quota where tenant_id = :'id'", id=tenant)
    return (rows[0]["used"], rows[0]["reserved"]) if rows else (0, 0)


def hub_calls(bench, tenant):
    return succeeded(Hub(bench).post("usage", {"tenant_id": tenant})).json["calls_used"]


@contextlib.contextmanager
def policy(bench, tenant, decision, **more):
    """Publishes a policy for a tenant at the hub; disables it at the end."""
    number = str(uuid.uuid4())
    text = json.dumps({"name": "e2e", "decision": decision, "action": CREATE, **more})
    bench.db.execute("select acp.policy_add(:'id', :'tenant', :'policy')", id=number, tenant=tenant, policy=text)
    try:
        yield number
    finally:
        bench.db.execute("select acp.policy_enable(:'id', false)", id=number)


# With the hub --------------------------------------------------------------------------------------------------------

def test_tenants_are_the_hub_s(bench):
    """Contract 2.1: onboarding at A first creates the tenant at the hub. The key works only at A."""
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        here = a.db.row("select agent_id from acp.tenants where tenant_id = :'id'", id=tenant)
        there = bench.db.row("select agent_id from acp.tenants where tenant_id = :'id'", id=tenant)
        equal(there, here, "tenant")
        succeeded(a.call(key, "meta.version"))
        refused(bench.call(key, "meta.version"), 401, "INVALID_API_KEY")
        again = a.request("POST", ONBOARD, {"agent_id": here["agent_id"], "email": "agent@example.com"})
        refused(again, 409, "ALREADY_ONBOARDED")
        check("api_key" not in again.json, "a second onboarding returned a key")
        taken = bench.onboard()
        refused(a.onboard(agent_id=taken.agent_id), 409, "ALREADY_ONBOARDED")
        a.delivered()


def test_onboarding_replays(bench):
    """Contract 2.1: with an Idempotency-Key the same key is returned again, even through a hub."""
    with kernel_a(bench) as a:
        body = {"agent_id": bench.agent_id(), "email": "agent@example.com"}
        header = {"Idempotency-Key": str(uuid.uuid4())}
        replies = [a.request("POST", ONBOARD, body, headers=header) for _ in range(2)]
        equal({(r.status, r.json["api_key"], r.json["tenant_uuid"]) for r in replies}.__len__(), 1, "different replies")
        # An incomplete onboarding: the hub has the tenant, A does not.
        a.db.execute("truncate acp.api_keys, acp.key_lookup, acp.tenants, acp.agents, acp.idempotency cascade")
        finished = a.request("POST", ONBOARD, body)
        equal(succeeded(finished, 201).json["tenant_uuid"], replies[0].json["tenant_uuid"], "tenant of the second try")


def test_other_kernels_get_no_key_to_it(bench):
    """Contract 2.1: agent_id and e-mail are not enough to get a key to a tenant of another kernel of the same hub."""
    with kernel_a(bench) as a:
        body = {"agent_id": bench.agent_id(), "email": "agent@example.com"}
        succeeded(a.request("POST", ONBOARD, body), 201)
        with kernel_a(bench, key_pepper="b" * 64) as b:
            refused(b.request("POST", ONBOARD, body), 409, "ALREADY_ONBOARDED")


def test_usage_is_exact_over_kernels(bench):
    """Contract 3: with concurrent calls on two kernels of one hub, the allowance is never exceeded. Refusals use
    nothing."""
    # The timeout is long, because calls would proceed without a slow hub.
    with kernel_a(bench, hub_timeout_ms="60000") as a:
        tenant, key = a.tenant()
        bench.db.execute("update acp.tenants set calls_limit = 7 where tenant_id = :'id'", id=tenant)
        hub_key, _ = bench.make_key(type("T", (), {"id": tenant}), "manage.domain")
        replies = parallel(20, lambda n: a.score(key) if n % 2 else bench.score(hub_key))
        codes = [reply.code for reply in replies]
        equal((codes.count(None), codes.count("UPGRADE_REQUIRED")), (7, 13), "successes, refusals")
        a.delivered()
        equal(hub_quota(bench, tenant), (7, 0), "used, reserved")
        equal(hub_calls(bench, tenant), 7, "calls_used")
        mine = next(reply for n, reply in enumerate(replies) if n % 2 and reply.status == 402)
        equal((mine.json["usage"]["calls_limit"], mine.json["retryable"]), (7, False), "refusal of A")
        equal(a.audit(mine)["status"], "denied", "its row")


def test_usage_and_warning(bench):
    """Contract 2.1, 3: A's /api/usage is the hub's. Warnings include the current call. A failed call gives its place
    back."""
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        bench.db.execute("update acp.tenants set calls_limit = 3 where tenant_id = :'id'", id=tenant)
        succeeded(a.score(key))
        refused(a.call(key, SCORE, {"model_id": str(uuid.uuid4()), "leads": SCORE_PARAMS["leads"]}), 404, "NOT_FOUND")
        equal(hub_quota(bench, tenant), (1, 0), "after a failure")
        check("warning" not in succeeded(a.score(key)).json, "a warning at 2 of 3")
        equal(succeeded(a.score(key)).json["warning"]["usage"]["calls_used"], 3, "warning at 3 of 3")
        a.delivered()
        usage = succeeded(a.request("GET", "/api/usage", key=key)).json
        equal((usage["tenant_id"], usage["calls_used"], usage["calls_limit"]), (tenant, 3, 3), "usage")
        refused(a.score(key), 402, "UPGRADE_REQUIRED")
        dry = a.call(key, SCORE, SCORE_PARAMS, dry_run=True)
        equal(succeeded(dry).json["dry_run"], True, "a dry run")


def test_paid_at_the_hub(bench):
    """Contract 3: the hub's tier applies: after an upgrade there, the tenant has no limit at A, and its rows have tier
    paid."""
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        bench.db.execute("update acp.tenants set calls_limit = 1 where tenant_id = :'id'", id=tenant)
        succeeded(a.score(key))
        refused(a.score(key), 402, "UPGRADE_REQUIRED")
        succeeded(Hub(bench).post("tenants/update", {"tenant_id": tenant, "tier": "paid", "payment_method_status": "active"}))
        equal(a.audit(succeeded(a.score(key)))["tier"], "paid", "tier")
        a.delivered()
        equal(hub_quota(bench, tenant), (1, 0), "used, reserved")


def test_policies_are_the_hub_s(bench):
    """Contract 2.2: a policy of the hub decides at A. A cached decision ends with the next policy version."""
    with kernel_a(bench, processes="1") as a:
        tenant, key = a.tenant()
        succeeded(a.call(key, CREATE, MODEL))
        with policy(bench, tenant, "deny", reason="frozen"):
            reply = refused(a.call(key, CREATE, {**MODEL, "name": "other"}), 403, "POLICY_DENIED")
            check("frozen" in reply.json["error"], "reason: %s" % reply)
            check(a.audit(reply)["policy_decision_id"], "no policy_decision_id")
            refused(a.call(key, CREATE, MODEL), 403, "POLICY_DENIED")  # allowed and cached before
            succeeded(a.call(key, LIST))
        succeeded(a.call(key, CREATE, {**MODEL, "name": "after"}))
        succeeded(Hub(bench).post("tenants/update", {"tenant_id": tenant, "status": "suspended"}))
        refused(a.call(key, CREATE, {**MODEL, "name": "suspended"}), 403, "POLICY_DENIED")


def test_hub_that_cannot_decide(bench):
    """Contract 3: reads continue if the hub is down, but not if it fails to evaluate its policies."""
    bench.need_own_stack("revokes a privilege of the hub")
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        bench.db.execute("revoke execute on function acp.hub_authorize(jsonb, jsonb) from acp_app")
        try:
            refused(a.call(key, LIST), 500, "INTERNAL_ERROR")
            refused(a.call(key, CREATE, MODEL), 500, "INTERNAL_ERROR")
        finally:
            bench.db.execute("grant execute on function acp.hub_authorize(jsonb, jsonb) to acp_app")
        succeeded(a.call(key, LIST))


def test_approval_of_the_hub(bench):
    """Contract 2.2: an approval at the hub lets exactly that call through at A, once."""
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        with policy(bench, tenant, "require_approval"):
            first = refused(a.call(key, CREATE, MODEL), 403, "APPROVAL_REQUIRED")
            bench.db.execute("select acp.approval_decide(:'id', 'approved')", id=first.json["approval_id"])
            refused(a.call(key, CREATE, {**MODEL, "name": "other"}), 403, "APPROVAL_REQUIRED")
            replies = parallel(6, lambda _: a.call(key, CREATE, MODEL))
            equal(sorted(reply.status for reply in replies), [200] + [403] * 5, "statuses")
            equal(len(succeeded(a.call(key, LIST)).data), 1, "models")
            refused(a.call(key, CREATE, MODEL), 403, "APPROVAL_REQUIRED")


def test_approval_of_the_hub_with_an_upstream(bench):
    """An approval at the hub is used up before A asks the upstream, and given back if the upstream did nothing."""
    with Upstream() as upstream, Folder(http=action("e2e.http", upstream.handler(timeout_ms=500))) as folder:
        with kernel_a(bench, actions_dir=folder.path, workers="12") as a:
            tenant, key = a.tenant()
            status = lambda: bench.db.value("select status from acp.approvals where approval_id = :'id'", id=approval)
            with policy(bench, tenant, "require_approval", action="e2e.http"):
                approval = refused(a.call(key, "e2e.http"), 403, "APPROVAL_REQUIRED").json["approval_id"]
                bench.db.execute("select acp.approval_decide(:'id', 'approved')", id=approval)
                upstream.says(422, {"error": "no"})
                refused(a.call(key, "e2e.http"), 400, "VALIDATION_ERROR")
                equal(status(), "approved", "the approval after a refusal")
                upstream.wait = 1
                replies = parallel(6, lambda _: a.call(key, "e2e.http"))
                equal(sorted(reply.status for reply in replies), [403] * 5 + [502], "statuses")
                equal((status(), len(upstream.seen)), ("used", 2), "the approval, and requests")
                refused(a.call(key, "e2e.http"), 403, "APPROVAL_REQUIRED")
                equal(len(upstream.seen), 2, "requests")


def test_decisions_and_connections_are_kept(bench):
    """Equal calls ask the hub only once for some time, over persistent connections."""
    with kernel_a(bench, processes="1", workers="1", usage_enforcement="off") as a:
        _, key = a.tenant()
        succeeded(a.call(key, "meta.version"))
        a.delivered()
        log = bench.stack.log
        if not log:
            return
        before = asked(log, "authorize")
        connections = a.line.connections
        for _ in range(20):
            succeeded(a.call(key, "meta.version"))
        check(asked(log, "authorize") - before <= 1, "the hub was called repeatedly")
        a.delivered()
        check(a.line.connections - connections <= 4, "%d new connections" % (a.line.connections - connections))


def asked(log, name):
    with open(log, encoding="utf-8") as file:
        return len(re.findall(r"path=/functions/v1/%s status=200" % name, file.read()))


def test_heartbeat(bench):
    """Contract 2.2: A sends heartbeats to the hub."""
    with kernel_a(bench, kernel_id="e2e-%s" % uuid.uuid4()) as a:
        name = a.responder._settings["kernel_id"]
        until(10, "the heartbeat", lambda: bench.db.value("select count(*) from acp.kernels where kernel_id = :'id'", id=name))


def test_secrets_stay(bench):
    """Contract 2: neither the hub's key nor its address is in A's replies or log."""
    with kernel_a(bench) as a:
        _, key = a.tenant()
        a.line.set("refuse")
        reply = refused(a.call(key, CREATE, MODEL), 503, "UNAVAILABLE")
        log = a.responder.log_of([reply])
        check(Hub(bench).key not in log, "hub_key is in the log")
        check(str(a.line.port) not in reply.body.decode(), "the reply names the hub")


def test_configuration(bench):
    """A hub without a key, over an unencrypted network, or together with a kernel_key prevents the start."""
    good = {"ACP_HUB_URL": "https://hub.example.com", "ACP_HUB_KEY": "k" * 40, "ACP_KERNEL_KEY": ""}
    equal(bench.stack.program("acp.fcgi", "--check-config", environment=good).returncode, 0, "a valid configuration")
    for change in ({"ACP_HUB_KEY": ""}, {"ACP_HUB_URL": "http://hub.example.com"}, {"ACP_HUB_URL": "http://127.0.0.1.example.com"},
                   {"ACP_HUB_URL": "https://hub.example.com/"}, {"ACP_KERNEL_KEY": "x" * 40}):
        done = bench.stack.program("acp.fcgi", "--check-config", environment={**good, **change})
        equal(done.returncode, 78, "exit status with %r" % change)


# Without the hub -----------------------------------------------------------------------------------------------------

def away_and_back(bench, a, mode, limit_ms):
    tenant, key = a.tenant()
    succeeded(a.call(key, CREATE, MODEL))
    a.delivered()
    before = hub_quota(bench, tenant)[0]
    a.line.set(mode)
    start = time.monotonic()
    scores = [succeeded(a.score(key)) for _ in range(5)]
    reads = [succeeded(a.call(key, LIST)) for _ in range(3)]
    writes = [refused(a.call(key, CREATE, {**MODEL, "name": "n%d" % n}), 503, "UNAVAILABLE") for n in range(3)]
    took = time.monotonic() - start
    check(took < limit_ms / 1000, "11 calls took %.1f s without the hub" % took)
    for reply in writes:
        check(reply.header("Retry-After"), "no Retry-After")
        equal(a.audit(reply)["status"], "error", "row of a refused write")
    for reply in scores:
        equal(a.audit(reply)["result_meta"]["usage_check"], "failed_open", "usage_check")
    for reply in reads:
        equal(a.audit(reply)["result_meta"]["policy_check"], "failed_open", "policy_check")
    refused(a.request("GET", "/api/usage", key=key), 503, "UNAVAILABLE")
    # Half a second after its last silence the hub is asked again. Only if it got the onboarding, the outcome is unknown.
    for pause in (0, 0.6):
        time.sleep(pause)
        agent = bench.agent_id()
        reply = a.onboard(agent_id=agent)
        refused(reply, 503, "OUTCOME_UNKNOWN" if a.line.holds(agent) else "UNAVAILABLE")
    succeeded(a.request("GET", "/readyz"))
    check(a.waiting() >= 11, "%d rows wait" % a.waiting())
    a.line.set("pass")
    rows = a.delivered(30)
    billable = sum(row["billable"] for row in rows)
    equal(billable, 1 + 5 + 3, "billable rows of A")
    equal(hub_quota(bench, tenant), (before + 8, 0), "used, reserved at the hub")
    equal(hub_calls(bench, tenant), billable, "calls_used at the hub")
    equal(len(succeeded(a.call(key, LIST)).data), 1, "models; refused writes have no effect")
    succeeded(a.call(key, CREATE, {**MODEL, "name": "back"}))
    equal(bench.db.rows("select * from acp_report.usage_drift limit 5"), [], "drift at the hub")


def test_unasked_calls_stay_within_the_allowance(bench):
    """Contract 3: calls made without the hub are counted as long as allowance is left; the hub bills no others."""
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        bench.db.execute("update acp.tenants set calls_limit = 3 where tenant_id = :'id'", id=tenant)
        a.delivered()
        a.line.set("refuse")
        replies = [succeeded(a.score(key)) for _ in range(5)]
        a.line.set("pass")
        a.delivered(30, given_away=2)
        equal(hub_quota(bench, tenant), (3, 0), "used, reserved at the hub")
        rows = [bench.db.row("select billable, result_meta->>'usage_check' as said from acp.audit_logs"
                             " where tenant_id = :'id' and request_id = :'request'", id=tenant, request=reply.request_id)
                for reply in replies]
        equal([(row["billable"], row["said"]) for row in rows],
              [(True, "failed_open")] * 3 + [(False, "failed_open_over_limit")] * 2, "rows at the hub")
        refused(a.score(key), 402, "UPGRADE_REQUIRED")
        equal(bench.db.rows("select * from acp_report.usage_drift limit 5"), [], "drift at the hub")


@contextlib.contextmanager
def slow_at_the_hub(bench, a):
    """While the hub cannot count the calls of one tenant of A, 24 of its calls wait there, until A gives up. Yields their
    threads."""
    missing = {"model_id": str(uuid.uuid4()), "leads": SCORE_PARAMS["leads"]}
    tenant, key = a.tenant()
    succeeded(a.score(key))
    calls = [threading.Thread(target=a.call, args=(key, SCORE, missing)) for _ in range(24)]
    with bench.db.session() as session:
        session.execute("begin; select from acp.usage_quota where tenant_id = '%s' for update;" % tenant)
        for call in calls:
            call.start()
        until(10, "calls wait at the hub", lambda: bench.db.value(WAITING) > 3)
        yield calls
        for call in calls:
            call.join()


def all_asked(a, replies):
    rows = [a.audit(succeeded(reply)) for reply in replies]
    equal([row["ts"] for row in rows if "usage_check" in row["result_meta"]], [],
          "of %d calls of the other tenant, those that the hub had not counted before" % len(rows))


@pytest.mark.slow
def test_slow_tenant_at_the_hub(bench):
    """Contract 6: while the hub cannot count the calls of one tenant, its calls wait there, and then A gives up. Those of
    another one are counted at once."""
    with kernel_a(bench, hub_timeout_ms="1500") as a:
        _, key = a.tenant()
        with slow_at_the_hub(bench, a) as calls:
            replies = [a.score(key)]
            while any(call.is_alive() for call in calls):
                replies.append(a.score(key))
                time.sleep(0.05)  # so that the free calls suffice
        all_asked(a, replies)


@pytest.mark.slow
def test_silence_about_one_tenant(bench):
    """Contract 6: a hub that does not answer about one tenant is not away for another one, of which it has not been asked
    for a while."""
    with kernel_a(bench, hub_timeout_ms="1500") as a:
        _, key = a.tenant()
        succeeded(a.score(key))
        with slow_at_the_hub(bench, a):
            until(10, "A gives up", lambda: "timed out" in a.responder.read_log())
            replies = [a.score(key)]
        all_asked(a, replies)


def test_hub_refuses_connections(bench):
    """Contract 3: if the hub refuses connections, reads and billable calls proceed and their rows note it. Writes get
    503. Nothing is lost or doubled."""
    with kernel_a(bench) as a:
        away_and_back(bench, a, "refuse", 6000)


def test_hub_falls_silent(bench):
    """Contract 3: if the hub does not answer, deadlines hold, it is not called for a while, and afterwards all is
    consistent."""
    with kernel_a(bench, hub_timeout_ms="300") as a:
        away_and_back(bench, a, "hang", 12000)


def test_cut_between_reserve_and_settle(bench):
    """Contract 3: a place that was reserved when the hub went down is counted once when the row arrives."""
    with kernel_a(bench) as a:
        tenant, key = a.tenant()
        with bench.db.session() as session:
            # The hub's answer to usage/settle waits for this lock; then the line is cut.
            succeeded(a.score(key))
            a.delivered()
            session.execute("begin; lock table acp.usage_settled in exclusive mode;")
            result = []
            thread = threading.Thread(target=lambda: result.append(a.score(key)))
            thread.start()
            until(5, "the place is reserved", lambda: hub_quota(bench, tenant)[1] == 1)
            time.sleep(0.2)
            a.line.set("refuse")
            thread.join(30)
            equal(a.audit(succeeded(result[0]))["result_meta"]["usage_check"], "failed_open", "usage_check")
            session.execute("rollback;")
        a.line.set("pass")
        a.delivered()
        equal(hub_quota(bench, tenant), (2, 0), "used, reserved")


def test_refused_event_is_kept(bench):
    """An event that the hub never accepts does not delay the others, and is not lost."""
    with kernel_a(bench) as a:
        _, key = a.tenant()
        a.delivered()
        a.line.set("refuse")
        for _ in range(4):
            succeeded(a.call(key, "meta.version"))
        bad = str(uuid.uuid4())
        a.db.execute("insert into acp.audit_outbox (tenant_id, ts, event_id, event) values (:'nil', now() - interval '1 hour', :'id', "
                     "jsonb_build_object('event_id', :'id', 'ts', now()))", nil=NIL, id=bad)
        a.line.set("pass")
        until(20, "the others are delivered", lambda: a.waiting() == 1)
        row = a.db.row("select event_id, refused from acp.audit_outbox")
        check(row["event_id"] == bad and "request_id" in row["refused"], "the remaining event: %s" % row)


def test_killed_responder_loses_nothing(bench):
    """After kill -9 of A with undelivered rows, the next process of A delivers them."""
    with kernel_a(bench) as a:
        _, key = a.tenant()
        a.delivered()
        a.line.set("refuse")
        for _ in range(5):
            succeeded(a.score(key))
        workers = children(a.responder.process.pid)
        end_quietly(workers)
        until(10, "the workers are dead", lambda: not any(is_running(pid) for pid in workers))
        a.line.set("pass")
        a.delivered(30)
        succeeded(a.score(key))
        a.delivered()


@only_on(EXTERNAL, "kills the supervisor and the processes of the hub")
@pytest.mark.slow
def test_hub_killed_mid_run(bench):
    """After kill -9 of the hub's responder under load and a restart, its rows and counters match A's."""
    bench.need_own_stack("kills the hub")
    with kernel_a(bench, rate_limits="off") as a:
        tenant, key = a.tenant()
        hub_paid = {"tenant_id": tenant, "tier": "paid", "payment_method_status": "active"}
        succeeded(Hub(bench).post("tenants/update", hub_paid))
        replies, stop = [], threading.Event()

        def work():
            while not stop.is_set():
                replies.append(a.score(key))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(20, "calls before", lambda: len(replies) > 30)
        end_quietly([bench.stack.supervisor] + bench.stack.responders())
        count = len(replies)
        until(60, "calls without the hub", lambda: len(replies) > count + 30)
        bench.stack.restart_responder()
        count = len(replies)
        until(60, "calls after", lambda: len(replies) > count + 30)
        stop.set()
        for thread in threads:
            thread.join(60)
        for reply in replies:
            succeeded(reply)
        a.delivered(60)
        rows = bench.db.value("select count(*) from acp.audit_logs where tenant_id = :'id' and billable", id=tenant)
        equal(rows, len(replies), "billable rows at the hub")
        equal(hub_calls(bench, tenant), len(replies), "calls_used at the hub")

