"""The account (account.py) of a stack with calls of every kind. For everything that a worker has run it is drawn up
after the last test, whichever tests ran."""

import json

import account
from client import CREATE, SCORE, SCORE_PARAMS, refused, succeeded
from checks import check, parallel
from fcgi import Responder

CALL = json.dumps({"action": SCORE, "params": SCORE_PARAMS}).encode()


def traffic(bench):
    """A tenant with its allowance used up, one that pays, refusals, a responder of the test's own. Once a stack."""
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
    """Contract 3, 4: acp_report.usage_drift is empty: the counters are what the audit rows say."""
    traffic(bench)
    check(bench.db.value("select count(*) from acp.audit_logs") > 100, "there are hardly any audit rows")
    account.no_drift(bench)


def test_quota_is_what_the_rows_say(bench):
    """Contract 3: used = billable rows of tenants treated as free, by month; reserved = reservations that exist."""
    traffic(bench)
    account.quota_is_what_the_rows_say(bench)


def test_nobody_beyond_the_allowance(bench):
    """Contract 3: no tenant has more free billable calls in a month than its limit."""
    traffic(bench)
    account.nobody_beyond_the_allowance(bench)


def test_billable_rows(bench):
    """Contract 3: billable is true only for a success of a billable action that is no dry run, of a known tenant;
    a free call that nobody could count, and for which there was no room, is given away."""
    traffic(bench)
    account.billable_rows(bench)


def test_request_ids_are_unique(bench):
    """Contract 2: one request id, one audit row, over the whole table."""
    traffic(bench)
    account.request_ids_are_unique(bench)


def test_no_key_was_written_down(bench):
    """Contract 1: of all keys that this run was given, none is in the database or in a log."""
    traffic(bench)
    account.no_key_was_written_down(bench)


def test_no_credential_was_written_down(bench):
    """Issue: after everything, nothing that looks like a key, a webhook's secret, Stripe's key, an Authorization header
    or a database's password stands in a log or a row; not even of what the tests themselves made up."""
    traffic(bench)
    account.no_credential_was_written_down(bench)


def test_no_credential_was_an_argument(bench):
    """Issue: no process of the program had a credential among its arguments at any time of the run."""
    bench.need_own_stack("its processes and logs")
    traffic(bench)
    account.no_credential_was_an_argument(bench)


def test_log_is_clean(bench):
    """Contract 2: no line of the responder's log shows SQL, a connection string or a pepper; every line has its
    form."""
    bench.need_own_stack("its processes and logs")
    traffic(bench)
    account.log_is_clean(bench)


def test_no_sanitizer_report(bench):
    """Issue: a build with sanitizers says nothing, and no worker ended by itself but those that a test killed."""
    bench.need_own_stack("its processes and logs")
    traffic(bench)
    account.no_sanitizer_report(bench)
