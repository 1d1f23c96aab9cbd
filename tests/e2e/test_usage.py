"""The free allowance and GET /api/usage: contract 2.1 and 3 (usage)."""

import contextlib
import datetime
import threading
import time
import urllib.parse
import uuid

from client import CREATE, NIL, SCORE, SCORE_PARAMS, refused, succeeded
from checks import check, equal, parallel, spread, until
from test_actions_dir import Upstream, behind, call

LIMIT = 100
IN_FORCE = 0.1  # seconds after the answer a change by another program (acpctl) is in effect everywhere
NO_MODEL = {"model_id": NIL, "leads": SCORE_PARAMS["leads"]}


def use(bench, tenant, calls):
    """Makes this number of billable calls; returns the replies."""
    return [succeeded(reply) for reply in spread(8, range(calls), lambda _: bench.score(tenant.key))]


def use_all(bench, tenant):
    use(bench, tenant, LIMIT)


def next_month(day):
    return (day.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)


def today(bench):
    """Today by the program's clock."""
    return datetime.date.fromisoformat(bench.db.value("select acp.day(acp.now())"))


def month(day):
    return day.strftime("%Y-%m")


def midnight(day):
    return day.strftime("%Y-%m-%dT00:00:00Z")


@contextlib.contextmanager
def clock_shifted(bench, offset):
    """Shifts acp.now() by the offset for the block."""
    bench.db.execute("select format('alter database %I set acp.clock_offset = %L', current_database(), :'o') \\gexec\n",
                     o=offset)
    try:
        yield
    finally:
        bench.db.execute("select format('alter database %I reset acp.clock_offset', current_database()) \\gexec\n")


def quota_rows(bench, tenant):
    return bench.db.rows("select used, reserved from acp.usage_quota where tenant_id = :'id'", id=tenant.id)


def test_first_call(bench):
    """Contract 3: after one call, calls_used is 1. The usage object has every member of contract 2.1."""
    tenant = bench.onboard()
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used before")
    reply = succeeded(bench.score(tenant.key))
    check("warning" not in reply.json, "a warning\n%s" % reply)
    usage, day = bench.usage(tenant.key), today(bench)
    usage.pop("request_id")
    check("manage.domain" in usage.pop("scopes"), "the scopes of the key")
    equal(usage, {"ok": True, "tenant_id": tenant.id, "tier": "free", "calls_used": 1, "calls_held": 0, "calls_limit": LIMIT,
                  "calls_remaining": LIMIT - 1, "period_start": midnight(day.replace(day=1)),
                  "period_end": midnight(next_month(day)),
                  "by_action": [{"action": SCORE, "calls": 1, "billing_unit": "row", "quantity": 1}],
                  "by_day": [{"day": day.isoformat(), "calls": 1}], "cost": {"amount": 0, "currency": "USD"}}, "usage")


def test_reading_usage_costs_nothing(bench):
    """Contract 2.1: GET /api/usage is never billed or counted, and has no audit row."""
    tenant = bench.onboard()
    for _ in range(5):
        bench.usage(tenant.key)
    equal(bench.tenant_rows(tenant), 0, "audit rows")
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")


def test_usage_errors(bench):
    """Contract 2, 2.1: a period that is not YYYY-MM gets 400 with its field, no key 401, POST 405."""
    key = bench.onboard().key
    bad = ["", "2026", "2026-1", "2026-13", "2026-00", "2026-11-01", "26-11", "abcd-ef", "2026-11x", "2026%2D1a",
           "0000-01",
           "2026-11&period=2026-10", "-026-11", "2026/11", "%32026-111", "%EF%BC%922026-1", "2026-1%", "2026-1%zz"]
    for period in bad:
        refused(bench.get("/api/usage?period=" + period, key), 400, "VALIDATION_ERROR", "/period")
    refused(bench.get("/api/usage"), 401, "INVALID_API_KEY")
    for method in ["POST", "PUT", "DELETE"]:
        reply = refused(bench.send(method, "/api/usage", "{}", key=key), 405, "METHOD_NOT_ALLOWED")
        equal(reply.header("Allow"), "GET, HEAD", "Allow")


