"""What a tenant can store has a ceiling, pages and an end: contract 6. The ceilings of keys and webhooks are in
test_limits.py, that of deliveries is in test_webhooks.py."""

import itertools

from client import refused, succeeded
from checks import check, equal, spread
from test_usage import clock_shifted

INVITE, TEAM = "iam.team.invite", "iam.team.list"
PROPOSE = "governance.propose_policy"
CREATE = "domain.leadscoring.models.create"
UPSERT = "domain.leadscoring.questions.upsert_bulk"
MODEL = {"name": "m", "model_type": "linear", "weights": {}}
QUOTA = 65536

SETTINGS = {"ceiling_team": "12", "ceiling_approvals": "5", "ceiling_proposals": "3", "ceiling_models": "12",
            "ceiling_questions": "25", "idempotency_bytes_per_tenant": str(QUOTA), "onboard_per_ip": "100000",
            "onboard_total": "100000"}
STACK = {"settings": SETTINGS}


def fill(bench, tenant, action, params, room):
    """Calls the action once for each of params, with 16 clients. Exactly `room` calls succeed; the others are refused
    and audited. Returns the refusals."""
    replies = spread(16, params, lambda one: bench.call(tenant.key, action, one))
    equal(sorted(reply.status for reply in replies), [200] * room + [403] * (len(replies) - room), "statuses")
    over = [refused(reply, 403, "CEILING_EXCEEDED") for reply in replies if reply.status == 403]
    bench.audit_each(over, status="denied", error_code="CEILING_EXCEEDED", billable=False)
    return over


def person(number):
    return {"email": "p%03d@example.com" % number, "role": "member"}


def test_team(bench):
    """A team has at most ceiling_team members, also with 16 clients; a known person can still get another role. The
    list has pages."""
    tenant, other = bench.onboard(), bench.onboard()
    over = fill(bench, tenant, INVITE, [person(number) for number in range(20)], 12)
    check("ceiling_team" in over[0].json["error"], "the refusal names the setting: %s" % over[0].json["error"])
    team = succeeded(bench.call(tenant.key, TEAM)).data
    equal(len(team), 12, "members")
    changed = succeeded(bench.call(tenant.key, INVITE, {"email": team[0]["email"], "role": "admin"})).data
    equal(changed["role"], "admin", "role of a known person")
    refused(bench.call(tenant.key, INVITE, {"email": "new@example.com", "role": "admin"}, dry_run=True), 403,
            "CEILING_EXCEEDED")
    pages, after = [], {}
    while not pages or pages[-1]:
        pages.append(succeeded(bench.call(tenant.key, TEAM, {"limit": 5, **after})).data)
        after = {"after": pages[-1][-1]["email"]} if pages[-1] else after
    equal([len(page) for page in pages], [5, 5, 2, 0], "sizes of the pages")
    equal([member["email"] for page in pages for member in page], [member["email"] for member in team], "the pages")
    refused(bench.call(tenant.key, TEAM, {"limit": 201}), 400, "VALIDATION_ERROR", "/params/limit")
    succeeded(bench.call(other.key, INVITE, person(1)))


def test_models(bench):
    """A tenant has at most ceiling_models models, also with 16 clients; a refused call is not billed."""
    tenant, other = bench.onboard(), bench.onboard()
    fill(bench, tenant, CREATE, [MODEL] * 20, 12)
    equal(bench.usage(tenant.key)["calls_used"], 12, "calls used")
    succeeded(bench.call(other.key, CREATE, MODEL))


def test_questions(bench):
    """A tenant has at most ceiling_questions questions, also with 16 clients; existing ones can still be changed."""
    tenant = bench.onboard()
    bulk = lambda number: {"questions": [{"key": "k%d-%d" % (number, n), "text": "t"} for n in range(5)]}
    fill(bench, tenant, UPSERT, [bulk(number) for number in range(10)], 5)
    known = succeeded(bench.call(tenant.key, "domain.leadscoring.questions.list", {"limit": 200})).data
    equal(len(known), 25, "questions")
    changed = succeeded(bench.call(tenant.key, UPSERT, {"questions": [{"key": known[0]["key"], "text": "u"}]})).data
    equal(changed, {"created": 0, "updated": 1}, "an upsert of a known question")


