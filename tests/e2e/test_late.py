"""When PostgreSQL, or a part of it, answers late or not at all: nobody else waits, nothing old is believed, and what
was done all the same is told."""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid

from client import CREATE, ONBOARD, SCORE, SCORE_PARAMS
from fcgi import Responder, ask
from harness import check, equal, until
from test_actions_dir import Folder, action, schema
from test_journal import event, journal, rows

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
from proxy import Network

QUICK = 1.5  # seconds in which a call that waits for nobody is answered here


def scored(responder, key):
    """(status, seconds) of a billable call."""
    start = time.monotonic()
    reply = responder.call(key, json.dumps({"action": SCORE, "params": SCORE_PARAMS}).encode())
    return reply.status, time.monotonic() - start


@contextlib.contextmanager
def quota_locked(bench, tenant):
    """While it lasts no free call of the tenant can be counted."""
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
    """Does a statement wait for a lock?"""
    return bench.db.value("select count(*) from pg_stat_activity where datname = current_database() and "
                          "wait_event_type = 'Lock'") > 0


def slowest_beside(bench, locked_calls):
    """Calls of other tenants while so many calls of one whose quota is locked wait; the slowest one's seconds."""
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
    """Somebody has a tenant's quota locked: one call of it waits, those of other tenants are answered."""
    bench.need_own_stack("starts responders of its own")
    seconds = slowest_beside(bench, 1)
    check(seconds < QUICK, "a call of another tenant took %.2f s" % seconds)


def test_many_calls_of_a_locked_tenant_hold_up_nobody(bench):
    """The same with several calls of that tenant at once."""
    bench.need_own_stack("starts responders of its own")
    seconds = slowest_beside(bench, 4)
    check(seconds < QUICK, "a call of another tenant took %.2f s" % seconds)


@contextlib.contextmanager
def standing_still(bench, name):
    """The connections of the responder that calls itself so get no answer while it lasts."""
    pids = [row["pid"] for row in bench.db.rows("select pid from pg_stat_activity where application_name = :'name'",
                                                name=name)]
    check(pids, "%s has no connection" % name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_revoked_key_while_connections_stand_still(bench):
    """Contract 1: a process whose own connections get no answer, while the database lives, does not serve a key that
    another process revoked; it does serve one that nothing was changed about."""
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
            with standing_still(bench, "late-test"):
                equal(scored(first, victim)[0], 200, "unchanged, connections stand still")
                reply = second.call(owner, json.dumps({"action": "iam.keys.revoke",
                                                       "params": {"api_key_id": victim_id}}).encode())
                equal(reply.status, 200, "revoke: %s" % reply.body)
                time.sleep(0.15)
                status = scored(first, victim)[0]
                check(status in (401, 503), "status %d with a key that was revoked" % status)


def test_a_row_that_commits_during_its_replay(bench):
    """The statement that stores a row is still under way when the journal brings the same row: it is stored once, and
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
    """An action that only reads takes longer than db_timeout, again and again: its own calls fail, no others do."""
    bench.need_own_stack("starts responders of its own")
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
    """A responder and the network between it and PostgreSQL, which can be ordered to fail."""
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        os.chmod(folder, 0o755)
        with Network(folder, os.path.join(bench.stack.env["ACP_STATE"], "run", "pg")) as network:
            url = "postgresql://acp_app@/acp?host=%s&port=5432" % urllib.parse.quote(folder, safe="")
            settings = {"processes": "1", "database_url": url, "db_timeout": "10000",
                        "journal_dir": os.path.join(folder, "journal"), **settings}
            with Responder(bench.stack, **settings) as responder:
                yield responder, network


def onboarded_while_the_answer_is_lost(bench, responder, network, headers):
    """The reply to an onboarding that PostgreSQL commits and whose answer does not arrive, because the connection
    breaks; and the agent's id."""
    agent = "late-%s" % uuid.uuid4()
    body = json.dumps({"agent_id": agent, "email": "late@example.com"}).encode()
    replies = []
    with network.doing("mute"):
        call, = in_background(1, lambda: replies.append(ask(
            responder.socket, "POST", ONBOARD, body, {"Content-Type": "application/json", **headers})))
        until(8, "the tenant is made", lambda: bench.db.value(
            "select count(*) from acp.tenants where agent_id = :'agent'", agent=agent) == 1)
        network.order("cut")
        # Others find PostgreSQL away meanwhile, and for a moment everybody is told so.
        equal(ask(responder.socket, "GET", "/readyz").status, 503, "status of /readyz")
    call.join(30)
    check(replies, "no reply")
    return replies[0], agent


def test_an_onboarding_whose_answer_is_lost(bench):
    """Contract 2, 3: a tenant that was committed although the connection broke is answered 201, with a key that works;
    no call has two audit rows."""
    bench.need_own_stack("puts a network before the database")
    with behind_a_network(bench) as (responder, network):
        for headers in {}, {"Idempotency-Key": str(uuid.uuid4())}:
            equal(ask(responder.socket, "GET", "/readyz").status, 200, "ready")
            # A connection that is open, so that the statement itself is sent at once.
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
    """An onboarding that is answered while the network does that: the reply, its body, and all that was recorded of it
    once the network is back and the journal empty."""
    body = json.dumps({"agent_id": "late-%s" % uuid.uuid4(), "email": "late@example.com"}).encode()
    with network.doing(trouble):
        reply = ask(responder.socket, "POST", ONBOARD, body, {"Content-Type": "application/json", **headers})
    until(20, "the database is asked again", lambda: ask(responder.socket, "GET", "/readyz").status == 200)
    found = until(20, "the call is on record", lambda: bench.db.rows(
        "select status, error_code from acp.audit_logs where request_id = :'id'", id=reply.request_id))
    # What PostgreSQL was sent before has ended by then, so that a second row would be there.
    time.sleep(1.0)
    found = bench.db.rows("select status, error_code from acp.audit_logs where request_id = :'id'", id=reply.request_id)
    return reply, body, found


def test_an_onboarding_that_ends_after_its_refusal(bench):
    """Contract 3: an onboarding whose answer does not come in time has one audit row, whether its tenant was made or
    not; and there is a tenant only where that row says so."""
    bench.need_own_stack("puts a network before the database")
    with behind_a_network(bench, db_timeout="1000") as (responder, network):
        seen = set()
        for trouble in ["mute", "stall"] * 2:
            headers = {"Idempotency-Key": str(uuid.uuid4())}
            equal(ask(responder.socket, "GET", "/readyz").status, 200, "ready")
            reply, body, found = onboarded_while(bench, responder, network, trouble, headers)
            equal(reply.status, 503, "status while the network does %s; %s" % (trouble, reply))
            equal(len(found), 1, "%s: audit rows, %s" % (trouble, found))
            made = bench.db.value("select count(*) from acp.tenants where agent_id = :'agent'",
                                  agent=json.loads(body)["agent_id"])
            equal(made, int(found[0]["status"] == "success"), "%s: tenants, and %s" % (trouble, found))
            seen.add(found[0]["status"])
            again = ask(responder.socket, "POST", ONBOARD, body, {"Content-Type": "application/json", **headers})
            equal(again.status, 201, "%s: status of the repetition; %s" % (trouble, again))
            bench.keys.add(again.json["api_key"])
            equal(scored(responder, again.json["api_key"])[0], 200, "status of a call with the key")
        check("success" in seen, "no tenant was made before its refusal: %s" % seen)
