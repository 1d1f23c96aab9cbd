"""Numbers (contract 3 and 6): every number that a caller, an upstream, a kernel or an operator can send is bounded where it
enters, and what one tenant's rows say never stops the books of others."""

import contextlib
import json
import uuid

from client import refused, succeeded
from fcgi import Responder
from checks import check, equal, until
from hub import Hub, event
from scratch import migrated_database
from test_actions_dir import Folder, Upstream, action, behind, call, names, none_billed, schema

HUGE = 9223372036854775807
MOST = 1000000000000  # ACP_QUANTITY_MAX

REPORT = """
create schema e2e_numbers;
create function e2e_numbers.report(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as $$
begin
	perform acp.report('{}', (p->>'n')::bigint);
	return '{}';
end $$;
grant usage on schema e2e_numbers to acp_app;
"""


# Quantities of a call -------------------------------------------------------------------------------------------------

def reporter(name, **members):
    return action("e2e.numbers." + name, {"kind": "sql", "function": "e2e_numbers.report"}, supports_dry_run=True, **members)


@contextlib.contextmanager
def reporters(bench):
    """A responder with actions that report the quantity n, of each kind of transaction."""
    files = {"writes": reporter("writes", billing_unit="row", max_quantity=50),
             "reads": reporter("reads", billing_unit="row", max_quantity=50, writes=False),
             "calls": reporter("calls"), "default": reporter("default", billing_unit="sec", writes=False),
             "most": reporter("most", billing_unit="token", max_quantity=MOST)}
    with schema(bench, "e2e_numbers", REPORT), Folder(**files) as folder:
        with Responder(bench.stack, actions_dir=folder.path) as responder:
            yield responder


def test_sql_quantity(bench):
    """A function that reports a quantity below 0 or above its action's max_quantity fails: 500 with the fixed text, an
    audit row with status error, a line in the operator's log, and nothing is charged. The dry run says the same."""
    tenant = bench.onboard()
    wrong = [("writes", 51, 50), ("writes", -1, 50), ("writes", HUGE, 50), ("writes", 2 ** 62, 50), ("reads", 51, 50),
             ("reads", -1, 50), ("reads", HUGE, 50), ("calls", 2, 1), ("default", 1000001, 1000000), ("most", MOST + 1, MOST)]
    with reporters(bench) as responder:
        for name, n, limit in wrong:
            for dry in (False, True):
                reply = refused(call(responder, tenant.key, "e2e.numbers." + name, {"n": n if n is None else str(n)}, dry_run=dry), 500, "INTERNAL_ERROR")
                check("quantity" not in reply.json["error"], "the caller is told of the quantity: %s" % reply.json["error"])
                bench.audit(reply, status="error", billable=False, billing_quantity=1, error_code="INTERNAL_ERROR", dry_run=dry)
            line = "action e2e.numbers.%s reported the quantity %d, which is not from 0 to %d" % (name, n, limit)
            until(5, "the log has: " + line, lambda: responder.read_log().count(line) >= 2)
    none_billed(bench, tenant)


def test_sql_quantity_within_its_limit(bench):
    """A quantity from 0 to max_quantity is stored as it is; without a report it is 1. meta.actions lists the maximum."""
    tenant = bench.paid_tenant()
    right = [("writes", 50, 50), ("writes", 0, 0), ("writes", None, 1), ("reads", 50, 50), ("reads", None, 1), ("calls", 1, 1),
             ("default", 1000000, 1000000), ("most", MOST, MOST)]
    with reporters(bench) as responder:
        for name, n, wanted in right:
            reply = succeeded(call(responder, tenant.key, "e2e.numbers." + name, {"n": n if n is None else str(n)}))
            bench.audit(reply, status="success", billable=True, billing_quantity=wanted)
        dry = succeeded(call(responder, tenant.key, "e2e.numbers.writes", {"n": 40}, dry_run=True))
        bench.audit(dry, status="success", billable=False, billing_quantity=40)
        listed = names(responder, tenant.key)
        equal({name: listed["e2e.numbers." + name]["max_quantity"] for name in ("writes", "calls", "default", "most")},
              {"writes": 50, "calls": 1, "default": 1000000, "most": MOST}, "max_quantity")
        equal(listed["domain.leadscoring.scores.compute"]["max_quantity"], 100, "of the leads of one call")


