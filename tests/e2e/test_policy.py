"""Policies, approvals, proposals: contract 2 (POLICY_DENIED, APPROVAL_REQUIRED), 2.2 (authorize).

Every policy here belongs to the tenant of its test, and is disabled at the end of the test.
"""

import contextlib
import json
import os
import re
import signal
import threading
import uuid

from client import CREATE, NIL, SCORE, SCORE_PARAMS, refused, succeeded
from database import METERED
from checks import check, equal, parallel, until
from stack import children
from test_actions_dir import Upstream, behind, call
from test_idempotency import echo, fresh, replayed
from test_usage import clock_shifted

MODEL = {"name": "m", "model_type": "ml"}
PROPOSE = "governance.propose_policy"


@contextlib.contextmanager
def policies(bench, tenant, *wanted):
    """Publishes these policies for the tenant and yields their ids; disables them at the end."""
    ids = [str(uuid.uuid4()) for _ in wanted]
    for policy_id, policy in zip(ids, wanted):
        bench.db.text("select acp.policy_add(:'policy', :'id', :'text')", policy=policy_id, id=tenant.id,
                      text=json.dumps({"name": "e2e", **policy}))
    try:
        yield ids
    finally:
        disable_all(bench, tenant)


def disable_all(bench, tenant):
    bench.db.text("select acp.policy_enable(policy_id, false) from acp.policies where tenant_id = :'id' and enabled",
                  id=tenant.id)


def create(bench, key, name="m", **members):
    return bench.call(key, CREATE, {**MODEL, "name": name}, **members)


def models(bench, tenant):
    return bench.db.value("select count(*) from acp.leadscoring_models where tenant_id = :'id'", id=tenant.id)


def approvals(bench, tenant):
    """Maps each approval_id to its status."""
    rows = bench.db.rows("select approval_id, status from acp.approvals where tenant_id = :'id'", id=tenant.id)
    return {row["approval_id"]: row["status"] for row in rows}


def decide(bench, approval, status="approved"):
    return bench.db.value("select acp.approval_decide(:'id', :'status')", id=approval, status=status)


def approval_of(bench, reply):
    """Checks that the call was refused because it needs an approval; returns the approval's id."""
    refused(reply, 403, "APPROVAL_REQUIRED")
    approval = reply.json.get("approval_id")
    check(approval, "no approval_id\n%s" % reply)
    row = bench.audit(reply, status="denied", error_code="APPROVAL_REQUIRED", billable=False)
    equal(row["result_meta"]["policy"]["approval_id"], approval, "approval_id of the audit row")
    check(row["policy_decision_id"], "no policy_decision_id: %r" % row)
    return approval


def denied(bench, reply, policy_id):
    refused(reply, 403, "POLICY_DENIED")
    row = bench.audit(reply, status="denied", error_code="POLICY_DENIED", billable=False)
    equal((row["result_meta"]["policy"]["decision"], row["result_meta"]["policy"]["policy_id"]), ("deny", policy_id),
          "the audit row's policy")
    check(row["policy_decision_id"], "no policy_decision_id: %r" % row)


# Decisions ------------------------------------------------------------------------------------------------------------

def test_deny(bench):
    """A policy denies calls that match its pattern, dry runs too. A denied call uses nothing; its audit row has
    the decision."""
    tenant, other = bench.onboard(), bench.onboard()
    bench.audit(succeeded(create(bench, tenant.key)), policy_decision_id=None)
    key = fresh()
    with policies(bench, tenant, {"action": "domain.*.create", "decision": "deny", "reason": "not on Sundays"}) as ids:
        for members in ({}, {"dry_run": True}, {"idempotency_key": key}):
            reply = create(bench, tenant.key, **members)
            denied(bench, reply, ids[0])
            equal(reply.json["error"], "not on Sundays", "error")
        check(bench.audit(succeeded(bench.score(tenant.key)))["policy_decision_id"], "no decision on an allowed call")
        succeeded(create(bench, other.key))
    equal((models(bench, tenant), bench.usage(tenant.key)["calls_used"]), (1, 2), "models and calls_used")
    check("code" not in succeeded(create(bench, tenant.key, idempotency_key=key)).json, "a replay")


