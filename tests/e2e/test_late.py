"""PostgreSQL, or a part of it, answers late or not at all. Other calls do not wait, stale data is not trusted, and a
call that took effect anyway is reported as such."""

import contextlib
import hashlib
import hmac
import json
import os
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid

import pytest

from client import CREATE, NIL, ONBOARD, SCORE, SCORE_PARAMS, succeeded
from fcgi import Responder, ask
from checks import Failure, check, equal, parallel, slowness, until
from hub import Hub, event as hub_event
from payments import HOOK
from test_actions_dir import Folder, Upstream, action, schema
from test_journal import event, journal, rows
from stack import stopped
from test_policy import policies

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
from proxy import Network

QUICK = 1.5  # seconds within which a call that waits for nothing is answered here


def scored(responder, key):
    """Makes a billable call; returns (status, seconds)."""
    start = time.monotonic()
    reply = responder.call(key, json.dumps({"action": SCORE, "params": SCORE_PARAMS}).encode())
    return reply.status, time.monotonic() - start


@contextlib.contextmanager
def quota_locked(bench, tenant):
    """Locks the tenant's quota, so that no free call of the tenant can be counted."""
    with bench.db.session() as session:
        session.execute("begin; select 1 from acp.usage_quota where tenant_id = '%s' for update;" % tenant.id)
        yield
        session.execute("rollback;")


def in_background(count, work):
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def waits(bench):
    """True if a statement waits for a lock."""
    return bench.db.value("select count(*) from pg_stat_activity where datname = current_database() and "
                          "wait_event_type = 'Lock'") > 0


def slowest_of_other_tenants(bench, locked_calls):
    """Makes calls of other tenants while locked_calls calls of a tenant with a locked quota wait. Returns the seconds
    of the slowest one."""
    locked, free, paid = bench.onboard(), bench.onboard(), bench.paid_tenant()
    with Responder(bench.stack, processes="1", workers="24") as responder:
        for tenant in locked, free, paid:
            equal(scored(responder, tenant.key)[0], 200, "status of a first call")
        with quota_locked(bench, locked):
            waiting = in_background(locked_calls, lambda: scored(responder, locked.key))
            until(2, "a call waits for the lock", lambda: waits(bench))
            found = []
            others = [in_background(4, lambda t=tenant: found.append(scored(responder, t.key)))
                      for tenant in (free, paid) for _ in range(2)]
            for thread in sum(others, []):
                thread.join(30)
        for thread in waiting:
            thread.join(30)
    equal([status for status, _ in found], [200] * 16, "statuses")
    return max(seconds for _, seconds in found)


def test_a_locked_tenant_holds_up_nobody(bench):
    """While a tenant's quota is locked, its call waits, and calls of other tenants are answered."""
    bench.need_own_stack("starts its own responders")
    seconds = slowest_of_other_tenants(bench, 1)
    check(seconds < QUICK * slowness(), "a call of another tenant took %.2f s" % seconds)


def test_many_calls_of_a_locked_tenant_hold_up_nobody(bench):
    """While several calls of a tenant with a locked quota wait, calls of other tenants are answered."""
    bench.need_own_stack("starts its own responders")
    seconds = slowest_of_other_tenants(bench, 4)
    check(seconds < QUICK * slowness(), "a call of another tenant took %.2f s" % seconds)


@contextlib.contextmanager
def stopped_connections(bench, name):
    """Stops the PostgreSQL processes that serve the responder with this application name, so that it gets no
    answers."""
    pids = [row["pid"] for row in bench.db.rows("select pid from pg_stat_activity where application_name = :'name'",
                                                name=name)]
    check(pids, "%s has no connection" % name)
    with stopped(pids):
        yield


def test_a_revoked_key_while_connections_stand_still(bench):
    """Contract 1: a process whose own connections get no answer, while the database runs, does not accept a key that
    another process revoked. It does accept an unchanged key."""
    bench.need_own_stack("stops connections of its responders")
    if os.geteuid() != 0:
        bench.need_own_stack("root")
    tenant = bench.paid_tenant()
    victim, victim_id = bench.make_key(tenant, "manage.domain")
    owner, _ = bench.make_key(tenant, "manage.iam manage.read manage.domain")
    url = bench.stack.setting("database_url")
    named = url + ("&" if "?" in url else "?") + "application_name=late-test"
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        settings = {"processes": "1", "workers": "4", "journal_dir": folder, "db_timeout": "300",
                    "db_connections": "2"}
        with Responder(bench.stack, database_url=named, **settings) as first, \
                Responder(bench.stack, **settings) as second:
            equal(scored(first, victim)[0], 200, "before")
            with stopped_connections(bench, "late-test"):
                equal(scored(first, victim)[0], 200, "unchanged, connections stopped")
                reply = second.call(owner, json.dumps({"action": "iam.keys.revoke",
                                                       "params": {"api_key_id": victim_id}}).encode())
                equal(reply.status, 200, "revoke: %s" % reply.body)
                time.sleep(0.15)
                status = scored(first, victim)[0]
                check(status in (401, 503), "status %d with a key that was revoked" % status)