def test_http_quantity(bench):
    """An upstream that reports more than max_quantity has given no usable reply: 502, and the caller is not billed."""
    tenant = bench.onboard()
    with Upstream() as upstream, behind(bench, upstream, billing_unit="token", max_quantity=1000) as responder:
        for quantity in (1001, 2 ** 53 - 1, 2 ** 62, -1):
            upstream.says(200, {"data": {}, "quantity": quantity})
            reply = refused(call(responder, tenant.key, "e2e.http"), 502, "UPSTREAM_FAILED")
            check("may or may not have acted" in reply.json["error"], reply.json["error"])
            bench.audit(reply, status="error", billable=False, billing_quantity=1)
        check("action e2e.http reported the quantity 1001, which is not from 0 to 1000" in responder.read_log(), "the log")
        none_billed(bench, tenant)
        upstream.says(200, {"data": {}, "quantity": 1000})
        bench.audit(succeeded(call(responder, tenant.key, "e2e.http")), billing_quantity=1000, billable=True)


def test_settle_of_a_former_program(bench):
    """acp.settle() with the parameters of schema version 10 holds the limit of all actions."""
    settle = ("select acp.report('{}', %d); select acp.settle(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', "
              "gen_random_uuid(), 'ts', acp.now(), 'tenant_id', '00000000-0000-0000-0000-000000000000', 'integration', 'e2e', "
              "'actor_type', 'system', 'status', 'success', 'latency_ms', 1, 'dry_run', false, 'billable', false, "
              "'billing_quantity', 1), null, null, null, null, null, 90, null)")
    states = {n: bench.db.sqlstates(["begin", *(settle % n).split("; "), "rollback"])[2] for n in (-1, 0, MOST, MOST + 1, HUGE)}
    equal(states, {-1: "ACP04", 0: "00000", MOST: "00000", MOST + 1: "ACP04", HUGE: "ACP04"}, "states")


# Other numbers of callers ---------------------------------------------------------------------------------------------

NUMBERS = [b"1e-400", b"-1e-400", b"0e-99999", b"1e-99999", b"5e-324", b"1e308", b"-0.0", b"0." + b"3" * 20000,
           b"0." + b"0" * 20000 + b"1", b"9007199254740992"]


def manage(bench, tenant, body):
    return bench.send("POST", "/api/manage", body, [("Content-Type", "application/json"), ("X-API-Key", tenant.key)])


def test_every_number_of_json(bench):
    """A number that PostgreSQL's numeric or double precision refuses never makes a 500: params reach SQL with digits that
    it takes."""
    tenant = bench.onboard()
    for number in NUMBERS:
        for body in (b'{"action":"domain.leadscoring.models.create","params":{"name":"n","model_type":"linear","weights":{"a":%s}}}',
                     b'{"action":"domain.leadscoring.questions.upsert_bulk","params":{"questions":[{"key":"k","text":"t","weight":%s}]}}',
                     b'{"action":"settings.update","params":{"metadata":{"n":%s}}}'):
            reply = manage(bench, tenant, body % number)
            check(reply.status in (200, 400, 402), "%s: %s" % (number[:20], reply))
    weights = b'{"action":"domain.leadscoring.scores.compute","params":{"weights":{"a":%s},"leads":[{"id":"x","features":{"a":1e308}}]}}'
    equal(manage(bench, tenant, weights % b"1e308").status, 400, "a score beyond double")