def test_proposals(bench):
    """So many proposals of a tenant wait for a decision as ceiling_proposals says; a decision makes room for one."""
    tenant = bench.onboard()
    policy = {"policy": {"name": "n", "decision": "deny", "action": "x.y"}}
    fill(bench, tenant, PROPOSE, [policy] * 18, 3)
    decide = "select acp.proposal_decide(proposal_id, 'rejected') from acp.policy_proposals where tenant_id = :'id' " \
             "limit 1"
    equal(bench.db.value(decide, id=tenant.id), True, "a proposal is decided")
    succeeded(bench.call(tenant.key, PROPOSE, policy))
    refused(bench.call(tenant.key, PROPOSE, policy), 403, "CEILING_EXCEEDED")


def test_approvals(bench):
    """So many calls of a tenant wait for an approval as ceiling_approvals says, also with 16 clients. The same call
    asks again under its approval. Maintenance ends approvals after 30 days."""
    tenant = bench.onboard()
    bench.db.execute("select acp.policy_add(gen_random_uuid(), :'id', :'policy')", id=tenant.id,
                     policy='{"name": "n", "decision": "require_approval", "action": "%s"}' % CREATE)
    calls = [{**MODEL, "name": "m%d" % number} for number in range(20)]
    replies = spread(16, calls, lambda params: bench.call(tenant.key, CREATE, params))
    codes = [reply.code for reply in replies]
    equal(sorted(codes), ["APPROVAL_REQUIRED"] * 5 + ["CEILING_EXCEEDED"] * 15, "codes")
    first = codes.index("APPROVAL_REQUIRED")
    again = refused(bench.call(tenant.key, CREATE, calls[first]), 403, "APPROVAL_REQUIRED")
    equal(again.json["approval_id"], replies[first].json["approval_id"], "approval_id of the same call")
    rows = "select count(*) from acp.approvals where tenant_id = :'id'"
    equal(int(bench.db.value(rows, id=tenant.id)), 5, "rows")
    with clock_shifted(bench, "38 days"):
        bench.db.execute("select acp.maintain()")
    equal(int(bench.db.value(rows, id=tenant.id)), 0, "rows after 38 days")


def test_settings(bench):
    """Settings have at most 64 KiB."""
    tenant = bench.onboard()
    update = lambda size: bench.call(tenant.key, "settings.update", {"settings": {"metadata": {"n" * size: "v"}}})
    succeeded(update(60000))
    refused(update(66000), 400, "VALIDATION_ERROR", "/params/settings")


def test_kept_replies(bench):
    """Replies that are kept for idempotency keys have a quota. Beyond it a new key gets 429 and nothing is done; known
    keys replay, calls without a key and other tenants go on; what expires makes room."""
    tenant, other = bench.onboard(), bench.onboard()
    for one in (tenant, other):
        bench.db.execute("insert into acp.team_members (tenant_id, email, role, status, invited_at) select :'id', "
                         "repeat('x', 100) || n || '@example.com', 'member', 'invited', acp.now() "
                         "from generate_series(1, 60) n", id=one.id)
    keys = ("key-%d" % number for number in itertools.count())
    listed = lambda key=None, who=tenant: bench.call(who.key, TEAM, {}, **({"idempotency_key": key} if key else {}))
    kept = []
    for key in keys:
        reply = listed(key)
        if reply.status != 200:
            break
        kept.append((key, reply))
        check(len(kept) < 20, "20 replies of %d bytes were kept" % len(reply.body))
    refused(reply, 429, "RATE_LIMITED")
    check(int(reply.header("Retry-After")) > 0, "Retry-After")
    bench.audit(reply, status="denied", error_code="RATE_LIMITED")
    stored = "select sum(octet_length(sealed)) from acp.idempotency where tenant_id = :'id'"
    size = int(bench.db.value(stored, id=tenant.id))
    check(size <= QUOTA, "bytes that are kept: %d" % size)
    invited = bench.call(tenant.key, INVITE, person(1), idempotency_key="invite")
    refused(invited, 429, "RATE_LIMITED")
    equal(int(bench.db.value("select count(*) from acp.team_members where tenant_id = :'id' and email like 'p%'",
                             id=tenant.id)), 0, "people that the refused call added")
    again = succeeded(listed(kept[0][0]))
    equal((again.code, again.data), ("IDEMPOTENT_REPLAY", kept[0][1].data), "the replay")
    refused(listed(kept[-1][0]), 413, "PAYLOAD_TOO_LARGE")  # the last one did not fit any more
    succeeded(listed())
    succeeded(listed("key", other))
    with clock_shifted(bench, "25 hours"):
        succeeded(listed(next(keys)))