def test_a_row_that_commits_during_its_replay(bench):
    """If the journal replays a row while the statement that stores the same row still runs, the row is stored once and
    the journal is empty afterwards."""
    tenant = bench.paid_tenant()
    with journal(bench) as kept, bench.db.session() as session:
        only = event(bench, tenant)
        kept.write("20260101T000000Z-1-00000001.journal", only)
        session.execute("begin; select acp.audit_append('%s');" % json.dumps(only))
        counts = {}
        replay, = in_background(1, lambda: counts.update(kept.replay()))
        until(10, "the replay waits for the row", lambda: waits(bench))
        session.execute("commit;")
        replay.join(30)
        equal(counts, {"events_stored_before": 1, "files_removed": 1}, "counts")
        equal(kept.files(), [], "files")
    equal(rows(bench, tenant), (1, 1), "rows")


SLOW = """
create schema late;
create function late.slow(uuid, jsonb, jsonb) returns jsonb language sql
	as $$ select to_jsonb(1) from pg_catalog.pg_sleep(($2->>'seconds')::float8) $$;
grant usage on schema late to acp_app;
"""


def test_a_slow_read_is_nobody_elses_outage(bench):
    """If an action that only reads takes longer than db_timeout, repeatedly, its own calls fail and no others do."""
    bench.need_own_stack("starts its own responders")
    caller, other = bench.paid_tenant(), bench.paid_tenant()
    slow = action("e2e.slow", {"kind": "sql", "function": "late.slow"}, writes=False)
    create = json.dumps({"action": CREATE, "params": {"name": "m", "model_type": "linear"}}).encode()
    with schema(bench, "late", SLOW), Folder(slow=slow) as folder, \
            Responder(bench.stack, actions_dir=folder.path, processes="1", workers="8", db_timeout="500") as responder:
        equal(responder.call(other.key, create).status, 200, "before")
        body = json.dumps({"action": "e2e.slow", "params": {"seconds": 1}}).encode()
        slow_ones = []
        calls = in_background(3, lambda: slow_ones.extend(responder.call(caller.key, body).status for _ in range(3)))
        statuses = []
        while any(thread.is_alive() for thread in calls):
            statuses.append(responder.call(other.key, create).status)
            time.sleep(0.01)
    equal(slow_ones, [503] * 9, "slow calls")
    equal({status: statuses.count(status) for status in set(statuses)}, {200: len(statuses)}, "calls of others")


@contextlib.contextmanager
def behind_a_network(bench, **settings):
    """A responder, and the network between it and PostgreSQL, which the test can make fail."""
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        os.chmod(folder, 0o755)
        with Network(folder, os.path.join(bench.stack.env["ACP_STATE"], "run", "pg")) as network:
            url = "postgresql://acp_app@/acp?host=%s&port=5432" % urllib.parse.quote(folder, safe="")
            settings = {"processes": "1", "database_url": url, "db_timeout": "10000",
                        "journal_dir": os.path.join(folder, "journal"), **settings}
            with Responder(bench.stack, **settings) as responder:
                yield responder, network


def each_in_parallel(bench, cases, work, **settings):
    """Runs work(responder, network, *case) for all cases in parallel, each with its own responder and network. The
    cases take long because of real deadlines, which no clock can shorten. Each case needs its own tenant, because a
    late commit holds the tenant's locks."""
    def run(number):
        with behind_a_network(bench, **settings) as (responder, network):
            work(responder, network, *cases[number])
    parallel(len(cases), run)


def onboarded_while_the_answer_is_lost(bench, responder, network, headers):
    """Sends an onboarding that PostgreSQL commits, and breaks the connection before the answer arrives. Returns the
    reply and the agent's id."""
    agent = "late-%s" % uuid.uuid4()
    body = json.dumps({"agent_id": agent, "email": "late@example.com"}).encode()
    replies = []
    with network.doing("commit-answers", 60):
        call, = in_background(1, lambda: replies.append(ask(
            responder.socket, "POST", ONBOARD, body, {"Content-Type": "application/json", **headers})))
        until(8, "the tenant exists", lambda: bench.db.value(
            "select count(*) from acp.tenants where agent_id = :'agent'", agent=agent) == 1)
        network.order("cut")
        # Meanwhile other calls find PostgreSQL down, and for a moment all callers get 503.
        equal(ask(responder.socket, "GET", "/readyz").status, 503, "status of /readyz")
    call.join(30)
    check(replies, "no reply")
    return replies[0], agent