def test_months_and_limits_of_queries(bench):
    """A month, a page size or a cursor at the edge of its type is answered, or refused with 400."""
    hub = Hub(bench)
    tenant = bench.onboard()
    for path in ("/api/usage?period=", "/api/billing/invoice?period="):
        for period in ("0000-01", "0001-01", "9999-12", "294277-01", "2026-13", "2026-1", "-001-01", "99999999999-01"):
            reply = bench.send("GET", path + period, headers=[("X-API-Key", tenant.key)])
            check(reply.status in (200, 400), "%s: %s" % (period, reply))
    for query in ("limit=99999999999999999999", "limit=-1", "limit=0", "limit=1e3", "limit=+5", "from=2026-01-01T00:00:00%2B23:59",
                  "to=2026-01-01T00:00:00-23:59", "from=0000-01-01T00:00:00Z", "to=9999-12-31T23:59:59Z",
                  "from=2026-01-01T00:00:00." + "1" * 300 + "Z", "cursor=9999999999999999.ffffffff-ffff-ffff-ffff-ffffffffffff"):
        reply = hub.get("audit-query?tenant_id=%s&%s" % (tenant.id, query))
        check(reply.status in (200, 400), "%s: %s" % (query, reply))


def passive(tenant, ts, **more):
    """An event that is not billable, of an action that another kernel has."""
    return event(tenant, ts, pack="e2e", action="e2e.numbers", billable=False, **more)


def test_moments_of_keys(bench):
    """RFC 3339 allows the year 0000 and offsets up to 23:59, PostgreSQL does not: such an expiry is refused with 400."""
    tenant = bench.onboard()
    for moment in ("0000-01-01T00:00:00Z", "2200-01-01T00:00:00+23:59", "2200-01-01T00:00:00-23:59",
                   "2200-01-01T00:00:00." + "1" * 300 + "Z"):
        reply = bench.call(tenant.key, "iam.keys.create", {"name": "n", "scopes": ["manage.read"], "expires_at": moment})
        refused(reply, 400, "VALIDATION_ERROR", "/params/expires_at")
    for moment in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"):
        succeeded(bench.call(tenant.key, "iam.keys.create", {"name": "n", "scopes": ["manage.read"], "expires_at": moment}))


# Moments of kernels ---------------------------------------------------------------------------------------------------

def moments(bench):
    """Moments at both bounds, in several zones: (text, whether it is accepted)."""
    text = ("to_char((acp.now() + interval '%s') at time zone interval '%s', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '%s'")
    offsets = [("00:00", "Z"), ("14:00", "+14:00"), ("-12:00", "-12:00"), ("05:45", "+05:45")]
    cases = [("14 minutes", True), ("16 minutes", False), ("1 day", False), ("10 years", False), ("-399 days -23:00", True),
             ("-400 days -1 minute", False), ("-26 years", False)]
    return [(bench.db.value("select " + text % (shift, zone, name)), good) for shift, good in cases for zone, name in offsets]


def test_moments_of_kernels(bench):
    """Contract 2.2: the ts of an event, a reservation or a settlement is at most 15 minutes after the hub's time and at most
    400 days before it, whatever its offset from UTC. A batch with one such event is refused, and names it."""
    hub = Hub(bench)
    tenant = bench.onboard().id
    odd = [("2000-01-01T00:00:00+14:00", False), ("0000-01-01T00:00:00Z", False), ("9999-12-31T23:59:59-12:00", False),
           ("2026-01-01T00:00:00+23:59", False)]
    good_ts = bench.db.value("select acp.rfc3339(acp.now())")
    for ts, good in moments(bench) + odd:
        one = passive(tenant, ts)
        replies = [hub.post("audit-ingest", one), hub.post("audit-ingest", [passive(tenant, good_ts)] * 2 +
                                                           [passive(tenant, ts)]),
                   hub.post("usage/reserve", {"tenant_id": tenant, "event_id": str(uuid.uuid4()), "ts": ts}),
                   hub.post("usage/settle", {"tenant_id": tenant, "event_id": str(uuid.uuid4()), "ts": ts, "outcome": "failure"})]
        for reply, field in zip(replies, ("/ts", "/2/ts", "/ts", "/ts")):
            if good:
                check(reply.status in (200, 202), "%s: %s" % (ts, reply))
            else:
                refused(reply, 400, "VALIDATION_ERROR", field)
        stored = bench.db.value("select count(*) from acp.audit_logs where event_id = :'id'", id=one["event_id"])
        equal(stored, 1 if good else 0, "rows with ts " + ts)
    equal(bench.db.value("select count(*) from pg_inherits where inhparent = 'acp.audit_logs'::regclass and inhrelid::regclass::text "
                         "~ '_(19|20[013456789])'"), 0, "partitions of other decades")


