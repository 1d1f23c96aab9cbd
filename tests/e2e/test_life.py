"""Stops, reloads, crashes and outages: contract 3 (an answered success has its row), graceful stop, reload, and
the log."""

import contextlib
import json
import os
import re
import signal
import threading
import time

import pytest

from client import MANAGE, refused, succeeded
from fcgi import Responder
from checks import Failure, Load, check, equal, only_on, parallel, until
from stack import EXTERNAL, children, end_quietly, is_running, stopped
from written import read

VERSION = b'{"action":"meta.version"}'
# Calls of this action end on separate connections. Calls that write only their row would wait for each other instead.
CREATE = "domain.leadscoring.models.create", {"name": "m", "model_type": "ml"}
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'acp-fcgi'"


@contextlib.contextmanager
def log_locked(bench):
    """Locks the audit log, so that no row can be written and no call ends; .execute("rollback;") unlocks it early."""
    with bench.db.session() as session:
        session.execute("begin; lock table acp.audit_logs in exclusive mode;")
        yield session


class Background:
    """Runs work(0) … work(count - 1) in threads; results() waits for them. A Failure (no reply) is a result too."""

    def __init__(self, count, work):
        self._results = [None] * count
        self._threads = [threading.Thread(target=self._run, args=(work, n), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, work, number):
        try:
            self._results[number] = work(number)
        except Failure as error:
            self._results[number] = error

    def wait(self, seconds):
        """Waits until all threads have ended, at most this long."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def results(self):
        self.wait(60)
        return self._results


def slow_calls(bench, count, call):
    """Starts calls that stay in flight because they wait for the lock of log_locked()."""
    background = Background(count, lambda _: call())
    until(10, "%d calls wait for the lock" % count, lambda: bench.db.value(WAITING) >= count)
    return background


def journal_is_empty(bench):
    return bench.stack.program("acpctl", "journal", "status").returncode == 0


def check_rows_of_successes(bench, replies):
    """Checks that every 2xx has its audit row; returns the number of 2xx."""
    until(20, "the journal is empty", lambda: journal_is_empty(bench))
    good = [reply for reply in replies if getattr(reply, "status", 0) // 100 == 2]
    bench.audit_each(good, status="success")
    return len(good)


def check_outage(bench, replies):
    """Checks that every reply is a success with its row, or a 503 with Retry-After."""
    for reply in replies:
        if reply.status != 200:
            refused(reply, 503, "UNAVAILABLE")
            check(re.fullmatch(r"[1-9]\d*", reply.header("Retry-After") or ""), "Retry-After\n%s" % reply)
    check_rows_of_successes(bench, replies)


def works_again(bench, key):
    """Waits at most 10 s until all calls succeed, in every process, including those that need the database."""
    until(10, "calls succeed again", lambda: all(
        reply.status == 200 for reply in parallel(20, lambda _: bench.get("/api/usage", key))))


# Log ------------------------------------------------------------------------------------------------------------------

def different_requests(bench):
    """Sends requests of many kinds; returns the tenant and their (reply, path)."""
    tenant = bench.onboard()
    return tenant, [(tenant.reply, "/api/onboard/leadscoring"), (bench.score(tenant.key), MANAGE),
                    (bench.call(tenant.key, "no.such"), MANAGE), (bench.call(None, "meta.version"), MANAGE),
                    (bench.send("POST", MANAGE, "not json"), MANAGE),
                    (bench.get("/api/usage", tenant.key), "/api/usage"), (bench.get("/healthz"), "/healthz"),
                    (bench.get("/nothing?token=geheim"), "/nothing"), (bench.call(tenant.key, "x\ny\" z"), MANAGE)]


def lines_of(bench, replies):
    """Waits until each request has a log line; maps each request id to its lines."""
    def find():
        lines = read(bench.stack.log).splitlines()
        found = {reply.request_id: [line for line in lines if reply.request_id in line] for reply in replies}
        return all(found.values()) and found
    return until(10, "a log line for each request", find)


def test_text_log(bench):
    """Each request has one log line with request id, method, path, status, code and time, without query and
    key."""
    bench.need_own_stack("its log")
    tenant, requests = different_requests(bench)
    lines = lines_of(bench, [reply for reply, _ in requests])
    for reply, path in requests:
        equal(len(lines[reply.request_id]), 1, "lines of %s" % reply.request_id)
        line = lines[reply.request_id][0]
        for part in ("request_id=%s" % reply.request_id, " path=%s " % path, " status=%d " % reply.status,
                     " ip=127.0.0.1 "):
            check(part in line + " ", "%r is not in: %s" % (part, line))
        check(re.search(r" ms=\d+\.\d+$", line) and " method=" in line and " code=" in line, line)
        check("geheim" not in line and tenant.key[12:] not in line, line)
    check(" tenant=%s " % tenant.id in lines[requests[1][0].request_id][0], "no tenant of an authenticated call")
    check(" key=%s " % tenant.key[:12] in lines[requests[1][0].request_id][0], "no public part of the key")


def check_json_line(reply, path, lines):
    equal(len(lines), 1, "lines of %s" % reply.request_id)
    fields = json.loads(lines[0])
    equal((fields["request_id"], fields["path"], fields["status"]), (reply.request_id, path, reply.status), "fields")
    check(isinstance(fields["ms"], float) and fields["level"] == "info" and fields["ts"].endswith("Z"), lines[0])


def test_log_rotation(bench):
    """SIGHUP reopens the log file, so that it can be rotated without losing a line."""
    key = bench.onboard().key
    with Responder(bench.stack) as responder:
        first = responder.call(key, VERSION)
        responder.log_of([first])
        os.rename(responder.log, responder.log + ".1")
        responder.reload()
        until(10, "a new file", lambda: "reloaded" in responder.read_log())
        replies = [succeeded(responder.call(key, VERSION)) for _ in range(10)]
        # An old worker that is about to end still writes to the old file.
        both = lambda: read(responder.log) + read(responder.log + ".1")
        until(5, "their lines", lambda: all(both().count(r.request_id) == 1 for r in replies))
        until(5, "a line in the new file", lambda: responder.call(key, VERSION).request_id in read(responder.log), 0.1)


# Reload and stop ------------------------------------------------------------------------------------------------------

def test_reload_under_load(bench):
    """During SIGHUP every call succeeds and has its row."""
    bench.need_own_stack("sends signals to its processes")
    tenant = bench.paid_tenant()
    before = set(bench.stack.responders())
    targets = [bench.stack.supervisor] if bench.stack.supervised else sorted(before)
    with Load(8, lambda: bench.score(tenant.key)) as load:
        for _ in range(3):
            seen = len(load.results)
            end_quietly(targets, signal.SIGHUP)
            until(20, "calls continue", lambda: len(load.results) > seen + 100)
    for reply in load.results:
        succeeded(reply)
    equal(check_rows_of_successes(bench, load.results), len(load.results), "successes")
    equal(bench.tenant_rows(tenant), len(load.results), "audit rows")
    if bench.stack.supervised:
        until(10, "the old workers end", lambda: not before & set(bench.stack.responders()))
        equal(len(bench.stack.responders()), len(before), "workers")


def test_reload_takes_the_new_settings(bench):
    """A reload applies new settings. A file with an error is refused with a reason, and the old settings
    stay."""
    tenant = bench.onboard()
    with Responder(bench.stack, free_calls_limit="50") as responder:
        limit = lambda: responder.ask("GET", "/api/usage", headers={"X-API-Key": tenant.key}).json["calls_limit"]
        equal(limit(), 50, "calls_limit")
        responder.write_config(free_calls_limit="60")
        responder.reload()
        until(10, "the new setting", lambda: limit() == 60)
        responder.write_config(free_calls_limit="70", nonsense="1")
        responder.reload()
        until(10, "the reason in the log", lambda: re.search(r"reload refused.*:\d+: nonsense", responder.read_log()))
        equal([limit() for _ in range(10)], [60] * 10, "calls_limit after a refused reload")


def test_stop_lets_calls_finish(bench):
    """After SIGTERM, calls in flight finish with success and their row. Then the processes end."""
    bench.need_own_stack("stops its responder")
    tenant = bench.paid_tenant()
    with log_locked(bench) as lock:
        calls = slow_calls(bench, 4, lambda: bench.call(tenant.key, *CREATE))
        workers = bench.stack.responders()
        targets = [bench.stack.supervisor] if bench.stack.supervised else workers
        end_quietly(targets, signal.SIGTERM)
        time.sleep(0.5)  # long enough for a process to end that does not wait for its calls
        check(any(is_running(pid) for pid in workers), "the workers ended while calls were in flight")
        lock.execute("rollback;")
    replies = calls.results()
    try:
        for reply in replies:
            if isinstance(reply, Failure):
                raise reply
            succeeded(reply)
        equal(check_rows_of_successes(bench, replies), 4, "successes with a row")
        until(10, "the processes end", lambda: not any(is_running(pid) for pid in set(targets + workers)))
    finally:
        bench.stack.restart_responder()
    works_again(bench, tenant.key)


def test_stop_has_a_time_limit(bench):
    """Requests in flight may take at most shutdown_timeout. Then the responder ends with a failure and logs
    it."""
    tenant = bench.paid_tenant()
    with Responder(bench.stack, shutdown_timeout="1") as responder, log_locked(bench):
        body = json.dumps({"action": CREATE[0], "params": CREATE[1]}).encode()
        calls = slow_calls(bench, 2, lambda: responder.call(tenant.key, body))
        start = time.monotonic()
        responder.process.terminate()
        responder.process.wait(20)
        took = time.monotonic() - start
        check(1 <= took < 5, "it ended after %.1f s" % took)
        check("shutdown_timeout" in responder.read_log(), "the log lacks the reason: %s" % responder.read_log()[-500:])
        check(not os.path.exists(responder.socket), "the socket still exists")
    check(all(isinstance(result, (Failure, OSError)) or result is None for result in calls.results()),
          "calls were answered")


def test_stop_when_idle_is_quick(bench):
    """After SIGTERM without calls the responder exits within 2 s with status 0 and removes its socket. A second one can
    use the path."""
    for _ in range(2):
        with Responder(bench.stack) as responder:
            succeeded(responder.ask("GET", "/healthz"))
            start = time.monotonic()
            responder.process.terminate()
            equal(responder.process.wait(20), 0, "exit status")
            check(time.monotonic() - start < 2, "took %.1f s" % (time.monotonic() - start))
            check(not os.path.exists(responder.socket), "the socket still exists")
            check("stopped" in responder.read_log(), "the log does not say that it stopped")


def test_socket_left_behind(bench):
    """The socket of a killed responder does not prevent the next start. No worker outlives its supervisor."""
    with Responder(bench.stack) as first:
        until(10, "both workers run", lambda: len(children(first.process.pid)) == 2)
        workers = children(first.process.pid)
        first.process.kill()
        first.process.wait(20)
        until(10, "the workers end", lambda: not any(is_running(pid) for pid in workers))
        check(os.path.exists(first.socket), "the socket of the killed program is gone")
        with Responder(bench.stack, listen=first.socket) as second:
            until(10, "the second one answers", lambda: answers(second))


def answers(responder):
    try:
        return responder.ask("GET", "/healthz").status == 200
    except OSError:
        return False


@only_on(EXTERNAL, "the others replace their own processes")
def test_killed_worker_is_replaced(bench):
    """A worker that was killed with SIGKILL is replaced. The others continue meanwhile, and every answered call
    has its row."""
    bench.need_own_stack("kills a worker")
    tenant = bench.paid_tenant()
    workers = bench.stack.responders()
    with Load(8, lambda: bench.score(tenant.key)) as load:
        until(10, "calls", lambda: len(load.results) > 50)
        end_quietly(workers[:1])
        until(10, "another worker", lambda: len(set(bench.stack.responders()) - set(workers)) == 1)
        seen = len(load.results)
        until(10, "calls continue", lambda: len(load.results) > seen + 50)
    lost = [reply for reply in load.results if reply.status != 200]
    check(len(lost) <= 8, "%d calls failed; only the worker's calls in flight may\n%s" % (len(lost), lost[:1]))
    check_rows_of_successes(bench, load.results)
    check("killed by signal 9" in read(bench.stack.log), "the log does not report the killed worker")
    works_again(bench, tenant.key)


# Database outages -----------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_idle_connections_lost(bench):
    """After a restart of PostgreSQL without traffic, the first calls succeed, including those that need it, even
    if a background thread has just found it down."""
    bench.need_own_stack("restarts PostgreSQL")
    key = bench.onboard().key
    for _ in range(6):  # usually such a thread runs during at least one of these restarts
        works_again(bench, key)
        bench.stack.restart_postgres()
        for reply in parallel(8, lambda _: bench.get("/api/usage", key)):
            succeeded(reply)
        bench.onboard()


@pytest.mark.slow
def test_postgres_crash_under_load(bench):
    """Contract 3: PostgreSQL stops abruptly during calls and restarts. The same processes continue by
    themselves. Meanwhile replies are 503 with Retry-After, and no 2xx lacks its audit row."""
    bench.need_own_stack("restarts PostgreSQL")
    tenant = bench.paid_tenant()
    before = bench.stack.responders()

    def call():
        reply = bench.call(tenant.key, "domain.leadscoring.models.list")  # whose handler needs the database
        time.sleep(0.05)  # a thousand calls a minute are allowed
        return reply

    with Load(8, call) as load:
        until(10, "calls", lambda: len(load.results) > 50)
        bench.stack.restart_postgres(immediate=True)
        seen = len(load.results)
        until(15, "calls succeed again", lambda: sum(r.status == 200 for r in load.results[seen:]) > 50)
    check_outage(bench, load.results)
    check(any(reply.status == 503 for reply in load.results), "no call noticed the outage")
    works_again(bench, tenant.key)
    if bench.stack.supervised:
        equal(sorted(bench.stack.responders()), sorted(before), "processes")


@contextlib.contextmanager
def postgres_stopped(bench):
    """Stops every process of PostgreSQL: the operating system accepts what is sent to it, but no answer comes back."""
    with stopped([bench.stack.postmaster] + children(bench.stack.postmaster)):
        yield


def timed(call):
    start = time.monotonic()
    reply = call()
    return reply, time.monotonic() - start


def test_postgres_hangs(bench):
    """If PostgreSQL is stopped (SIGSTOP), calls get 503 within 6 s instead of hanging. Calls that need no
    database succeed for keys in the cache. Afterwards everything works again."""
    bench.need_own_stack("stops PostgreSQL")
    tenant = bench.onboard()
    requests = [lambda: bench.get("/readyz"), lambda: bench.get("/api/usage", tenant.key)]
    requests += [lambda: bench.call(tenant.key, "domain.leadscoring.models.list")] * 2
    requests += [lambda: bench.call(tenant.key, "meta.version")] * 2
    until(10, "all requests succeed at first", lambda: all(request().status == 200 for request in requests * 4))
    with postgres_stopped(bench):
        background = Background(len(requests), lambda number: timed(requests[number]))
        alive, took = timed(lambda: bench.get("/healthz"))
        background.wait(12)
    check(alive.status == 200 and took < 1, "/healthz took %.1f s\n%s" % (took, alive))
    results = background.results()
    for reply, took in results:
        check(took <= 6.5, "the answer took %.1f s\n%s" % (took, reply))
    for reply, _ in results[:-2]:
        refused(reply, 503, "UNAVAILABLE")
        check(reply.header("Retry-After"), "Retry-After\n%s" % reply)
    works_again(bench, tenant.key)
    for reply, _ in results[-2:]:
        if not bench.stack.supervised and reply.status == 503:
            continue  # one process for each request: this process did not have the key in its cache
        succeeded(reply)
        until(10, "its row is stored from the journal", lambda: bench.db.value(
            "select count(*) from acp.audit_logs where request_id = :'id'", id=reply.json["request_id"]) == 1)


def test_kill_9_of_everything(bench):
    """Contract 3: after kill -9 of every responder and of PostgreSQL, each answered success has its row on disk."""
    bench.need_own_stack("kills everything")
    tenant = bench.paid_tenant()

    def call():
        try:
            return bench.score(tenant.key)
        except Failure:
            return None

    with Load(8, call) as load:
        until(10, "calls", lambda: len(load.results) > 100)
        responders = bench.stack.responders()
        supervisor = [bench.stack.supervisor] if bench.stack.supervised else []
        end_quietly([bench.stack.postmaster] + children(bench.stack.postmaster) + supervisor + responders)
    bench.stack.up()
    good = check_rows_of_successes(bench, load.results)
    check(good > 50, "only %d successes" % good)
    usage = bench.usage(tenant.key)
    equal(usage["calls_used"], bench.tenant_rows(tenant, "billable"), "calls_used, by the rows")
    works_again(bench, tenant.key)


# Others ---------------------------------------------------------------------------------------------------------------

def test_partition_being_made(bench):
    """Contract: a success has its row. The creator of a partition sees it before every other session does. Until then a
    row waits, so that it does not miss its partition."""
    tenant = bench.paid_tenant()
    lock = "select pg_advisory_%s(hashtext('acp.ensure_partitions'));"
    with bench.db.session() as session:
        session.execute(lock % "lock")
        calls = slow_calls(bench, 1, lambda: bench.call(tenant.key, *CREATE))
        session.execute(lock % "unlock")
        for reply in calls.results():
            succeeded(reply)


def test_json_log(bench):
    """With log_format = json each line is one JSON object. Each request has one line, with its request id."""
    bench.arrange({"log_format": "json"})
    start = len(read(bench.stack.log).splitlines())
    tenant, requests = different_requests(bench)
    lines = lines_of(bench, [reply for reply, _ in requests])
    for reply, path in requests:
        check_json_line(reply, path, lines[reply.request_id])
    fields = json.loads(lines[requests[1][0].request_id][0])
    equal((fields["tenant"], fields["key"]), (tenant.id, tenant.key[:12]), "tenant and key")
    for line in read(bench.stack.log).splitlines()[start:]:
        json.loads(line)