def test_an_onboarding_whose_answer_is_lost(bench):
    """Contract 2, 3: if a tenant is committed although the connection broke, the reply is 201 with a key that works. No
    call has two audit rows."""
    bench.need_own_stack("puts a network before the database")
    with behind_a_network(bench) as (responder, network):
        for headers in {}, {"Idempotency-Key": str(uuid.uuid4())}:
            equal(ask(responder.socket, "GET", "/readyz").status, 200, "ready")
            # Opens a connection, so that the statement itself is sent at once.
            warm = {"agent_id": "late-%s" % uuid.uuid4(), "email": "late@example.com"}
            equal(ask(responder.socket, "POST", ONBOARD, json.dumps(warm).encode(),
                      {"Content-Type": "application/json"}).status, 201, "status before")
            reply, agent = onboarded_while_the_answer_is_lost(bench, responder, network, headers)
            equal(reply.status, 201, "status; %s" % reply)
            bench.keys.add(reply.json["api_key"])
            equal(scored(responder, reply.json["api_key"])[0], 200, "status of a call with the key")
            made = bench.db.value("select tenant_id from acp.tenants where agent_id = :'agent'", agent=agent)
            equal(made, reply.json["tenant_uuid"], "the tenant")
            found = bench.db.value("select count(*) from acp.audit_logs where request_id = :'id'", id=reply.request_id)
            equal(found, 1, "audit rows")


def onboarded_while(bench, responder, network, trouble, headers):
    """Sends an onboarding that is answered during a fault of the network. Returns the reply, the request's body and the
    statuses of its audit rows, once the network works again and the journal is empty."""
    body = json.dumps({"agent_id": "late-%s" % uuid.uuid4(), "email": "late@example.com"}).encode()
    with network.doing(*trouble):
        reply = onboard(responder, body, headers)
    until(20, "the database is used again", lambda: ask(responder.socket, "GET", "/readyz").status == 200)
    until(20, "the call has its row", lambda: ends_of(bench, reply))
    # By then all statements sent before have ended, so a second row would be visible.
    time.sleep(1.0)
    return reply, body, ends_of(bench, reply)


def onboard(responder, body, headers=()):
    return ask(responder.socket, "POST", ONBOARD, body, {"Content-Type": "application/json", **dict(headers)})


def ends_of(bench, reply):
    """The statuses of the audit rows of the call with this reply."""
    return [row["status"] for row in bench.db.rows(
        "select status from acp.audit_logs where request_id = :'id'", id=reply.request_id)]


def tenants_of(bench, body):
    return bench.db.value("select count(*) from acp.tenants where agent_id = :'agent'", agent=json.loads(body)["agent_id"])


def works(bench, responder, reply, what):
    """Checks that the reply to an onboarding is 201 and that its key works."""
    equal(reply.status, 201, "%s: status; %s" % (what, reply))
    bench.keys.add(reply.json["api_key"])
    equal(scored(responder, reply.json["api_key"])[0], 200, "%s: status of a call with the key" % what)


@pytest.mark.slow
def test_an_onboarding_that_cannot_be_done_in_time(bench):
    """Contract 2, 3: if PostgreSQL does not answer, the onboarding has no effect, and its one audit row says so. The
    same request, repeated without a key, gets 201."""
    bench.need_own_stack("puts a network before the database")

    def refused_then_done(responder, network, trouble):
        equal(ask(responder.socket, "GET", "/readyz").status, 200, "ready")
        reply, body, ends = onboarded_while(bench, responder, network, [trouble], {})
        equal((reply.status, reply.code), (503, "UNAVAILABLE"), "%s: %s" % (trouble, reply))
        equal((ends, tenants_of(bench, body)), (["error"], 0), "%s: audit rows and tenants" % trouble)
        works(bench, responder, onboard(responder, body), trouble)
    each_in_parallel(bench, [("mute",), ("stall",)], refused_then_done, db_timeout="1000")


# Late commits --------------------------------------------------------------------------------------------------------

# An outcome soon counts as unknown, but a statement has enough time on a busy machine.
HASTY = {"db_timeout": "1500", "db_commit_timeout": "2000"}
LATE = ("commits", "commit-answers")  # the commit reaches PostgreSQL late, or runs at once and is answered late
KEYS_CREATE = "iam.keys.create"
WEBHOOK_SECRET = "whsec_late"


def manage(responder, key, action, params, **members):
    return responder.call(key, json.dumps({"action": action, "params": params, **members}).encode())


def new_params(action):
    name = "late-%s" % uuid.uuid4()
    return {"name": name, "model_type": "linear"} if action == CREATE else {"name": name, "scopes": ["manage.domain"]}