def test_stored_events_may_be_sent_again(bench):
    """A kernel may send an event again, even when it has become too old to be accepted: it is a duplicate."""
    hub = Hub(bench)
    tenant = bench.onboard().id
    old = passive(tenant, "2024-02-01T00:00:00Z")
    bench.db.execute("select acp.audit_append(:'e')", e=json.dumps({**{k: v for k, v in old.items() if k != "actor"},
                                                                   "actor_type": "system"}))
    reply = succeeded(hub.post("audit-ingest", [old]), 202)
    equal((reply.json["accepted"], reply.json["duplicates"]), (0, 1), "accepted, duplicates")


def test_numbers_of_events(bench):
    """Contract 2.2: the quantity of an event is at most that of any call; a latency may be almost 0."""
    hub = Hub(bench)
    tenant = bench.onboard().id
    ts = bench.db.value("select acp.rfc3339(acp.now())")
    for quantity in (MOST + 1, 2 ** 53, HUGE, 1e300):
        refused(hub.post("audit-ingest", [event(tenant, ts, billing_quantity=quantity)]), 400, "VALIDATION_ERROR")
    for latency in (5e-324, 1e-50, 1e9, 0):
        succeeded(hub.post("audit-ingest", [passive(tenant, ts, latency_ms=latency)]), 202)
    succeeded(hub.post("audit-ingest", [event(tenant, ts, billing_quantity=MOST)]), 202)


# An installation that has such rows already ---------------------------------------------------------------------------

ABSURD = """select acp.audit_append_rows(array_agg(jsonb_populate_record(null::acp.audit_logs, jsonb_build_object(
    'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', acp.now() + n * interval '1 millisecond',
    'tenant_id', :'tenant'::uuid, 'integration', 'e2e', 'pack', 'e2e', 'action', 'e2e.rows', 'actor_type', 'api_key',
    'status', 'success', 'latency_ms', 1, 'dry_run', false, 'billable', true, 'billing_unit', 'row',
    'billing_quantity', :'quantity'::bigint, 'tier', 'paid'))))
    from generate_series(1, :'count'::integer) n"""


class Books:
    """acpctl over a database of its own."""

    def __init__(self, bench, database):
        self.bench, self.db = bench, database
        self.month = database.value("select to_char(now() at time zone 'UTC' - interval '1 month', 'YYYY-MM')")

    def ctl(self, *arguments, status=0):
        done = self.bench.stack.program("acpctl", *arguments, environment={"ACP_DATABASE_URL": self.db.url})
        equal(done.returncode, status, "acpctl %s: %s%s" % (arguments, done.stdout, done.stderr))
        return done

    def json(self, *arguments, status=0):
        return json.loads(self.ctl("--json", *arguments, status=status).stdout)

    def tenant(self, name):
        self.db.execute("grant acp_app to current_user")
        tenant = self.ctl("tenant", "create", "--agent-id", name, "--email", "a@example.com").stdout.strip()
        self.ctl("tenant", "update", tenant, "--tier", "paid", "--payment-method", "active")
        return tenant

    def clock(self, last_month):
        """Sets the clock to the middle of the last month, or back."""
        if last_month:
            self.db.execute("""select format('alter database %I set acp.clock_offset = %L', current_database(),
                date_trunc('month', now() at time zone 'UTC') - interval '15 days' - now() at time zone 'UTC') \\gexec""")
        else:
            self.db.execute("select format('alter database %I reset acp.clock_offset', current_database()) \\gexec")

    def rows(self, tenant, quantity, count):
        self.db.execute(ABSURD, tenant=tenant, quantity=quantity, count=count)

    def events(self, tenant):
        return [row["event_id"] for row in self.db.rows(
            "select event_id from acp.audit_logs where tenant_id = :'t' order by ts", t=tenant)]