def test_usage_of_other_periods(bench):
    """Contract 2.1: ?period= shows any month; a month without calls is empty."""
    tenant = bench.onboard()
    use(bench, tenant, 2)
    this = today(bench)
    equal(bench.usage(tenant.key, month(this))["calls_used"], 2, "this month, named")
    past = bench.usage(tenant.key, "2001-12")
    equal((past["calls_used"], past["by_action"], past["by_day"], past["period_start"], past["period_end"]),
          (0, [], [], "2001-12-01T00:00:00Z", "2002-01-01T00:00:00Z"), "a month without calls")
    equal(past["calls_remaining"], LIMIT, "calls_remaining")


def test_sums(bench):
    """Contract 2.1: the sums of by_action and by_day equal calls_used and agree with the audit rows."""
    tenant = bench.onboard()
    use(bench, tenant, 5)
    for name in "ab":
        succeeded(bench.call(tenant.key, CREATE, {"name": name, "model_type": "ml"}))
    succeeded(bench.call(tenant.key, SCORE, {"weights": {}, "leads": [{"id": "x", "features": {}}] * 10}))
    bench.call(tenant.key, SCORE, {})
    bench.call(tenant.key, "meta.version")
    usage = bench.usage(tenant.key)
    equal(usage["by_action"], [{"action": CREATE, "calls": 2, "billing_unit": "call", "quantity": 2},
                               {"action": SCORE, "calls": 6, "billing_unit": "row", "quantity": 15}], "by_action")
    equal(sum(day["calls"] for day in usage["by_day"]), usage["calls_used"], "sum of by_day")
    equal(usage["calls_used"], 8, "calls_used")
    equal(bench.tenant_rows(tenant, "billable"), 8, "billable audit rows")
    equal(bench.tenant_rows(tenant), 10, "audit rows")


def check_warning(reply, used):
    warning = succeeded(reply).json.get("warning")
    check(warning, "no warning on call %d\n%s" % (used, reply))
    equal(set(warning), {"message", "upgrade_url", "usage"}, "members of warning")
    equal(warning["usage"], {"calls_used": used, "calls_held": 0, "calls_limit": LIMIT, "calls_remaining": LIMIT - used, "tier": "free"},
          "usage of the warning")
    check(str(used) in warning["message"], "message\n%s" % reply)


def test_warning_from_90_on(bench):
    """Contract 3: the call that brings calls_used to 89 has no warning. From 90 on there is one, which includes the
    current call."""
    tenant = bench.onboard()
    for reply in use(bench, tenant, 87):
        check("warning" not in reply.json, "a warning too early\n%s" % reply)
    for used in (88, 89):
        check("warning" not in succeeded(bench.score(tenant.key)).json, "a warning on call %d" % used)
    for used in (90, 91):
        check_warning(bench.score(tenant.key), used)
    check("warning" not in succeeded(bench.call(tenant.key, "meta.version")).json, "a warning on a free action")
    check("warning" not in succeeded(bench.call(tenant.key, SCORE, SCORE_PARAMS, dry_run=True)).json,
          "a warning on a dry run")
    use(bench, tenant, 8)
    check_warning(bench.score(tenant.key), LIMIT)


def check_refusal(bench, reply):
    refused(reply, 402, "UPGRADE_REQUIRED")
    equal(set(reply.json), {"ok", "request_id", "error", "code", "upgrade_url", "usage", "resets_at", "retryable"},
          "members")
    equal(reply.json["error"], "Free tier limit reached (100 calls). Add a payment method to continue.", "error")
    equal(reply.json["usage"], {"calls_used": LIMIT, "calls_held": 0, "calls_limit": LIMIT, "calls_remaining": 0, "tier": "free"},
          "usage")
    equal(reply.json["retryable"], False, "retryable")
    equal(reply.json["resets_at"], midnight(next_month(today(bench))), "resets_at")
    check(reply.header("Retry-After") is None, "Retry-After on a refusal that is not retryable\n%s" % reply)


def test_call_101(bench):
    """Contract 3: call 101 gets 402 with every member. A refused call uses nothing; meta.* and GET /api/usage still
    work."""
    tenant = bench.onboard()
    use_all(bench, tenant)
    replies = [bench.score(tenant.key) for _ in range(3)]
    for reply in replies:
        check_refusal(bench, reply)
    bench.audit_each(replies, status="denied", error_code="UPGRADE_REQUIRED", billable=False, tenant_id=tenant.id,
                     tier="free", action=SCORE)
    for action in ("meta.actions", "meta.version"):
        check("warning" not in succeeded(bench.call(tenant.key, action)).json, "a warning on " + action)
    usage = bench.usage(tenant.key)
    equal((usage["calls_used"], usage["calls_remaining"]), (LIMIT, 0), "calls_used, calls_remaining")