def effects_of(bench, params):
    """The number of models or keys with this name."""
    return bench.db.value("select (select count(*) from acp.leadscoring_models where name = :'name') + "
                          "(select count(*) from acp.api_keys where name = :'name')", name=params["name"])


def successes_of(bench, tenant, action, keys):
    """The number of successful rows, without replays, among those with these request ids."""
    return bench.db.value(
        "select count(*) from acp.audit_logs where tenant_id = :'tenant' and action = :'action' and status = 'success' "
        "and error_code is null and request_id = any(string_to_array(:'ids', ',')::uuid[])",
        tenant=tenant.id, action=action, ids=",".join(keys))


def commits_again(responder, tenant):
    """Waits until calls that write succeed again."""
    until(20, "a call that writes succeeds",
          lambda: manage(responder, tenant.key, CREATE, new_params(CREATE)).status == 200)


def test_a_late_commit_is_waited_for(bench):
    """Contract 2, OUTCOME_UNKNOWN: the reply to a commit that takes longer than db_timeout is its real outcome."""
    bench.need_own_stack("puts a network before the database")

    def waits_for_it(responder, network, mode, action):
        tenant = bench.paid_tenant()
        commits_again(responder, tenant)
        if action == ONBOARD:
            body = json.dumps({"agent_id": "late-%s" % uuid.uuid4(), "email": "late@example.com"}).encode()
            with network.doing(mode, 3):
                reply = onboard(responder, body)
            works(bench, responder, reply, mode)
            return
        params = new_params(action)
        with network.doing(mode, 3):
            start = time.monotonic()
            reply = manage(responder, tenant.key, action, params)
            took = time.monotonic() - start
        equal(reply.status, 200, "%s, %s: status; %s" % (mode, action, reply))
        check(took > 2.9, "%s, %s: answered after %.2f s, before the commit" % (mode, action, took))
        equal((ends_of(bench, reply), effects_of(bench, params)), (["success"], 1), "%s, %s" % (mode, action))
    cases = [(mode, action) for mode in LATE for action in (CREATE, KEYS_CREATE, ONBOARD)]
    each_in_parallel(bench, cases, waits_for_it, db_timeout="2000")


def key_of_unknown(reply, what):
    """Checks that the outcome is unknown; returns the idempotency key with which to repeat the call."""
    equal((reply.status, reply.code), (503, "OUTCOME_UNKNOWN"), "%s: %s" % (what, reply))
    check(reply.header("Retry-After") and reply.json.get("idempotency_key"), "%s: %s" % (what, reply))
    return reply.json["idempotency_key"]


def repeated(ask_again, what):
    """Repeats the call, not more often than the action's rate limit permits, until the reply is neither 503 nor 409;
    returns it."""
    def decided():
        reply = ask_again()
        return reply if reply.status not in (503, 409) else None
    return until(20, "%s: the repetition is answered" % what, decided, 1.2)


def test_an_outcome_that_stays_unknown(bench):
    """Contract 2, OUTCOME_UNKNOWN: if a commit is not answered within db_commit_timeout, the reply says that the
    outcome is unknown, with a key. Repeating the request with this key returns the lost reply; there is one effect and
    one row of it."""
    bench.need_own_stack("puts a network before the database")
    cases = [(mode, action) for mode in LATE for action in (CREATE, KEYS_CREATE)]
    each_in_parallel(bench, cases, lambda responder, network, mode, action: one_effect(
        bench, responder, network, mode, bench.paid_tenant(), action), **HASTY)


def one_effect(bench, responder, network, mode, tenant, action):
    commits_again(responder, tenant)
    what = "%s, %s" % (mode, action)
    params = new_params(action)
    with network.doing(mode, 60):
        first = manage(responder, tenant.key, action, params)
    key = key_of_unknown(first, what)
    second = repeated(lambda: manage(responder, tenant.key, action, params, idempotency_key=key), what)
    equal((second.status, effects_of(bench, params)), (200, 1), "%s: repetition and effects; %s" % (what, second))
    until(20, "%s: the first call has its row" % what, lambda: ends_of(bench, first))
    equal(successes_of(bench, tenant, action, [first.request_id, second.request_id]), 1, "%s: rows of the effect" % what)
    if action == KEYS_CREATE:
        bench.keys.add(second.data["api_key"])
        equal(scored(responder, second.data["api_key"])[0], 200, "%s: status of a call with the key" % what)


# Every path that writes ----------------------------------------------------------------------------------------------

class Write:
    """A request that changes something. send(responder, key): sends it, with this idempotency key if there is one.
    effects(): how often it was done. keyless: its reply about an unknown outcome names no key, because it can be repeated
    as it is."""

    def __init__(self, name, send, effects, keyless=False):
        self.name, self.send, self.effects, self.keyless = name, send, effects, keyless


def counted(bench, sql, **values):
    return lambda: bench.db.value("select count(*) from " + sql, **values)