@contextlib.contextmanager
def books(bench):
    """A broken tenant and a good one, with a closed month."""
    with migrated_database(bench) as database:
        made = Books(bench, database)
        made.clock(True)
        made.ctl("price", "add", "--amount", "0.01", "--currency", "USD", "--unit", "row", "--from", made.month + "-01T00:00:00Z")
        made.bad, made.good = made.tenant("bad"), made.tenant("good")
        made.rows(made.bad, HUGE, 2)
        made.rows(made.good, 30, 4)
        yield made


def test_two_absurd_rows_stop_nobody(bench):
    """Two rows with a quantity of 2^63 - 1 are rolled up, reported, reconciled, sealed, verified and archived. The month
    bills all others, and names the one: acpctl, the hub, doctor and the tenant's own invoice say the same."""
    with books(bench) as money:
        money.db.execute("select acp.usage_roll_up()")
        usage = money.json("usage", "--by", "tenant", "--period", money.month)
        equal({row["agent_id"]: row["billable_quantity"] for row in usage}, {"bad": 2 * HUGE, "good": 120}, "quantities")
        equal(money.json("usage", "good", "--period", money.month)["cost"]["amount"], 1.2, "cost")
        for view in ("usage_by_tenant_month", "usage_by_action_day", "revenue_lines", "revenue_by_month", "usage_drift"):
            money.ctl("report", view, "--period", "all")
        money.clock(False)
        dry = money.json("billing", "run", "--dry-run", "--period", money.month, status=1)
        run = money.json("billing", "run", "--period", money.month, status=1)
        equal(run["invoices"], dry["invoices"], "the invoices of the run and of its dry run")
        equal([(i["tenant_uuid"], i["amount"]) for i in run["invoices"]], [(money.good, 120)], "invoices")
        equal(run["blocked"], dry["blocked"], "blocked")
        equal([b["tenant_uuid"] for b in run["blocked"]], [money.bad], "blocked")
        done = money.ctl("billing", "run", "--period", money.month, status=1)
        check("%s  blocked" % money.bad in done.stdout and "1 tenant cannot be made" in done.stderr, done.stdout + done.stderr)
        listed = money.json("billing", "list", "--status", "blocked")
        equal([(row["tenant_id"], row["status"], row["error"]) for row in listed],
              [(money.bad, "blocked", run["blocked"][0]["reason"])], "billing list")
        equal(money.json("billing", "show", money.bad, "--period", money.month)["status"], "blocked", "billing show")
        differences = money.json("reconcile", "--database", "--period", money.month, status=1)["differences"]
        equal([(d["tenant_id"], d["what"].split(":")[0]) for d in differences], [(money.bad, "invoice, which is blocked")], "reconcile")
        doctor = money.bench.stack.program("acpctl", "doctor", environment={"ACP_DATABASE_URL": money.db.url}).stdout
        check("WRONG billing" in doctor and "acpctl billing list --status blocked" in doctor, doctor)
        money.ctl("audit", "seal")
        money.ctl("audit", "verify", "--database")