def test_patterns(bench):
    """Action patterns with * are anchored at both ends. A pattern without * is a name; no pattern means all."""
    tenant = bench.onboard()
    cases = {"meta.version": 403, "meta.*": 403, "*version": 403, "*": 403, None: 403, "m*a.v*n": 403,
             "eta.version": 200,
             "meta.versio": 200, "metaxversion": 200, "meta": 200, "iam.*": 200, "meta.version*": 403}
    for pattern, status in cases.items():
        with policies(bench, tenant, {"decision": "deny", **({"action": pattern} if pattern else {})}):
            equal(bench.call(tenant.key, "meta.version").status, status, "status with pattern %s" % pattern)


def test_priority(bench):
    """Contract 2.2: the matching policy with the lowest priority number wins, even if it is newer. Disabled ones do not
    count."""
    tenant = bench.onboard()
    deny = {"action": "meta.*", "decision": "deny", "priority": 20}
    allow = {"action": "meta.version", "decision": "allow", "priority": 10}
    with policies(bench, tenant, deny, allow) as ids:
        succeeded(bench.call(tenant.key, "meta.version"))
        denied(bench, bench.call(tenant.key, "meta.actions"), ids[0])
        bench.db.text("select acp.policy_enable(:'id', false)", id=ids[1])
        denied(bench, bench.call(tenant.key, "meta.version"), ids[0])
        bench.db.text("select acp.policy_enable(:'id', false)", id=ids[0])
        succeeded(bench.call(tenant.key, "meta.actions"))
    with policies(bench, tenant, {**allow, "priority": 30}, deny) as ids:
        denied(bench, bench.call(tenant.key, "meta.version"), ids[1])


def test_actor_type(bench):
    """A policy for another type of actor does not apply."""
    tenant = bench.onboard()
    with policies(bench, tenant, {"decision": "deny", "actor_type": "user"}):
        succeeded(bench.call(tenant.key, "meta.version"))
    with policies(bench, tenant, {"decision": "deny", "actor_type": "api_key"}) as ids:
        denied(bench, bench.call(tenant.key, "meta.version"), ids[0])


def test_amount(bench):
    """A policy with an amount ceiling applies exactly to calls whose params.amount is above it."""
    tenant = bench.onboard()
    cases = [(100, 200), (100.01, 403), (99.99, 200), (101, 403), (1e30, 403), (-5, 200), (None, 200)]
    rule = {"action": "e2e.*", "amount_over": 100, "decision": "deny"}
    with echo(bench) as responder, policies(bench, tenant, rule):
        for amount, status in cases:
            params = {} if amount is None else {"amount": amount}
            equal(call(responder, tenant.key, "e2e.echo", params).status, status, "status with amount %r" % amount)


def test_time_window(bench):
    """A policy with a time window applies only within it; days and time zones count too."""
    tenant = bench.onboard()
    now = bench.db.row("select to_char(n - interval '1 hour', 'HH24:MI') as from, "
                       "to_char(n + interval '1 hour', 'HH24:MI') as to, extract(isodow from n)::int as day "
                       "from (select acp.now() at time zone 'UTC' as n) x")
    day = now.pop("day")
    deny = lambda window: {"action": "meta.version", "decision": "deny", "time_window": window}
    ask = lambda: bench.call(tenant.key, "meta.version").status
    with policies(bench, tenant, deny(now)):
        equal(ask(), 403, "inside")
        for offset, status in (("2 hours", 200), ("-2 hours", 200), ("24 hours", 403)):
            with clock_shifted(bench, offset):
                equal(ask(), status, "status at an offset of %s" % offset)
    with policies(bench, tenant, deny({**now, "timezone": "Asia/Tokyo"})):
        equal(ask(), 200, "status in a time zone 9 hours away")
    with policies(bench, tenant, deny({"days": [day % 7 + 1]})):
        equal(ask(), 200, "on another day")
        with clock_shifted(bench, "24 hours"):
            equal(ask(), 403, "on that day")