def actions(bench, tenant, upstream):
    """Writes at /api/manage. The effect of e2e.http is outside the database."""
    def of_manage(name, params, sql, **values):
        body = {"action": name, "params": params}
        return Write(name, lambda responder, key: responder.call(tenant.key, json.dumps(
            {**body, **({"idempotency_key": key} if key else {})}).encode()), counted(bench, sql, id=tenant.id, **values))
    _, old = bench.make_key(tenant, "manage.read")
    _, gone = bench.make_key(tenant, "manage.read")
    keys = "acp.api_keys where tenant_id = :'id' and "
    address = "%s@example.com" % uuid.uuid4()
    yield of_manage("iam.keys.rotate", {"api_key_id": old}, keys + "name = (select name from acp.api_keys where "
                    "tenant_id = :'id' and api_key_id = :'old') and api_key_id <> :'old' and api_key_id <> :'gone' and "
                    "created_at > (select created_at from acp.api_keys where tenant_id = :'id' and api_key_id = :'gone')",
                    old=old, gone=gone)
    yield of_manage("iam.keys.revoke", {"api_key_id": gone}, keys + "api_key_id = :'gone' and revoked_at is not null",
                    gone=gone)
    yield of_manage("iam.team.invite", {"email": address, "role": "member"},
                    "acp.team_members where tenant_id = :'id' and email = :'address'", address=address)
    yield of_manage("webhooks.create", {"url": "https://example.com/", "events": ["usage.warning"]},
                    "acp.webhooks where tenant_id = :'id'")
    hook = succeeded(bench.call(tenant.key, "webhooks.create", {"url": "https://example.com/", "events": ["*"]})).data
    yield of_manage("webhooks.test", {"webhook_id": hook["webhook_id"]},
                    "acp.webhook_deliveries where tenant_id = :'id' and event = 'webhook.test'")
    yield of_manage("settings.update", {"settings": {"metadata": {"a": "b"}}},
                    "acp.tenant_settings where tenant_id = :'id'")
    yield of_manage("governance.propose_policy", {"policy": {"name": "n", "decision": "deny", "action": "a.*"}},
                    "acp.policy_proposals where tenant_id = :'id'")
    http = of_manage("e2e.http", {}, "acp.tenants where tenant_id = :'id'")
    http.effects = lambda: len({headers["Idempotency-Key"] for _, headers, _ in upstream.seen})
    yield http


def requests_of_kernels(bench, tenant, hub):
    def to_hub(name, body, sql, keyless=False, **values):
        return Write(name, lambda responder, key: ask(
            responder.socket, "POST", "/functions/v1/" + name, json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer " + hub.key,
             **({"Idempotency-Key": key} if key else {})}), counted(bench, sql, id=tenant.id, **values), keyless)
    agent = "late-%s" % uuid.uuid4()
    one = hub_event(tenant.id, bench.db.value("select acp.rfc3339(acp.now())"), tier="paid")
    yield to_hub("tenants/create", {"agent_id": agent, "email": "late@example.com"},
                 "acp.tenants where agent_id = :'agent'", agent=agent)
    yield to_hub("tenants/update", {"tenant_id": tenant.id, "stripe_customer_id": "cus_late"},
                 "acp.tenants where tenant_id = :'id' and stripe_customer_id = 'cus_late'")
    free, ts, call = bench.onboard(), bench.db.value("select acp.rfc3339(acp.now())"), str(uuid.uuid4())
    yield to_hub("usage/reserve", {"tenant_id": free.id, "event_id": call, "ts": ts},
                 "acp.usage_reservations where reservation_id = :'call'", True, call=call)
    yield to_hub("policy-propose", {"tenant_id": tenant.id, "policy": {"name": "n", "decision": "deny", "action": "a.*"}},
                 "acp.policy_proposals where tenant_id = :'id' and api_key_id = '%s'" % NIL)
    yield to_hub("audit-ingest", one, "acp.audit_logs where event_id = :'event'", True, event=one["event_id"])
    yield to_hub("revoke", {"tenant_id": tenant.id}, "acp.tenants t where tenant_id = :'id' and not exists (select from "
                 "acp.api_keys k where k.tenant_id = t.tenant_id and revoked_at is null)")


def stripe_event(bench):
    """An event that Stripe sends again until it is accepted."""
    event = {"id": "evt_late_%s" % uuid.uuid4().hex, "object": "event", "type": "late.test", "created": 1,
             "data": {"object": {}}}
    raw = json.dumps(event).encode()

    def send(responder, _):
        at = int(time.time())
        mac = hmac.new(WEBHOOK_SECRET.encode(), b"%d.%s" % (at, raw), hashlib.sha256).hexdigest()
        return ask(responder.socket, "POST", HOOK, raw, {"Content-Type": "application/json",
                                                         "Stripe-Signature": "t=%d,v1=%s" % (at, mac)})
    return Write("event of Stripe", send, counted(bench, "acp.stripe_events where event_id = :'id'", id=event["id"]), True)