def test_correct_absurd_rows(bench):
    """acpctl billing correct charges another quantity for a call that is on no invoice, once, with an audit row. The next
    run bills the month as if the row had always had that quantity."""
    with books(bench) as money:
        first, second = money.events(money.bad)
        money.clock(False)
        money.ctl("billing", "run", "--period", money.month, status=1)
        fixed = money.json("billing", "correct", "bad", first, "--quantity", "100", "--reason", "the unit was wrong")
        equal((fixed["event_id"], fixed["quantity"], fixed["charged"]), (first, HUGE, 100), "correction")
        done = money.ctl("billing", "correct", money.bad, second, "--quantity", "0", "--reason", "the same")
        check("0 instead of %d row of e2e.rows" % HUGE in done.stdout, done.stdout)
        for arguments, words in (((money.bad, first, "--quantity", "1"), "corrected already"),
                                 ((money.bad, str(uuid.uuid4()), "--quantity", "1"), "no audit row"),
                                 ((money.good, money.events(money.good)[0], "--quantity", "1"), "acpctl billing credit")):
            check(words in money.ctl("billing", "correct", *arguments, "--reason", "r", status=1).stderr, words)
        for arguments in ((money.bad, first, "--quantity", "-1"), (money.bad, first, "--quantity", "1.5"),
                          (money.bad, first, "--quantity", str(MOST + 1)), (money.bad, "x", "--quantity", "1"), (money.bad,),
                          (money.bad, first, first, "--quantity", "1")):
            money.ctl("billing", "correct", *arguments, "--reason", "r", status=64)
        equal(money.db.value("select count(*) from acp.audit_logs where action = 'billing.correct' and actor_type = 'system'"), 2,
              "audit rows")
        equal(money.json("usage", "bad", "--period", money.month)["by_action"][0]["quantity"], 100, "usage")
        run = money.json("billing", "run", "--period", money.month)
        equal({i["tenant_uuid"]: i["amount"] for i in run["invoices"]}, {money.bad: 100, money.good: 120}, "invoices")
        equal(run["blocked"], [], "blocked")
        money.ctl("reconcile", "--database")
        line = money.json("billing", "show", money.bad, "--period", money.month)["charges"]["lines"][0]
        equal((line["calls"], line["quantity"], line["amount"]), (2, 100, 1), "line")
        check("on the invoice" in money.ctl("billing", "correct", money.bad, second, "--quantity", "1", "--reason", "r", status=1).stderr,
              "a second correction")
        check("no tenant is blocked" in money.bench.stack.program(
            "acpctl", "doctor", environment={"ACP_DATABASE_URL": money.db.url}).stdout, "doctor")


def test_more_than_stripe_charges(bench):
    """Stripe charges at most eight digits of cents. A larger amount is no invoice that Stripe refuses: the tenant is
    blocked, and a correction repairs the month."""
    with migrated_database(bench) as database:
        money = Books(bench, database)
        money.clock(True)
        money.ctl("price", "add", "--amount", "0.01", "--currency", "USD", "--unit", "row", "--from", money.month + "-01T00:00:00Z")
        large, most = money.tenant("large"), money.tenant("most")
        money.rows(large, 100000000, 1)
        money.rows(most, 99999999, 1)
        equal(money.json("billing", "show", large, "--period", money.month)["status"], "blocked", "the preview")
        money.clock(False)
        run = money.json("billing", "run", "--period", money.month, status=1)
        equal([(i["tenant_uuid"], i["amount"]) for i in run["invoices"]], [(most, 99999999)], "invoices")
        equal(run["blocked"], [{"tenant_uuid": large, "reason": "1000000 USD is too large to be charged"}], "blocked")
        equal(money.db.value("select count(*) from acp.outbox where tenant_id = :'t'", t=large), 0, "obligations")
        money.ctl("billing", "correct", large, money.events(large)[0], "--quantity", "1000", "--reason", "the unit was wrong")
        run = money.json("billing", "run", "--period", money.month)
        equal({i["tenant_uuid"]: i["amount"] for i in run["invoices"]}, {large: 1000, most: 99999999}, "invoices")
        money.ctl("reconcile", "--database")
