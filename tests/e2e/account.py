"""The closing checks of a stack: what must hold after all tests, whatever they did.

conftest.py runs them on each worker's stack after the last test. test_account.py runs each of them after some traffic.
"""

import json
import os
import re

from client import CREDENTIALS
from checks import Failure, check, equal
from written import keys_written_down, logs_of, read


def no_drift(bench):
    """Contract 3, 4: acp_report.usage_drift is empty. The counters agree with the audit rows."""
    equal(bench.db.rows("select * from acp_report.usage_drift limit 20"), [], "drift")


def quota_is_what_the_rows_say(bench):
    """Contract 3: used is the number of billable rows of tenants treated as free, by month; reserved is the number of
    existing reservations."""
    wrong = bench.db.rows("""
        select q.*, coalesce(a.calls, 0) as calls, coalesce(r.places, 0) as places
        from acp.usage_quota q
        left join (select tenant_id, period, count(*) as calls from (
                select tenant_id, acp.period(ts) as period from acp.audit_logs where billable and tier = 'free'
                union all select tenant_id, period from acp.usage_settled) l  -- of kernels deleted before their rows
            group by 1, 2) a using (tenant_id, period)
        left join (select tenant_id, period, count(*) as places from acp.usage_reservations group by 1, 2) r
            using (tenant_id, period)
        where q.used <> coalesce(a.calls, 0) or q.reserved <> coalesce(r.places, 0)""")
    equal(wrong, [], "months whose quota differs")


def nobody_beyond_the_allowance(bench):
    """Contract 3: no tenant has more free billable calls in a month than its limit."""
    over = bench.db.rows("""
        select a.tenant_id, count(*) from acp.audit_logs a join acp.tenants t using (tenant_id)
        where a.billable and a.tier = 'free' and t.upgraded_at is null and t.calls_limit is null
        group by a.tenant_id, acp.period(a.ts) having count(*) > 100""")
    equal(over, [], "tenants")


def billable_rows(bench):
    """Contract 3: billable is true only for a successful call of a billable action by a known tenant that is not a dry
    run. A free call that could not be counted, and for which no allowance was left, is given away."""
    wrong = bench.db.rows("""
        select action, status, dry_run, tier from acp.audit_logs where billable and not (status = 'success'
            and not dry_run and tier is not null and error_code is null
            and pack not in ('meta', 'iam', 'webhooks', 'settings', 'governance')
            and tenant_id <> '00000000-0000-0000-0000-000000000000') limit 20""")
    equal(wrong, [], "rows")
    missing = bench.db.rows("""
        select action, request_id from acp.audit_logs
        where not billable and status = 'success' and error_code is null and not dry_run
            and pack = 'domain.leadscoring'
            and result_meta->>'usage_check' is distinct from 'failed_open_over_limit' limit 20""")
    equal(missing, [], "successes of billable actions that are not billable")


def request_ids_are_unique(bench):
    """Contract 2: each request id has one audit row in the whole table."""
    twice = bench.db.rows("select request_id, count(*) from acp.audit_logs group by 1 having count(*) > 1 limit 20")
    equal(twice, [], "request ids of several rows")


def no_key_was_written_down(bench):
    """Contract 1: no key that was issued in this run is in the database or in a log."""
    equal(keys_written_down(bench, bench.db.dump()), [], "places and keys")


def no_credential_was_written_down(bench):
    """At the end, no log and no row contains anything that looks like a key, a webhook's secret, Stripe's key,
    an Authorization header or a database password. This includes credentials that the tests made up."""
    places = {"the database": bench.db.dump()}
    if bench.stack.own:
        kept = "responders-of-tests.log" in logs_of(bench.stack)
        check(kept or not bench.stack.responders_ended, "the logs of the tests' own responders were not kept")
        places.update((name, read(path)) for name, path in logs_of(bench.stack).items())
    found = [(place, line[max(0, match.start() - 60):match.start() + 16]) for place, text in places.items()
             for line in text.splitlines() for match in CREDENTIALS.finditer(line)]
    equal(found[:20], [], "places, and the text there")


def no_credential_was_an_argument(bench):
    """No process of the program ever had a credential among its arguments during the run."""
    check(not bench.stack.own or bench.watch.looks > 0, "no arguments were read")
    equal(sorted(bench.watch.shown), [], "programs, and the credentials in their arguments")


def log_is_clean(bench):
    """Contract 2: no line of the responder's log shows SQL, a connection string or a pepper. Every line has the
    documented form."""
    if not bench.stack.own:
        return
    with open(bench.stack.setting("key_pepper_file"), encoding="utf-8") as file:
        pepper = file.read().strip()
    text = read(bench.stack.log)
    check(pepper not in text and "postgresql://" not in text, "the log shows a secret")
    for line in text.splitlines():
        check(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \w+ \[\d+\] ", line) or "ts" in json.loads(line), line)
        check(not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE) \w+ ?(\(|FROM|INTO|SET|acp)", line), line)


def no_sanitizer_report(bench):
    """A build with sanitizers reports nothing. No worker died of a signal other than the SIGKILL of a test."""
    if not bench.stack.own:
        return
    for name in (bench.stack.log, os.path.join(bench.stack.logs, "web-error.log")):
        text = read(name)
        for mark in ("AddressSanitizer", "LeakSanitizer", "runtime error:", "stack smashing", "double free",
                     "Assertion"):
            check(mark not in text, "%s: %s" % (name, [line for line in text.splitlines() if mark in line][:5]))
    signals = set(re.findall(r"killed by signal (\d+)", read(bench.stack.log))) - {"9"}
    equal(signals, set(), "signals that ended a worker")


CHECKS = [
    no_drift,
    quota_is_what_the_rows_say,
    nobody_beyond_the_allowance,
    billable_rows,
    request_ids_are_unique,
    no_key_was_written_down,
    no_credential_was_written_down,
    no_credential_was_an_argument,
    log_is_clean,
    no_sanitizer_report,
]


def draw_up(bench):
    """Runs every check; raises a Failure that lists those that failed."""
    wrong = []
    for each in CHECKS:
        try:
            each(bench)
        except Failure as error:
            wrong.append("%s: %s" % (each.__name__, error))
    if wrong:
        raise Failure("the closing checks of this stack: " + "\n".join(wrong))