def done_once(bench, responder, network, mode, write):
    """A write whose commit is not answered, and its repetition. Nothing that was done is answered as if it were not.
    Returns the first reply."""
    what = "%s, %s" % (mode, write.name)
    other = bench.paid_tenant()
    commits_again(responder, other)
    before = write.effects()
    with network.doing(mode, 60):
        first = write.send(responder, None)
    check(first.status < 300 or first.code in ("UNAVAILABLE", "OUTCOME_UNKNOWN"), "%s: %s" % (what, first))
    key = first.json.get("idempotency_key")
    if first.code == "OUTCOME_UNKNOWN":
        equal(bool(key), not write.keyless, "%s: has a key; %s" % (what, first))
    commits_again(responder, other)
    time.sleep(1)  # a statement that was on its way has arrived
    if first.code == "UNAVAILABLE":
        equal(write.effects() - before, 0, "%s: effects of a call that was not done; %s" % (what, first))
    if first.status >= 300:
        again = repeated(lambda: write.send(responder, key), what)
        check(again.status < 300, "%s: repetition: %s" % (what, again))
    equal(write.effects() - before, 1, "%s: effects; %s" % (what, first))
    if write.name != "e2e.http":
        rows_of = "acp.audit_logs where request_id = :'id' and status = 'success' and error_code is null and " \
                  "coalesce(result_meta->>'replay', '') = '' and result_meta->>'effect' is distinct from 'duplicate'"
        successes = sum(bench.db.value("select count(*) from " + rows_of, id=reply.request_id)
                        for reply in ([first] if first.status < 300 else [first, again]))
        check(successes <= 1, "%s: %d rows of a success" % (what, successes))
    return first


@pytest.mark.slow
def test_every_write_whose_outcome_stays_unknown(bench):
    """Contract 2: whichever path writes, a commit that is late or is not answered is never reported as not done. The
    reply names a key for a repetition, or the request can be repeated as it is; it takes effect once."""
    bench.need_own_stack("puts a network before the database")
    hub, wrong = Hub(bench), []

    def collected(responder, network, mode, write):
        try:
            codes.append(done_once(bench, responder, network, mode, write).code)
        except Failure as error:
            wrong.append(str(error))
    codes = []
    for mode in LATE:
        with Upstream() as upstream, Folder(http=action("e2e.http", upstream.handler())) as folder:
            cases = [(mode, write) for write in (*actions(bench, bench.paid_tenant(), upstream),
                                                 *requests_of_kernels(bench, bench.paid_tenant(), hub),
                                                 stripe_event(bench))]
            each_in_parallel(bench, cases, collected, actions_dir=folder.path, kernel_key=hub.key,
                             stripe_webhook_secret=WEBHOOK_SECRET, **HASTY)
    check(not wrong, "\n".join(wrong))
    check(codes.count("OUTCOME_UNKNOWN") > len(codes) / 2, "the outcome is known too often: %s" % codes)


def test_an_approval_whose_use_is_not_answered(bench):
    """If the commit that uses up an approval is not answered, the upstream is not asked, and nothing else is done. The
    approval is given back, or another one has to be asked for: it never lets two calls through."""
    bench.need_own_stack("puts a network before the database")

    def asked_at_most_once(responder, network, upstream, mode):
        tenant = bench.paid_tenant()
        call = lambda: manage(responder, tenant.key, "e2e.http", {})
        with policies(bench, tenant, {"action": "e2e.http", "decision": "require_approval"}):
            approval = repeated(call, mode).json["approval_id"]
            bench.db.text("select acp.approval_decide(:'id', 'approved')", id=approval)
            asked = len(upstream.seen)
            with network.doing(mode, 60):
                first = call()
            equal((first.status, len(upstream.seen)), (503, asked), "%s: %s" % (mode, first))
            commits_again(responder, bench.paid_tenant())
            last = repeated(call, mode)
            check(last.status == 200 or last.code == "APPROVAL_REQUIRED", "%s: %s" % (mode, last))
            equal(len(upstream.seen), asked + (last.status == 200), "%s: requests" % mode)
            check(call().code == "APPROVAL_REQUIRED", "%s: the approval lets another call through" % mode)
    for mode in LATE:
        with Upstream() as upstream, Folder(http=action("e2e.http", upstream.handler())) as folder, \
                behind_a_network(bench, actions_dir=folder.path, **HASTY) as (responder, network):
            asked_at_most_once(responder, network, upstream, mode)


