"""GET /metrics: contract 2.1 (Prometheus; no tenant labels; correct with many processes)."""

import os
import re
import shutil
import signal
import subprocess
import threading

import pytest

from client import MANAGE, SCORE, SCORE_PARAMS, refused, succeeded
from checks import Skip, check, equal, parallel, until
from stack import children, stopped

SAMPLE = re.compile(r'^([a-z_]+)(?:\{([^}]*)\})? (\S+)$')
# Labels with values from closed lists. No other label is allowed.
LABELS = {"endpoint", "code", "le", "action", "status", "state", "version", "api_version"}


def scrape_text(bench):
    """The text of the metrics, not through bench.send because the reply is not JSON."""
    reply = bench.http.request("GET", "/metrics", None, [])
    equal((reply.status, reply.header("Content-Type")), (200, "text/plain; version=0.0.4; charset=utf-8"),
          "status and type")
    check(reply.header("X-Request-Id"), "no X-Request-Id")
    return reply.body.decode()


def samples(text):
    """Maps each series to its value."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        check(match, "not a sample: %r" % line)
        series = "%s{%s}" % (match.group(1), match.group(2)) if match.group(2) else match.group(1)
        check(series not in found, "twice: %s" % series)
        found[series] = float(match.group(3))
    return found


def scrape(bench):
    return samples(scrape_text(bench))


def is_counter(series):
    return re.match(r"\w+_(total|bucket|sum|count)\b", series) is not None


def increase(before, after):
    """The increase of each counter. Checks that none has decreased."""
    for series, value in before.items():
        if is_counter(series):
            check(after.get(series, -1) >= value, "%s went from %s to %s" % (series, value, after.get(series)))
    return {series: value - before.get(series, 0) for series, value in after.items()
            if is_counter(series) and value != before.get(series, 0)}


def test_form(bench):
    """Contract 2.1: promtool accepts the metrics. Labels are from closed lists; no tenant, key or address appears."""
    tenant = bench.onboard()
    succeeded(bench.score(tenant.key))
    text = scrape_text(bench)
    found = samples(text)
    for series in found:
        for name, _ in re.findall(r'(\w+)="([^"]*)"', series):
            check(name in LABELS, "label %s in %s" % (name, series))
    for secret in (tenant.id, tenant.agent_id, tenant.key[:12], "127.0.0.1"):
        check(secret not in text, "%s is in the metrics" % secret)
    for name in ("acp_build_info", "acp_processes", "acp_workers", "acp_requests_in_flight", "acp_journal_rows",
                 "acp_db_up", "acp_outbox_rows", "acp_webhook_deliveries_pending", "acp_schema_version",
                 "process_cpu_seconds_total",
                 "process_resident_memory_bytes", "process_start_time_seconds", 'acp_db_connections{state="idle"}'):
        check(any(series == name or series.startswith(name + "{") for series in found), "%s is missing" % name)
    if not shutil.which("promtool"):
        raise Skip("promtool is not installed (package prometheus); the other checks passed")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    equal((done.returncode, done.stdout), (0, ""), "promtool check metrics")


def test_every_request_is_counted_once(bench):
    """Contract 2.1: whichever process answers, the counters cover all processes: calls, refusals, unknown paths."""
    tenant = bench.onboard()
    known = {"idempotency_key": "metrics-1"}
    # Some web servers keep processes that have not served yet. The first scrape may still be counted afterwards.
    before = scrape(bench)
    replies = parallel(8, lambda _: [succeeded(bench.score(tenant.key)) for _ in range(5)])
    equal(sum(len(some) for some in replies), 40, "calls")
    succeeded(bench.call(tenant.key, SCORE, SCORE_PARAMS, **known))
    succeeded(bench.call(tenant.key, SCORE, SCORE_PARAMS, **known))
    refused(bench.call(None, "meta.version"), 401, "INVALID_API_KEY")
    refused(bench.call(tenant.key, "meta.nothing"), 404, "NOT_FOUND")
    refused(bench.call(tenant.key, SCORE, {"weights": 1}), 400, "VALIDATION_ERROR")
    refused(bench.get("/nowhere/" + tenant.id), 404, "NOT_FOUND")
    wanted = {'acp_requests_total{endpoint="%s",code="200"}' % MANAGE: 42,
              'acp_requests_total{endpoint="%s",code="401"}' % MANAGE: 1,
              'acp_requests_total{endpoint="%s",code="404"}' % MANAGE: 1,
              'acp_requests_total{endpoint="%s",code="400"}' % MANAGE: 1,
              'acp_requests_total{endpoint="other",code="404"}': 1,
              'acp_request_duration_seconds_count{endpoint="%s"}' % MANAGE: 45,
              'acp_request_duration_seconds_bucket{endpoint="%s",le="+Inf"}' % MANAGE: 45,
              'acp_calls_total{action="%s",status="success"}' % SCORE: 41,
              'acp_calls_total{action="%s",status="replay"}' % SCORE: 1,
              'acp_calls_total{action="%s",status="error"}' % SCORE: 1,
              'acp_errors_total{code="NOT_FOUND"}': 2, 'acp_errors_total{code="INVALID_API_KEY"}': 1,
              'acp_errors_total{code="VALIDATION_ERROR"}': 1}

    def counted():
        grown = increase(before, scrape(bench))
        return grown if all(grown.get(series) == value for series, value in wanted.items()) else None
    # A request is counted after its reply is sent, so slightly after the client has it.
    try:
        grown = until(5, "the numbers", counted, 0.05)
    except AssertionError:
        grown = increase(before, scrape(bench))
    for series, value in wanted.items():
        equal(grown.get(series), float(value), series)
    sent = [series for series in grown if "meta.nothing" in series or tenant.id in series]
    equal(sent, [], "labels that callers sent")


def test_who_may_read(bench):
    """acp.conf(5), metrics = local: only this host may read them, and no forwarded request, whatever its headers say.
    GET and HEAD only."""
    for header in (("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "127.0.0.1"),
                   ("Forwarded", "for=127.0.0.1")):
        refused(bench.get("/metrics", headers=[header]), 404, "NOT_FOUND")
    refused(bench.send("POST", "/metrics", {}), 405, "METHOD_NOT_ALLOWED")
    head = bench.http.request("HEAD", "/metrics", None, [])
    equal((head.status, head.body), (200, b""), "HEAD")


@pytest.mark.slow
def test_off_and_on(bench):
    """acp.conf(5), metrics: off allows nobody, on allows everybody."""
    bench.arrange({"metrics": "off"})
    refused(bench.get("/metrics"), 404, "NOT_FOUND")
    succeeded(bench.score(bench.onboard().key))
    bench.arrange({"metrics": "on"})
    reply = bench.http.request("GET", "/metrics", None, [("X-Forwarded-For", "203.0.113.9")])
    equal(reply.status, 200, "forwarded")


class Watch:
    """Scrapes continuously and checks that no counter decreases."""

    def __init__(self, bench):
        self.bench = bench
        self.wrong = []
        self.scrapes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        last = {}
        while not self._stop.is_set():
            reply = None
            try:
                reply = self.bench.http.request("GET", "/metrics", None, [])
                if reply.status != 200:
                    continue  # the process that would have answered was killed
                now = samples(reply.body.decode())
                increase(last, now)
                last = now
                self.scrapes += 1
            except AssertionError as error:
                if reply is not None:
                    self.wrong.append(str(error))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)


@pytest.mark.slow
def test_kills(bench):
    """Contract 2.1: while processes are killed under load, no counter decreases and none counts unanswered requests. At
    most the requests in flight are missing, and none stays counted as in flight."""
    bench.need_own_stack("kills processes")
    tenant = bench.paid_tenant()
    answered, broken = [], []
    before = scrape(bench)
    stop = threading.Event()

    def load():
        while not stop.is_set():
            try:
                reply = bench.http.request("POST", MANAGE, b'{"action":"meta.version"}',
                                           [("Content-Type", "application/json"), ("X-API-Key", tenant.key)])
                (answered if reply.status == 200 else broken).append(1)
            except AssertionError:
                broken.append(1)
    threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
    with Watch(bench) as watch:
        for thread in threads:
            thread.start()
        for _ in range(3):
            until(20, "calls", lambda n=len(answered): len(answered) >= n + 40, 0.05)
            victims = until(20, "a process", bench.stack.responders, 0.1)
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        until(20, "calls", lambda n=len(answered): len(answered) >= n + 40, 0.05)
        stop.set()
        for thread in threads:
            thread.join(60)
    equal(watch.wrong, [], "while processes were killed")
    check(watch.scrapes > 3, "only %d scrapes" % watch.scrapes)
    series = 'acp_requests_total{endpoint="%s",code="200"}' % MANAGE
    # There are four concurrent requests. Each of three kills may have cut them off between reply and count.
    grown = until(10, "the count", lambda: settled(bench, before, series), 0.1)
    check(len(answered) - 12 <= grown <= len(answered) + len(broken), "%d counted, %d answered, %d broken" %
          (grown, len(answered), len(broken)))
    equal(scrape(bench)["acp_requests_in_flight"], 1.0, "in flight: the scrape itself")


def settled(bench, before, series):
    """The increase of a series, once it is stable and only the scrape is in flight."""
    first = scrape(bench)
    return increase(before, first).get(series) if first["acp_requests_in_flight"] == 1 else None


def test_database_away(bench):
    """Contract 2.1: without the database the host's metrics are still there; acp_db_up and acp_journal_rows show the
    outage."""
    bench.need_own_stack("stops PostgreSQL")
    tenant = bench.paid_tenant()
    succeeded(bench.score(tenant.key))
    with stopped([bench.stack.postmaster] + children(bench.stack.postmaster)):
        found = until(30, "acp_db_up 0", lambda: (lambda s: s if s["acp_db_up"] == 0 else None)(scrape(bench)), 0.1)
        check('acp_db_connections{state="idle"}' not in found, "metrics of a database that is down")
        check("acp_requests_in_flight" in found, "metrics of the host are missing")
        reply = bench.score(tenant.key)
        waiting = scrape(bench)["acp_journal_rows"]
        if reply.status == 200:
            check(waiting >= 1, "a call was answered without the database and acp_journal_rows is %s" % waiting)
    until(30, "acp_db_up 1 and no row waiting", lambda: (lambda s: s["acp_db_up"] == 1 and s["acp_journal_rows"] == 0)
          (scrape(bench)), 0.2)