def test_at_the_limit(bench):
    """Contract 3: at the limit, the checks before usage still come first, and dry runs, which use nothing, still
    work."""
    tenant = bench.onboard()
    use_all(bench, tenant)
    refused(bench.call(tenant.key, SCORE, {}), 400, "VALIDATION_ERROR")
    refused(bench.call(tenant.key, "no.such"), 404, "NOT_FOUND")
    refused(bench.call(tenant.key, SCORE, NO_MODEL), 402, "UPGRADE_REQUIRED")
    succeeded(bench.call(tenant.key, SCORE, SCORE_PARAMS, dry_run=True))
    for action, params in [(CREATE, {"name": "m", "model_type": "ml"}), ("domain.leadscoring.models.list", {})]:
        refused(bench.call(tenant.key, action, params), 402, "UPGRADE_REQUIRED")
    equal(bench.db.value("select count(*) from acp.leadscoring_models where tenant_id = :'id'", id=tenant.id), 0,
          "models")


def path_of(bench, url):
    """The path and query of the URL, because public_url may differ from the client's address."""
    parts = urllib.parse.urlsplit(url)
    check(parts.scheme in ("http", "https") and parts.netloc, "upgrade_url %s" % url)
    return parts.path + "?" + parts.query


def test_upgrade_url(bench):
    """Contract 2.1: upgrade_url is a signed link that works. A link that is altered or not signed by us gets 404."""
    tenant = bench.onboard()
    use_all(bench, tenant)
    path = path_of(bench, bench.score(tenant.key).json["upgrade_url"])
    reply = bench.get(path)
    check(reply.status == 303 or (reply.status == 503 and "Stripe is not configured" in reply.json["error"]),
          "the link does not answer\n%s" % reply)
    query = dict(urllib.parse.parse_qsl(path.partition("?")[2]))
    equal((set(query), query["tenant"]), ({"tenant", "exp", "sig"}, tenant.id), "query")
    changed = [{**query, "tenant": bench.onboard().id}, {**query, "exp": str(int(query["exp"]) + 1)},
               {**query, "sig": query["sig"][:-1] + ("0" if query["sig"][-1] != "0" else "1")}, {**query, "sig": ""},
               {"tenant": query["tenant"], "exp": query["exp"]}, {}]
    for other in changed:
        refused(bench.get(path.partition("?")[0] + "?" + urllib.parse.urlencode(other)), 404, "NOT_FOUND")


def test_failing_calls_use_nothing(bench):
    """Contract 3: invalid params, a failing handler, a refused scope and a dry run use nothing; the place is given
    back."""
    tenant = bench.onboard()
    reader, _ = bench.make_key(tenant, "manage.read")
    calls = [lambda: bench.call(tenant.key, SCORE, {}), lambda: bench.call(tenant.key, SCORE, NO_MODEL),
             lambda: bench.call(reader, SCORE, SCORE_PARAMS), lambda: bench.call(tenant.key, "no.such"),
             lambda: bench.call(tenant.key, SCORE, SCORE_PARAMS, dry_run=True),
             lambda: bench.call(tenant.key, CREATE, {"name": "m", "model_type": "ml"}, dry_run=True),
             lambda: bench.call(tenant.key, "meta.actions")]
    equal([call().status for call in calls], [400, 404, 403, 404, 200, 200, 200], "statuses")
    equal(bench.usage(tenant.key)["calls_used"], 0, "calls_used")
    equal(bench.tenant_rows(tenant), len(calls), "audit rows")
    equal(bench.tenant_rows(tenant, "billable"), 0, "billable audit rows")
    equal(sum(row["used"] + row["reserved"] for row in quota_rows(bench, tenant)), 0, "used and reserved places")


def test_many_failures_then_all_100(bench):
    """Contract 3: after 150 calls that failed in their handler, all 100 calls still succeed."""
    tenant = bench.onboard()
    for reply in spread(8, range(150), lambda _: bench.call(tenant.key, SCORE, NO_MODEL)):
        refused(reply, 404, "NOT_FOUND")
    use_all(bench, tenant)
    refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")