@contextlib.contextmanager
def authorize_raises(bench, sqlstate):
    """Makes the database fail with this SQLSTATE instead of deciding."""
    bench.need_own_stack("replaces a function of the database")
    bench.db.execute("alter function acp.authorize(jsonb) rename to authorize_kept")
    try:
        bench.db.execute("create function acp.authorize(jsonb) returns jsonb language plpgsql as "
                         "'begin raise exception using errcode = ''%s''; end'" % sqlstate)
        bench.db.execute("grant execute on function acp.authorize(jsonb) to acp_app")
        yield
    finally:
        bench.db.execute("drop function if exists acp.authorize(jsonb)")
        bench.db.execute("alter function acp.authorize_kept(jsonb) rename to authorize")


def test_policy_engine_away(bench):
    """Contract 3: without a policy decision, writes fail closed (503, no effect) and reads fail open, noted in the
    audit row."""
    tenant = bench.onboard()
    with policies(bench, tenant, {"decision": "allow"}):
        with authorize_raises(bench, "57P03"):  # the error of a server that shuts down
            reply = refused(create(bench, tenant.key), 503, "UNAVAILABLE")
            check(reply.header("Retry-After"), "no Retry-After\n%s" % reply)
            read = succeeded(bench.score(tenant.key))
        equal(bench.audit(read)["result_meta"]["policy_check"], "failed_open", "policy_check")
        equal(models(bench, tenant), 0, "models")
        succeeded(create(bench, tenant.key))


def test_policy_engine_broken(bench):
    """Contract 3: a database that is up but cannot evaluate the policies does not count as down: reads are refused
    too."""
    tenant = bench.onboard()
    with policies(bench, tenant, {"decision": "deny"}) as ids:
        with authorize_raises(bench, "22007"):
            for reply in (create(bench, tenant.key), bench.score(tenant.key), bench.call(tenant.key, "meta.version")):
                refused(reply, 500, "INTERNAL_ERROR")
                bench.audit(reply, status="error", billable=False)
        denied(bench, bench.score(tenant.key), ids[0])
    equal((models(bench, tenant), bench.usage(tenant.key)["calls_used"]), (0, 0), "models and calls_used")


UNEVALUABLE = [{"from": "9am", "to": "17:00"}, {"timezone": "Europe/Berln"}, {"days": "monday"}, "always"]


def test_policy_that_cannot_be_evaluated(bench):
    """A policy that an older version accepted and that cannot be evaluated refuses calls, whatever its decision.
    Messages name it."""
    bench.need_own_stack("writes to acp.policies")
    tenant = bench.onboard()
    for window in UNEVALUABLE:
        bad = str(uuid.uuid4())
        with policies(bench, tenant, {"action": "meta.version", "decision": "allow", "priority": 10}):
            bench.db.text("insert into acp.policies (policy_id, tenant_id, name, priority, enabled, action_pattern, time_window, "
                          "decision, version, created_at) values (:'bad', :'id', 'office', 50, true, '*', :'window', 'allow', "
                          "acp.policy_version() + 1, acp.now())", bad=bad, id=tenant.id, window=json.dumps(window))
            for reply in (create(bench, tenant.key), bench.score(tenant.key)):
                denied(bench, reply, bad)
                check("operator" in reply.json["error"], "the refusal does not name the operator: %s" % reply)
            succeeded(bench.call(tenant.key, "meta.version"))  # a policy with a lower priority number decides
            doctor = bench.stack.program("acpctl", "doctor").stdout if window is UNEVALUABLE[0] else ""
        if doctor:
            check(re.search("WRONG .*%s .office.*calls that it applies to are refused" % bad, doctor), doctor)
            check(bad not in bench.stack.program("acpctl", "doctor").stdout, "doctor still names it")
        with open(bench.stack.log, encoding="utf-8") as log:
            check("policy %s (office) cannot be evaluated" % bad in log.read(), "the log does not name it")
    succeeded(bench.score(tenant.key))


# Approvals ------------------------------------------------------------------------------------------------------------