def test_a_read_cannot_write(bench):
    """A statement that the program runs as a read, and so may run twice, cannot write, whatever its function does."""
    bench.need_own_stack("replaces a function of the database")
    tenant = bench.paid_tenant()
    invoice = lambda: bench.send("GET", "/api/billing/invoice", headers=[("X-API-Key", tenant.key)])
    equal(invoice().status, 200, "before")
    names = "acp.invoice_json(uuid, date, numeric)", "invoice_json_kept"
    bench.db.execute("create table public.late_written (n integer); grant insert on public.late_written to acp_app; "
                     "alter function %s rename to %s" % names)
    try:
        bench.db.execute("create function acp.invoice_json(uuid, date, numeric) returns jsonb language plpgsql as "
                         "'begin insert into public.late_written values (1); return ''{}''; end'; "
                         "grant execute on function %s to acp_app" % names[0])
        equal((invoice().status, bench.db.value("select count(*) from public.late_written")), (500, 0),
              "status, and rows written")
    finally:
        bench.db.execute("drop function if exists %s; drop table public.late_written; "
                         "alter function acp.%s(uuid, date, numeric) rename to invoice_json" % (names[0], names[1]))
    equal(invoice().status, 200, "afterwards")


# Keys of clients -----------------------------------------------------------------------------------------------------

def test_a_key_of_the_client_s_while_commits_are_late(bench):
    """The same with the client's own key. Its claim is a commit too; whichever commit is late, there is one effect."""
    bench.need_own_stack("puts a network before the database")

    def one_effect_with_a_key(responder, network, mode):
        tenant = bench.paid_tenant()
        commits_again(responder, tenant)
        params, key = new_params(CREATE), str(uuid.uuid4())
        with network.doing(mode, 60):
            first = manage(responder, tenant.key, CREATE, params, idempotency_key=key)
        equal(first.status, 503, "%s: %s" % (mode, first))
        second = repeated(lambda: manage(responder, tenant.key, CREATE, params, idempotency_key=key), mode)
        equal((second.status, effects_of(bench, params)), (200, 1), "%s: %s" % (mode, second))
    each_in_parallel(bench, [(mode,) for mode in LATE], one_effect_with_a_key, **HASTY, idempotency_lease="5")


def test_an_onboarding_whose_outcome_stays_unknown(bench):
    """Contract 2, 2.1: the first agent to ask for an agent_id does not lose it. The same request with the key from the
    reply gets 201, whether or not the first one created the tenant."""
    bench.need_own_stack("puts a network before the database")

    def agent_id_is_kept(responder, network, mode, headers):
        tenant = bench.paid_tenant()
        commits_again(responder, tenant)
        reply, body, ends = onboarded_while(bench, responder, network, [mode, 60], headers)
        key = key_of_unknown(reply, mode)
        equal(key, headers.get("Idempotency-Key", key), "%s: the key" % mode)
        equal((len(ends), tenants_of(bench, body)), (1, int(ends == ["success"])), "%s: %s, tenants" % (mode, ends))
        again = repeated(lambda: onboard(responder, body, {"Idempotency-Key": key}), mode)
        works(bench, responder, again, mode)
        equal(tenants_of(bench, body), 1, "%s: tenants" % mode)
    cases = [(mode, headers) for mode in LATE for headers in ({}, {"Idempotency-Key": str(uuid.uuid4())})]
    each_in_parallel(bench, cases, agent_id_is_kept, **HASTY)


def test_a_connection_that_breaks_during_its_commit(bench):
    """If the commit did not reach PostgreSQL, or its answer was lost, the reply agrees with the audit row. It is no
    guess."""
    bench.need_own_stack("puts a network before the database")
    tenant = bench.paid_tenant()
    with behind_a_network(bench) as (responder, network):
        for mode, status, end, effects in (LATE[0], 503, "error", 0), (LATE[1], 200, "success", 1):
            commits_again(responder, tenant)
            params, replies = new_params(CREATE), []
            with network.doing(mode, 60):
                call, = in_background(1, lambda: replies.append(manage(responder, tenant.key, CREATE, params)))
                time.sleep(0.5)
                network.order("cut")
                time.sleep(0.2)
            call.join(30)
            equal(replies[0].status, status, "%s: %s" % (mode, replies[0]))
            check(replies[0].code in (None, "UNAVAILABLE"), "%s: %s" % (mode, replies[0]))
            equal((ends_of(bench, replies[0]), effects_of(bench, params)), ([end], effects), mode)