def test_paid_is_unlimited(bench):
    """Contract 1, 3: with tier paid and an active payment method the next call succeeds; cost grows by $0.001."""
    tenant = bench.onboard()
    use_all(bench, tenant)
    refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
    bench.stack.ctl("tenant", "update", tenant.id, "--tier", "paid", "--payment-method", "active")
    time.sleep(IN_FORCE)
    replies = parallel(16, lambda _: bench.score(tenant.key))
    for reply in replies:
        check("warning" not in succeeded(reply).json, "a warning to a paid tenant\n%s" % reply)
    bench.audit_each(replies, tier="paid", billable=True)
    usage = bench.usage(tenant.key)
    equal((usage["tier"], usage["calls_used"], usage["calls_limit"], usage["calls_remaining"]),
          ("paid", LIMIT + 16, None, None), "usage")
    equal(usage["cost"], {"amount": 0.016, "currency": "USD"}, "cost")


def test_paid_without_payment_method(bench):
    """Contract 3: a paid tenant without an active payment method is limited like a free one, even after it was
    unlimited."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--tier", "paid")
    use_all(bench, tenant)
    check_refusal(bench, bench.score(tenant.key))
    for method, status in [("setup_pending", 402), ("active", 200), ("none", 402)]:
        bench.stack.ctl("tenant", "update", tenant.id, "--payment-method", method)
        time.sleep(IN_FORCE)
        equal(bench.score(tenant.key).status, status, "payment method " + method)
    equal(bench.usage(tenant.key)["tier"], "free", "tier")


def test_own_limit(bench):
    """A tenant may have its own limit (acpctl tenant update --calls-limit), effective at once; 0 allows no calls."""
    tenant = bench.onboard()
    for limit, statuses in [(3, [200, 200, 200, 402]), (0, [402]), (4, [200, 402])]:
        bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", str(limit))
        time.sleep(IN_FORCE)
        equal([bench.score(tenant.key).status for _ in statuses], statuses, "statuses with limit %d" % limit)
        equal(bench.usage(tenant.key)["calls_limit"], limit, "calls_limit")


def check_account(bench, tenant, replies):
    """Checks that exactly the allowance succeeded, and that every call has exactly one row."""
    bench.audit_each(replies, tenant_id=tenant.id)
    equal(bench.tenant_rows(tenant), len(replies), "audit rows")
    equal(bench.tenant_rows(tenant, "billable and status = 'success'"), LIMIT, "billable successes")
    equal(bench.usage(tenant.key)["calls_used"], LIMIT, "calls_used")
    equal(quota_rows(bench, tenant), [{"used": LIMIT, "reserved": 0}], "quota")


def test_64_clients(bench):
    """Contract 3: of 400 calls by 64 clients at once for one fresh free tenant, exactly 100 succeed and 300 get 402;
    there are 400 rows."""
    tenant = bench.onboard()
    replies = spread(64, range(400), lambda _: bench.score(tenant.key))
    statuses = [reply.status for reply in replies]
    equal((statuses.count(200), statuses.count(402)), (LIMIT, 300),
          "successes and refusals among %s" % sorted(set(statuses)))
    warned = [r.json["warning"]["usage"]["calls_used"] for r in replies if "warning" in r.json]
    equal(sorted(warned), list(range(90, LIMIT + 1)), "calls_used of the warnings")
    check_account(bench, tenant, replies)


def test_64_clients_that_write(bench):
    """Contract 3: the same with an action that writes: every success, and nothing else, has its effect."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "30")
    replies = spread(64, range(128), lambda n: bench.call(tenant.key, CREATE, {"name": "m%d" % n, "model_type": "ml"}))
    equal([reply.status for reply in replies].count(200), 30, "successes")
    equal([reply.status for reply in replies].count(402), 98, "refusals")
    made = {reply.data["model_id"] for reply in replies if reply.status == 200}
    stored = bench.db.rows("select model_id from acp.leadscoring_models where tenant_id = :'id'", id=tenant.id)
    equal({row["model_id"] for row in stored}, made, "models")
    equal(quota_rows(bench, tenant), [{"used": 30, "reserved": 0}], "quota")
    bench.audit_each(replies, tenant_id=tenant.id)