APPROVE = {"action": CREATE, "decision": "require_approval"}


def test_approval(bench):
    """APPROVAL_REQUIRED has an approval id. After approval, exactly that call passes, once."""
    tenant = bench.onboard()
    with policies(bench, tenant, APPROVE):
        approval = approval_of(bench, create(bench, tenant.key))
        equal(approval_of(bench, create(bench, tenant.key)), approval, "approval of the same call")
        equal(approvals(bench, tenant), {approval: "pending"}, "approvals")
        equal((decide(bench, approval), decide(bench, approval)), (True, False), "decided")
        other = approval_of(bench, create(bench, tenant.key, "another"))
        reply = succeeded(create(bench, tenant.key))
        row = bench.audit(reply, status="success", billable=True)
        equal(row["result_meta"]["policy"]["approval_id"], approval, "approval_id of the audit row")
        used = bench.db.row("select status, used_by from acp.approvals where approval_id = :'id'", id=approval)
        equal(used, {"status": "used", "used_by": row["event_id"]}, "the approval")
        again = approval_of(bench, create(bench, tenant.key))
        equal(len({approval, other, again}), 3, "different approvals")
    equal((models(bench, tenant), bench.usage(tenant.key)["calls_used"]), (1, 1), "models and calls_used")


def test_approval_is_of_key_and_tenant(bench):
    """An approval is for one hash, actor and tenant. The same request of another key or tenant needs its own."""
    tenant, stranger = bench.onboard(), bench.onboard()
    colleague, _ = bench.make_key(tenant, "manage.domain")
    with policies(bench, tenant, APPROVE), policies(bench, stranger, APPROVE):
        approval = approval_of(bench, create(bench, tenant.key))
        decide(bench, approval)
        ids = {approval, approval_of(bench, create(bench, colleague)), approval_of(bench, create(bench, stranger.key))}
        equal(len(ids), 3, "different approvals")
        succeeded(create(bench, tenant.key))


def test_concurrent_use(bench):
    """An approved id lets a call through once: of 16 concurrent calls one passes, and has one effect."""
    tenant = bench.onboard()
    with policies(bench, tenant, APPROVE):
        decide(bench, approval_of(bench, create(bench, tenant.key)))
        replies = parallel(16, lambda _: create(bench, tenant.key))
        passed = [reply for reply in replies if reply.status == 200]
        equal(len(passed), 1, "calls that passed")
        for reply in replies:
            if reply is not passed[0]:
                refused(reply, 403, "APPROVAL_REQUIRED")
        bench.audit_each(replies, tenant_id=tenant.id)
    equal((models(bench, tenant), bench.tenant_rows(tenant, "billable")), (1, 1), "models and billed rows")


def test_concurrent_asking(bench):
    """A call has one approval id: 16 concurrent requests do not create 16 approvals, each of which would let one
    through."""
    tenant = bench.onboard()
    with policies(bench, tenant, APPROVE):
        ids = {approval_of(bench, reply) for reply in parallel(16, lambda _: create(bench, tenant.key))}
    equal(len(ids), 1, "approvals of one call")


def test_rejected_and_expired(bench):
    """An approval that was rejected, or not used for a week, lets nothing through."""
    tenant = bench.onboard()
    with policies(bench, tenant, APPROVE):
        no = approval_of(bench, create(bench, tenant.key))
        equal(decide(bench, no, "rejected"), True, "decided")
        yes = approval_of(bench, create(bench, tenant.key))
        check(yes != no, "the rejected approval again")
        decide(bench, yes)
        with clock_shifted(bench, "8 days"):
            check(approval_of(bench, create(bench, tenant.key)) != yes, "the approval of a week ago")
    equal(models(bench, tenant), 0, "models")


def test_failed_call_keeps_its_approval(bench):
    """Contract 3: if a later stage refuses a call, the earlier ones leave nothing behind: the approval is not used
    up."""
    tenant = bench.onboard()
    params = {"model_id": NIL, "leads": SCORE_PARAMS["leads"]}
    with policies(bench, tenant, {**APPROVE, "action": SCORE}):
        approval = approval_of(bench, bench.call(tenant.key, SCORE, params))
        decide(bench, approval)
        refused(bench.call(tenant.key, SCORE, params), 404, "NOT_FOUND")
        equal(approvals(bench, tenant), {approval: "approved"}, "approvals")