def test_a_command_whose_commit_is_not_answered(bench):
    """If acpctl may have done its work, it does not report a failure but an unknown outcome."""
    bench.need_own_stack("puts a network before the database")
    agent = "late-%s" % uuid.uuid4()
    with behind_a_network(bench) as (_, network):
        url = "postgresql://acp_app@/acp?host=%s&port=5432" % urllib.parse.quote(network.folder, safe="")
        done = []
        with network.doing(LATE[1], 60):
            call, = in_background(1, lambda: done.append(bench.stack.program(
                "acpctl", "tenant", "create", "--agent-id", agent, "--email", "late@example.com",
                environment={"ACP_DATABASE_URL": url})))
            until(10, "it is done", lambda: bench.db.value("select count(*) from acp.tenants where agent_id = :'agent'",
                                                           agent=agent) == 1)
            network.order("cut")
            call.join(30)
        equal(done[0].returncode, 1, "exit status")
        check("it is not known whether this was done" in done[0].stderr, done[0].stderr)


def test_late_commits_hold_up_nobody(bench):
    """Contract 2: while more calls than there are threads and connections wait for their commits, all other requests
    are served. Calls that write are refused before they begin while no commit is answered."""
    bench.need_own_stack("puts a network before the database")
    tenant, other = bench.paid_tenant(), bench.paid_tenant()
    with behind_a_network(bench, db_timeout="1000", workers="4", db_connections="2") as (responder, network):
        commits_again(responder, tenant)
        replies, params = [], [new_params(CREATE) for _ in range(12)]
        with network.doing("commits", 3):
            calls = [in_background(1, lambda one=one: replies.append(manage(responder, tenant.key, CREATE, one)))[0]
                     for one in params]
            time.sleep(0.3)
            slowest = slowest_of_others(responder, other, until_s=2.5)
        for call in calls:
            call.join(30)
    for path, seconds in slowest.items():
        check(seconds < QUICK / 3 * slowness(), "%s took %.2f s" % (path, seconds))
    good = [reply for reply in replies if reply.status == 200]
    # One tenant gets a part of the connections (contract 6): its calls that waited for one in vain did nothing either.
    nothing_done = ("UNAVAILABLE", "RATE_LIMITED")
    check(good and all(r.status == 200 or r.code in nothing_done for r in replies), [str(r) for r in replies])
    equal(sum(effects_of(bench, one) for one in params), len(good), "models, and successes")


def test_policies_hold_while_commits_are_late(bench):
    """Contract 2.2: a policy still denies calls, including reads, while no commit is answered."""
    bench.need_own_stack("puts a network before the database")
    tenant = bench.paid_tenant()
    deny = {"decision": "deny", "action": SCORE, "reason": "not now"}
    with policies(bench, tenant, deny), behind_a_network(bench, db_timeout="1000") as (responder, network):
        equal(scored(responder, tenant.key)[0], 403, "before")
        with network.doing("commits", 4):
            in_background(2, lambda: manage(responder, tenant.key, CREATE, new_params(CREATE)))
            time.sleep(1.5)
            # If even the end of a transaction without writes is delayed, the decision is not known.
            statuses = {scored(responder, tenant.key)[0] for _ in range(3)}
            check(statuses <= {403, 503}, "while commits are late: %s" % statuses)


def slowest_of_others(responder, tenant, until_s):
    """Sends requests without a commit for until_s seconds. Returns the longest time of each path."""
    slowest, end = {}, time.monotonic() + until_s
    while time.monotonic() < end:
        for path in "/healthz", "/api/usage":
            start = time.monotonic()
            reply = ask(responder.socket, "GET", path, headers={"X-API-Key": tenant.key})
            equal(reply.status, 200, "%s: %s" % (path, reply))
            slowest[path] = max(slowest.get(path, 0), time.monotonic() - start)
        time.sleep(0.02)
    return slowest


@pytest.mark.slow
def test_late_commits_and_calls_that_change_nothing(bench):
    """A call that only reads is answered from the journal once its commit is late, and at once while others are known
    to be late. It has one row and is charged once."""
    bench.need_own_stack("puts a network before the database")
    tenants = [bench.paid_tenant(), bench.onboard()]
    with behind_a_network(bench, db_timeout="1000") as (responder, network):
        commits_again(responder, tenants[0])
        for mode in LATE:
            before = [bench.usage(tenant.key)["calls_used"] for tenant in tenants]
            with network.doing(mode, 5):
                found = [scored(responder, tenant.key) for _ in range(5) for tenant in tenants]
            equal([status for status, _ in found], [200] * 10, "%s: statuses" % mode)
            check(max(seconds for _, seconds in found) < 1 + QUICK, "%s: %s" % (mode, found))
            check(sorted(seconds for _, seconds in found)[5] < 0.2, "%s: %s" % (mode, found))
            for tenant, used in zip(tenants, before):
                until(20, "%s: five more calls" % mode, lambda: bench.usage(tenant.key)["calls_used"] == used + 5)
            time.sleep(1)
            equal([bench.usage(tenant.key)["calls_used"] for tenant in tenants], [used + 5 for used in before], mode)