def test_repeated_statement_of_the_last_place(bench):
    """A connection is lost while the statement that stores the last free call runs. The repeated statement waits for
    the same quota, then finds the row that the first one has committed, and is not refused."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "1")
    event = ("jsonb_populate_record(null::acp.audit_logs, jsonb_build_object('event_id', '%s', 'request_id', '%s', "
             "'ts', acp.now(), 'tenant_id', '%s', 'integration', 'acp-fcgi', 'action', '%s', 'actor_type', 'api_key', "
             "'status', 'success', 'latency_ms', 1, 'dry_run', false, 'billable', true, 'billing_unit', 'call', "
             "'billing_quantity', 1, 'tier', 'free', 'chain_form', 2))"
             % (uuid.uuid4(), uuid.uuid4(), tenant.id, SCORE))
    bench.db.execute("create table e2e_event as select %s as event" % event)
    settle = ("select array_to_string(acp.settle_rows(array(select event from e2e_event), array[false], 100, 90, "
              "%s), ',', 'refused');")
    try:
        with bench.db.session() as first, bench.db.session() as second:
            first.execute("begin;")
            equal(first.execute(settle % "false"), ["1"], "the first attempt")
            answer = []
            waiting = threading.Thread(target=lambda: answer.extend(second.execute(settle % "true")))
            waiting.start()
            until(5, "the repeated statement waits", lambda: bench.db.value(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%settle_rows%'"))
            first.execute("commit;")
            waiting.join()
        equal(answer, ["-1"], "the repeated statement")
    finally:
        bench.db.execute("drop table e2e_event")
    equal(bench.db.value("select count(*) from acp.audit_logs where tenant_id = :'id' and billable", id=tenant.id), 1, "rows")
    equal(quota_rows(bench, tenant), [{"used": 1, "reserved": 0}], "quota")


def mixed_call(bench, tenant, number):
    """Of four numbers, two are calls that succeed within the allowance, one has invalid params, one fails in its
    handler."""
    params = [SCORE_PARAMS, {}, SCORE_PARAMS, NO_MODEL][number % 4]
    return bench.call(tenant.key, SCORE, params)


def test_64_clients_with_failing_calls(bench):
    """Contract 3: the same with failing calls in between, which briefly hold a place and give it back."""
    tenant = bench.onboard()
    replies = spread(64, range(400), lambda number: mixed_call(bench, tenant, number))
    for number, reply in enumerate(replies):
        check(reply.status in [(200, 402), (400,), (200, 402), (404, 402)][number % 4], "call %d\n%s" % (number, reply))
    check(sum(reply.status == 200 for reply in replies) <= LIMIT, "more than the allowance")
    # Places that were given back after the last valid call are still available.
    while len(replies) == 400 or replies[-1].status == 200:
        replies.append(bench.score(tenant.key))
        check(len(replies) < 700, "more calls succeed than allowed")
    check_account(bench, tenant, replies)


def test_warning_count_is_exact_for_lists(bench):
    """Contract 3: every billable action counts as one call, whatever its billing unit."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "10")
    leads = [{"id": "x", "features": {}}] * 100
    used = [succeeded(bench.call(tenant.key, SCORE, {"weights": {}, "leads": leads})) for _ in range(8)]
    check(not any("warning" in reply.json for reply in used), "a warning before 9 of 10")
    reply = succeeded(bench.call(tenant.key, "domain.leadscoring.questions.list"))
    equal(reply.json["warning"]["usage"], {"calls_used": 9, "calls_held": 0, "calls_limit": 10, "calls_remaining": 1, "tier": "free"},
          "usage")


def test_next_month(bench):
    """Contract 3: in the next month the full allowance is available again. The old month's usage stays readable with
    ?period=."""
    tenant = bench.onboard()
    use_all(bench, tenant)
    refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
    old = today(bench)
    with clock_shifted(bench, "%d days" % ((next_month(old) - old).days + 2)):
        reply = succeeded(bench.score(tenant.key))
        row = bench.audit(reply, billable=True)
        new = today(bench)
        check(month(new) != month(old) and row["ts"].startswith(month(new)), "ts %s" % row["ts"])
        usage = bench.usage(tenant.key)
        equal((usage["calls_used"], usage["period_start"]), (1, midnight(new.replace(day=1))), "the new month")
        equal(bench.usage(tenant.key, month(old))["calls_used"], LIMIT, "the old month")
    refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
    equal(bench.usage(tenant.key)["calls_used"], LIMIT, "the old month, with the clock back in it")