def test_approval_and_dry_run(bench):
    """Contract 3: a dry run needs, creates and uses no approval."""
    tenant = bench.onboard()
    with policies(bench, tenant, APPROVE):
        succeeded(create(bench, tenant.key, dry_run=True))
        equal(approvals(bench, tenant), {}, "approvals")
        approval = approval_of(bench, create(bench, tenant.key))
        decide(bench, approval)
        succeeded(create(bench, tenant.key, dry_run=True))
        equal(approvals(bench, tenant), {approval: "approved"}, "approvals")
        succeeded(create(bench, tenant.key))


def test_approval_and_replay(bench):
    """Contract 3 (order): the refusal frees the idempotency key. A replay of the approved call needs no second
    approval."""
    tenant = bench.onboard()
    key = fresh()
    with policies(bench, tenant, APPROVE):
        decide(bench, approval_of(bench, create(bench, tenant.key, idempotency_key=key)))
        first = succeeded(create(bench, tenant.key, idempotency_key=key))
        replayed(bench, first, create(bench, tenant.key, idempotency_key=key))


def test_approval_is_of_what_was_sent(bench):
    """An approved id lets exactly that call through, not one that differs where audit rows show [REDACTED]."""
    tenant = bench.onboard()
    name = "settings.update"
    ask = lambda value: bench.call(tenant.key, name, {"settings": {"metadata": {"token": value}}})
    with policies(bench, tenant, {**APPROVE, "action": name}):
        decide(bench, approval_of(bench, ask("harmless")))
        reply = ask("something else")
    refused(reply, 403, "APPROVAL_REQUIRED")


# Approvals of calls whose effect is not in their transaction -----------------------------------------------------------

APPROVE_HTTP = {"action": "e2e.http", "decision": "require_approval"}


@contextlib.contextmanager
def approved_upstream(bench, tenant, settings=None, **handler):
    """An upstream behind the action e2e.http, whose next call is approved. Yields the upstream, the responder and the
    approval."""
    with Upstream() as upstream, behind(bench, upstream, settings, handler) as responder:
        with policies(bench, tenant, APPROVE_HTTP):
            approval = approval_of(bench, call(responder, tenant.key, "e2e.http"))
            equal(decide(bench, approval), True, "decided")
            yield upstream, responder, approval


def test_concurrent_use_with_an_upstream(bench):
    """Of ten concurrent calls with one approval, the upstream receives one. The others need another approval."""
    tenant = bench.onboard()
    with approved_upstream(bench, tenant, {"workers": "12"}) as (upstream, responder, approval):
        upstream.wait = 0.5
        replies = parallel(10, lambda _: call(responder, tenant.key, "e2e.http"))
        equal(sorted(reply.status for reply in replies), [200] + [403] * 9, "statuses")
        equal(len(upstream.seen), 1, "requests to the upstream")
        for reply in replies:
            if reply.status != 200:
                refused(reply, 403, "APPROVAL_REQUIRED")
        bench.audit_each(replies, tenant_id=tenant.id)
        passed = next(reply for reply in replies if reply.status == 200)
        used = bench.db.row("select status, used_by from acp.approvals where approval_id = :'id'", id=approval)
        equal(used, {"status": "used", "used_by": bench.audit(passed)["event_id"]}, "the approval")
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")


def test_an_approval_is_used_up_once_sent(bench):
    """If the upstream may have acted, the approval stays used: it is asked once, however often the call is repeated."""
    for trouble in ("late", 500, 503, b"{"):
        tenant = bench.onboard()
        with approved_upstream(bench, tenant, timeout_ms=300) as (upstream, responder, approval):
            if trouble == "late":
                upstream.wait = 0.8
            else:
                upstream.says(*((200, trouble) if isinstance(trouble, bytes) else (trouble, {})))
            refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED")
            for _ in range(3):
                check(approval_of(bench, call(responder, tenant.key, "e2e.http")) != approval, "the same approval")
            equal((len(upstream.seen), approvals(bench, tenant)[approval]), (1, "used"), "requests, and the approval")


