"""Each closing check (account.py) on a stack with calls of every kind. After its last test, each worker also runs them
on whatever its tests did."""

import json

import account
from client import CREATE, SCORE, SCORE_PARAMS, refused, succeeded
from checks import check, parallel
from fcgi import Responder

CALL = json.dumps({"action": SCORE, "params": SCORE_PARAMS}).encode()


def traffic(bench):
    """Makes calls once per stack: a tenant that uses up its allowance, one that pays, refusals, a separate
    responder."""
    if getattr(bench, "has_traffic", False):
        return
    tenant, paid = bench.onboard(), bench.paid_tenant()
    answers = parallel(8, lambda _: [bench.score(tenant.key).status for _ in range(14)])
    statuses = [status for part in answers for status in part]
    check((statuses.count(200), statuses.count(402)) == (100, 12), "statuses %s" % statuses)
    succeeded(bench.call(paid.key, CREATE, {"name": "m", "model_type": "linear"}))
    succeeded(bench.call(paid.key, SCORE, SCORE_PARAMS, dry_run=True))
    refused(bench.call(paid.key, SCORE, {}), 400, "VALIDATION_ERROR")
    refused(bench.call(None, "meta.version"), 401, "INVALID_API_KEY")
    bench.make_key(paid, "manage.read")
    with Responder(bench.stack) as responder:
        succeeded(responder.call(paid.key, CALL))
    bench.has_traffic = True


def test_no_drift(bench):
    """Contract 3, 4: acp_report.usage_drift is empty. The counters agree with the audit rows."""
    traffic(bench)
    check(bench.db.value("select count(*) from acp.audit_logs") > 100, "there are hardly any audit rows")
    account.no_drift(bench)


def test_quota_is_what_the_rows_say(bench):
    """Contract 3: used is the number of billable rows of tenants treated as free, by month; reserved is the number of
    existing reservations."""
    traffic(bench)
    account.quota_is_what_the_rows_say(bench)


def test_nobody_beyond_the_allowance(bench):
    """Contract 3: no tenant has more free billable calls in a month than its limit."""
    traffic(bench)
    account.nobody_beyond_the_allowance(bench)


def test_billable_rows(bench):
    """Contract 3: billable is true only for a successful call of a billable action by a known tenant that is not a dry
    run. A free call that could not be counted, and for which no allowance was left, is given away."""
    traffic(bench)
    account.billable_rows(bench)


def test_request_ids_are_unique(bench):
    """Contract 2: each request id has one audit row in the whole table."""
    traffic(bench)
    account.request_ids_are_unique(bench)


def test_no_key_was_written_down(bench):
    """Contract 1: no key that was issued in this run is in the database or in a log."""
    traffic(bench)
    account.no_key_was_written_down(bench)


def test_no_credential_was_written_down(bench):
    """At the end, no log and no row contains anything that looks like a key, a webhook's secret, Stripe's key,
    an Authorization header or a database password. This includes credentials that the tests made up."""
    traffic(bench)
    account.no_credential_was_written_down(bench)


def test_no_credential_was_an_argument(bench):
    """No process of the program ever had a credential among its arguments during the run."""
    bench.need_own_stack("its processes and logs")
    traffic(bench)
    account.no_credential_was_an_argument(bench)


def test_log_is_clean(bench):
    """Contract 2: no line of the responder's log shows SQL, a connection string or a pepper. Every line has the
    documented form."""
    bench.need_own_stack("its processes and logs")
    traffic(bench)
    account.log_is_clean(bench)


def test_no_sanitizer_report(bench):
    """A build with sanitizers reports nothing. No worker died of a signal other than the SIGKILL of a test."""
    bench.need_own_stack("its processes and logs")
    traffic(bench)
    account.no_sanitizer_report(bench)