def test_a_year_later(bench):
    """With the clock far ahead, audit rows still have a partition, and resets_at is right in December too."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "1")
    now = today(bench)
    december = datetime.date(now.year + 2, 12, 15)
    with clock_shifted(bench, "%d days" % (december - now).days):
        bench.audit(succeeded(bench.score(tenant.key)), billable=True)
        reply = refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
        equal(reply.json["resets_at"], "%d-01-01T00:00:00Z" % (december.year + 1), "resets_at")
        bench.audit(reply, status="denied")


def test_sessions_cannot_shift_the_clock(bench):
    """Design: acp.now() follows only the database's setting, at once in open sessions. A session cannot set its own
    offset."""
    with bench.db.session() as session:
        shifted = "set acp.clock_offset = '40 days'; select acp.now() - now() < interval '1 day';"
        equal(session.execute(shifted), ["t"], "no effect of a session's own offset")
        with clock_shifted(bench, "40 days"):
            equal(session.execute("select acp.now() - now() = interval '40 days';"), ["t"], "the database's offset")
        equal(session.execute("select acp.now() = now();"), ["t"], "after the reset")


def call_whose_check_fails(bench, tenant, used, call):
    """Makes a call whose usage check exceeds its deadline; when it settles, this number of calls is used. Returns the
    reply."""
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%acp.settle%'"
    with bench.db.session() as session:
        session.execute("begin; update acp.usage_quota set used = %d where tenant_id = '%s';" % (used, tenant.id))

        def call_or_unlock(number):
            if number == 0:
                return call()
            until(20, "the call settles", lambda: bench.db.value(waiting))
            return session.execute("commit;")

        return parallel(2, call_or_unlock)[0]


def test_check_fails_open(bench):
    """Contract 3: if the usage check exceeds its deadline, the call proceeds and is counted, and its row notes it."""
    tenant = bench.onboard()
    use(bench, tenant, 1)
    create = lambda: bench.call(tenant.key, CREATE, {"name": "m", "model_type": "ml"})
    reply = call_whose_check_fails(bench, tenant, 1, create)
    row = bench.audit(succeeded(reply), billable=True, status="success")
    equal(row["result_meta"].get("usage_check"), "failed_open", "usage_check of the row")
    equal(bench.usage(tenant.key)["calls_used"], 2, "calls_used")


def test_failing_open_stays_exact(bench):
    """Contract 3: the allowance is not exceeded even if the check failed: such a call is refused at its end and has no
    effect."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "2")
    use(bench, tenant, 1)
    create = lambda: bench.call(tenant.key, CREATE, {"name": "m", "model_type": "ml"})
    reply = refused(call_whose_check_fails(bench, tenant, 2, create), 402, "UPGRADE_REQUIRED")
    bench.audit(reply, status="denied", billable=False)
    bench.db.execute("update acp.usage_quota set used = 1 where tenant_id = :'id'", id=tenant.id)
    equal(bench.usage(tenant.key)["calls_used"], 1, "calls_used")
    equal(bench.db.value("select count(*) from acp.leadscoring_models where tenant_id = :'id'", id=tenant.id), 0,
          "models")


def test_upstream_that_acted_beyond_the_allowance(bench):
    """Contract 4: what an upstream did is not answered as if it had not. If the check failed and the allowance is used up
    when the call ends, the outcome is unknown, and the call can be repeated under its key."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "2")
    use(bench, tenant, 1)
    key = str(uuid.uuid4())
    with Upstream() as upstream, behind(bench, upstream) as responder:
        reply = call_whose_check_fails(bench, tenant, 2, lambda: call(responder, tenant.key, "e2e.http", idempotency_key=key))
        equal(len(upstream.seen), 1, "calls that reached the upstream")
    refused(reply, 503, "OUTCOME_UNKNOWN")
    equal(reply.json["idempotency_key"], key, "idempotency_key")
    bench.audit(reply, status="error", billable=False)
    bench.db.execute("update acp.usage_quota set used = 1 where tenant_id = :'id'", id=tenant.id)


def test_place_of_a_crashed_call(bench):
    """Design: a place held by a crashed process is free again after its reservation has expired, not before."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "2")
    use(bench, tenant, 1)
    bench.db.execute("update acp.usage_quota set reserved = 1 where tenant_id = :'id'; insert into "
                     "acp.usage_reservations "
                     "select tenant_id, period, gen_random_uuid(), acp.now() + interval '1 hour' from acp.usage_quota "
                     "where tenant_id = :'id'", id=tenant.id)
    refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
    bench.db.execute("update acp.usage_reservations set expires_at = acp.now() where tenant_id = :'id'", id=tenant.id)
    succeeded(bench.score(tenant.key))
    refused(bench.score(tenant.key), 402, "UPGRADE_REQUIRED")
    equal(quota_rows(bench, tenant), [{"used": 2, "reserved": 0}], "quota")