def test_an_approval_is_given_back(bench):
    """If it is known that the upstream did nothing, the approval lets the next call through."""
    tenant = bench.onboard()
    with approved_upstream(bench, tenant) as (upstream, responder, approval):
        for status, http in ((400, 400), (404, 404), (409, 409), (422, 400), (401, 502), (403, 502), (429, 502)):
            upstream.says(status, {"error": "no"})
            equal(call(responder, tenant.key, "e2e.http").status, http, "status with %d" % status)
            equal(approvals(bench, tenant), {approval: "approved"}, "approvals after %d" % status)
        equal(bench.db.row("select used_by from acp.approvals where approval_id = :'id'", id=approval),
              {"used_by": None}, "used_by")
        upstream.says(200, {"data": 1})
        succeeded(call(responder, tenant.key, "e2e.http"))
        equal(approvals(bench, tenant)[approval], "used", "the approval")
    tenant = bench.onboard()
    with approved_upstream(bench, tenant) as (upstream, responder, approval):
        upstream.server.shutdown()
        upstream.server.server_close()
        reply = refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED")
        check("nothing was done" in reply.json["error"], "%s" % reply)
        equal(approvals(bench, tenant), {approval: "approved"}, "approvals while the upstream is down")


def test_later_refusals_use_no_approval(bench):
    """Contract 3: a call that the allowance refuses does not use its approval, and one with a used approval leaves no
    reservation and no claim."""
    tenant = bench.onboard()
    with approved_upstream(bench, tenant, {"free_calls_limit": "1"}) as (upstream, responder, approval):
        bench.db.text("select acp.policy_add(gen_random_uuid(), :'id', :'text')", id=tenant.id, text=json.dumps(
            {"name": "e2e", "decision": "allow", "action": SCORE, "priority": 1}))
        succeeded(call(responder, tenant.key, SCORE, SCORE_PARAMS))
        refused(call(responder, tenant.key, "e2e.http"), 402, "UPGRADE_REQUIRED")
        equal((approvals(bench, tenant), len(upstream.seen)), ({approval: "approved"}, 0), "approvals, and requests")
        for _ in range(2):
            refused(call(responder, tenant.key, "e2e.http", {"x": 1}, idempotency_key="k"), 403, "APPROVAL_REQUIRED")
    equal(bench.db.value("select (select coalesce(sum(reserved), 0) from acp.usage_quota where tenant_id = :'id') + "
                         "(select count(*) from acp.idempotency where tenant_id = :'id')", id=tenant.id), 0,
          "reservations and claims")


def test_a_call_killed_after_its_approval(bench):
    """If the process dies while the upstream acts, the approval stays used, and a repetition asks for another one."""
    bench.need_own_stack("kills its responder")
    tenant = bench.onboard()
    with approved_upstream(bench, tenant, {"processes": "1"}) as (upstream, responder, approval):
        upstream.wait = 1.5
        worker = children(responder.process.pid)

        def lost():
            with contextlib.suppress(Exception):
                call(responder, tenant.key, "e2e.http")
        thread = threading.Thread(target=lost, daemon=True)
        thread.start()
        until(10, "the upstream is asked", lambda: upstream.seen)
        os.kill(worker[0], signal.SIGKILL)
        thread.join(20)
        equal(approvals(bench, tenant)[approval], "used", "the approval")
        until(10, "another worker", lambda: children(responder.process.pid) not in ([], worker))
        upstream.wait = 0
        check(approval_of(bench, call(responder, tenant.key, "e2e.http")) != approval, "the same approval")
        equal(len(upstream.seen), 1, "requests")


def test_an_approved_call_and_its_idempotency_key(bench):
    """A repetition with the key of an approved call replays its reply. The upstream is asked once."""
    tenant = bench.onboard()
    key = fresh()
    with Upstream() as upstream, behind(bench, upstream) as responder, policies(bench, tenant, APPROVE_HTTP):
        ask = lambda: call(responder, tenant.key, "e2e.http", idempotency_key=key)
        decide(bench, approval_of(bench, ask()))
        replayed(bench, succeeded(ask()), ask())
        equal(len(upstream.seen), 1, "requests")


# Proposals ------------------------------------------------------------------------------------------------------------

POLICY = {"name": "no models", "decision": "deny", "action": CREATE, "priority": 5, "reason": "frozen"}


def proposals(bench, tenant):
    return bench.db.rows("select proposal_id, status, policy from acp.policy_proposals where tenant_id = :'id'",
                         id=tenant.id)


def decide_proposal(bench, proposal, status):
    return bench.db.value("select acp.proposal_decide(:'id', :'status')", id=proposal, status=status)


def publish(bench, proposal):
    return bench.db.value("select acp.policy_publish(:'id', gen_random_uuid())", id=proposal)


def test_proposal_dry_run(bench):
    """A dry run of governance.propose_policy changes no table; it creates no policy and no proposal."""
    tenant = bench.onboard()
    before = bench.db.fingerprints(without=METERED)
    reply = succeeded(bench.call(tenant.key, PROPOSE, {"policy": POLICY}, dry_run=True))
    equal(bench.db.fingerprints(without=METERED), before, "tables")
    equal([(entry["type"], entry["policy"]) for entry in reply.data["creates"]], [("policy_proposal", POLICY)],
          "creates")
    bench.audit(reply, dry_run=True, billable=False)


def test_proposal(bench):
    """A proposal has no effect until it is approved and published. Then it applies to its tenant only."""
    tenant, other = bench.onboard(), bench.onboard()
    data = succeeded(bench.call(tenant.key, PROPOSE, {"policy": POLICY})).data
    equal(proposals(bench, tenant), [{"proposal_id": data["proposal_id"], "status": "proposed", "policy": POLICY}],
          "proposals")
    succeeded(create(bench, tenant.key))
    equal(publish(bench, data["proposal_id"]), False, "published without approval")
    equal([decide_proposal(bench, data["proposal_id"], "approved") for _ in range(2)], [True, False], "approved")
    succeeded(create(bench, tenant.key))
    try:
        equal([publish(bench, data["proposal_id"]) for _ in range(2)], [True, False], "published")
        equal(refused(create(bench, tenant.key), 403, "POLICY_DENIED").json["error"], "frozen", "error")
        succeeded(create(bench, other.key))
    finally:
        disable_all(bench, tenant)
    succeeded(create(bench, tenant.key))


def test_rejected_proposal(bench):
    """A rejected proposal cannot be published or approved later."""
    tenant = bench.onboard()
    proposal = succeeded(bench.call(tenant.key, PROPOSE, {"policy": POLICY})).data["proposal_id"]
    equal((decide_proposal(bench, proposal, "rejected"), decide_proposal(bench, proposal, "approved"),
           publish(bench, proposal)),
          (True, False, False), "rejected, approved, published")
    succeeded(create(bench, tenant.key))


def test_bad_proposals(bench):
    """Contract 3: an invalid policy is refused when it is proposed; the error names the invalid member."""
    tenant = bench.onboard()
    bad = [({"decision": "maybe"}, "decision"), ({"name": ""}, "name"), ({"priority": 0}, "priority"),
           ({"action": "IAM.*"}, "action"), ({"amount_over": -1}, "amount_over"),
           ({"actor_type": "robot"}, "actor_type"),
           ({"tenant_id": NIL}, "tenant_id"), ({"time_window": {"days": [8]}}, "time_window/days/0"),
           ({"time_window": {"from": "24:00"}}, "time_window/from"),
           ({"time_window": {"timezone": "Mars/Olympus"}}, "time_window/timezone")]
    for change, member in bad:
        refused(bench.call(tenant.key, PROPOSE, {"policy": {**POLICY, **change}}), 400, "VALIDATION_ERROR",
                "/params/policy/" + member)
    equal(proposals(bench, tenant), [], "proposals")
