"""Changes of keys and tenants: measures when each process begins to apply them.

Every process is called directly over FastCGI: two programs with one process each, reached at their own sockets, and one
program with two processes, whose log tells which process answered. All use one database, like several hosts.
"""

import contextlib
import json
import random
import re
import statistics
import threading
import time
import uuid
from collections import Counter

from client import MANAGE, SCORE, SCORE_PARAMS
from database import Database
from fcgi import Responder, begin, can_stand_apart, finish
from checks import Failure, check, until
from stack import children

PROMISED = 0.1  # seconds after the answer to a change
WATCHED = 0.15  # seconds after the answer during which all processes are called continuously
WARM_CALLS = 3  # answers in the old state required from each process before a change
# The test makes many calls with one key, and many keys. Only the change may refuse a call.
SETTINGS = {"rate_limits": "off", "ceiling_keys": "100000"}
THREADS = 4  # per process
APART = can_stand_apart()  # each program has its own shared memory, as on separate hosts
VERSION = {"action": "meta.version"}
SCORING = {"action": SCORE, "params": SCORE_PARAMS}
CUT = ("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'acp_app' "
       "and application_name = 'acp-fcgi'")


class Sample:
    """One answered call: when it started, and whether it saw the old or the new state."""

    def __init__(self, host, started, reply, state):
        self.host = host
        self.started = started
        self.reply = reply
        self.state = state  # "old", "new", or None: neither (503, a lost answer)


class Host:
    """A responder with its own socket. The process number in the log line of a request tells its processes apart."""

    def __init__(self, stack, processes):
        self.count = processes
        self.responder = Responder(stack, apart=APART, processes=str(processes), kernel_key_file=stack.setting("kernel_key_file"),
                                   workers=str(processes * THREADS), **SETTINGS)
        self._lock = threading.Lock()
        self._read = 0
        self._pids = {}

    def wait(self):
        until(20, "%d processes run" % self.count, lambda: len(children(self.responder.process.pid)) == self.count)

    def ask(self, key, body, state_of):
        """Makes one call. With several processes it makes more calls at once than one process has threads. Each of
        these waits until the last one is sent, so the others must go to another process."""
        started = time.monotonic()
        calls = []
        for _ in range(THREADS + 1 if self.count > 1 else 1):
            try:
                calls.append(begin(self.responder.socket, "POST", MANAGE, json.dumps(body).encode(),
                                   {"Content-Type": "application/json", "X-API-Key": key}))
            except (Failure, OSError):
                pass
        if len(calls) > 1:
            time.sleep(0.001)
        return [self._finish(call, started, body, state_of) for call in calls]

    def _finish(self, call, started, body, state_of):
        try:
            reply = finish(call, "POST %s %s" % (MANAGE, body))
        except (Failure, OSError):
            return Sample(self, started, None, None)
        return Sample(self, started, reply, state_of(reply))

    def process_of(self, sample):
        """Returns the process that answered, from its log line, which may appear a moment after the reply."""
        return until(5, "the log line of %s" % sample.reply.request_id, lambda: self._find(sample.reply.request_id),
                     0.002)

    def _find(self, request_id):
        with self._lock:
            if request_id not in self._pids:
                self._read_log()
            return self._pids.get(request_id)

    def _read_log(self):
        with open(self.responder.log, "rb") as file:
            file.seek(self._read)
            text = file.read()
        complete = text[:text.rfind(b"\n") + 1]
        self._read += len(complete)
        for pid, request_id in re.findall(rb"\[(\d+)\] .*?request_id=([0-9a-f-]{36})", complete):
            self._pids[request_id.decode()] = int(pid)


class Watch:
    """Calls every process continuously until stop(), so that all caches stay warm."""

    def __init__(self, hosts, key, body, state_of, pause):
        self._ask = lambda host: host.ask(key, body, state_of)
        self._pause = pause
        self._stopping = threading.Event()
        self._threads = []
        self.samples = []
        for host in hosts:
            self._threads.append(threading.Thread(target=self._run, args=(host,), daemon=True))

    def _run(self, host):
        while not self._stopping.wait(self._pause):
            self.samples.extend(self._ask(host))

    def is_warm(self, hosts):
        """True if each process has answered in the old state often enough, and none gives any other answer."""
        samples = list(self.samples)
        return all(self._host_is_warm(host, [s for s in samples if s.host is host]) for host in hosts)

    @staticmethod
    def _host_is_warm(host, samples):
        last = len(samples)
        while last > 0 and samples[last - 1].state == "old":
            last -= 1
        old = samples[last:]
        if len(old) < WARM_CALLS * host.count:
            return False
        calls = Counter(host.process_of(sample) for sample in old) if host.count > 1 else {0: len(old)}
        return len(calls) >= host.count and min(calls.values()) >= WARM_CALLS

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)


class Change:
    """kind: what changes; way: the interface used. old and new: statuses of the call before and after the change."""

    def __init__(self, kind, way, key, body, old, new, apply):
        self.kind = kind
        self.way = way
        self.key = key
        self.body = body
        self.old = old
        self.new = new
        self.apply = apply
        self.cut = False
        self.answered = None
        self.samples = []
        self.probes = []

    def state_of(self, reply):
        return {self.old: "old", self.new: "new"}.get(reply.status)

    def after(self):
        """All calls that started when the change had to be applied."""
        return [s for s in self.samples + self.probes if s.started >= self.answered + PROMISED]

    def stale(self):
        return [sample for sample in self.after() if sample.state == "old"]

    def delay(self):
        """Time from the answer to the start of the last call that saw the old state."""
        return max([s.started - self.answered for s in self.samples + self.probes if s.state == "old"] + [0.0])

    def processes(self):
        """Number of processes that answered a call after the promised time."""
        known = [s for s in self.after() if s.state]
        single = {s.host for s in known if s.host.count == 1}
        return len(single) + len({s.host.process_of(s) for s in known if s.host.count > 1})

    def __str__(self):
        return "%s through %s%s" % (self.kind, self.way, ", connections cut before" if self.cut else "")


class Lane:
    """Makes one change after another on its own tenant."""

    def __init__(self, stack, hosts, seed, number, pause):
        self._stack = stack
        self._hosts = hosts
        self._choice = random.Random("%s/lane %d" % (seed, number))
        self._pause = pause
        # Connects with the role of the program.
        self._app = Database(stack.database_url).as_role("acp_app").session()
        self._admin = Database(stack.database_url)
        with open(stack.setting("kernel_key_file"), encoding="utf-8") as file:
            self._kernel_key = file.read().strip()
        self._tenant, self._key = self._onboard()
        self._upgraded = self._suspended = False
        self._make_scoped()
        self._payer, self._payer_key = self._onboard()
        stack.ctl("tenant", "update", self._payer, "--calls-limit", "0")  # free: every billable call is refused
        self.done = []

    def close(self):
        self._app.__exit__()

    # Setup -----------------------------------------------------------------------------------------------------

    def _post(self, uri, body, headers):
        host = self._choice.choice(self._hosts)
        reply = host.responder.ask("POST", uri, json.dumps(body).encode(),
                                   {"Content-Type": "application/json", **headers})
        check(reply.status in (200, 201), "%s was refused\n%s" % (uri, reply))
        return reply

    def _onboard(self):
        reply = self._post("/api/onboard/leadscoring", {"agent_id": "instant-%s" % uuid.uuid4(),
                                                        "email": "instant@example.com"}, {})
        return reply.json["tenant_uuid"], reply.json["api_key"]

    def _act(self, action, **params):
        return self._post("/api/manage", {"action": action, "params": params}, {"X-API-Key": self._key}).data

    def _hub(self, name, **body):
        self._post("/functions/v1/" + name, body, {"Authorization": "Bearer " + self._kernel_key})

    def _new_key(self, *scopes):
        made = self._act("iam.keys.create", name="instant", scopes=list(scopes))
        return made["api_key_id"], made["api_key"]

    def _make_scoped(self):
        self._scoped_id, self._scoped_key = self._new_key("manage.read", "manage.domain")
        self._narrow = False
        # Free calls are limited. A call without params fails after the scope check, so it costs nothing.
        self._scoped_body = {"action": SCORE, "params": SCORE_PARAMS, "dry_run": True}

    def _sql(self, statement):
        answer = self._app.execute("select %s;" % statement)
        check(answer == ["t"], "%s: %s" % (statement, answer))

    # Kinds of change --------------------------------------------------------------------------------------------------

    def _revoke(self, ways):
        key_id, key = self._new_key("manage.read")
        apply = {"iam.keys.revoke": lambda: self._act("iam.keys.revoke", api_key_id=key_id),
                 "acpctl": lambda: self._stack.ctl("key", "revoke", key_id),
                 "hub": lambda: self._hub("revoke", api_key_id=key_id),
                 "sql": lambda: self._sql("acp.key_revoke('%s')" % key_id)}
        return self._change("revoked key", apply, ways, key, VERSION, 200, 401)

    def _scope(self, _):
        self._narrow = not self._narrow
        scopes = ["manage.read"] if self._narrow else ["manage.read", "manage.domain"]
        apply = {"iam.keys.update": lambda: self._act("iam.keys.update", api_key_id=self._scoped_id, scopes=scopes)}
        old, new = (200, 403) if self._narrow else (403, 200)
        return self._change("changed scope", apply, list(apply), self._scoped_key, self._scoped_body, old, new)

    def _tier(self, ways):
        self._upgraded = not self._upgraded
        tier, method = ("paid", "active") if self._upgraded else ("free", "none")
        apply = {"acpctl": lambda: self._stack.ctl("tenant", "update", self._payer, "--tier", tier, "--payment-method",
                                                   method),
                 "hub": lambda: self._hub("tenants/update", tenant_id=self._payer, tier=tier,
                                          payment_method_status=method),
                 "sql": lambda: self._sql("acp.tenant_update('%s', '%s', '%s', null, null)" % (self._payer, tier,
                                                                                              method))}
        old, new = (402, 200) if self._upgraded else (200, 402)
        name = "upgraded tenant" if self._upgraded else "downgraded tenant"
        return self._change(name, apply, ways, self._payer_key, SCORING, old, new)

    def _status(self, ways):
        self._suspended = not self._suspended
        status = "suspended" if self._suspended else "active"
        apply = {"acpctl": lambda: self._stack.ctl("tenant", "update", self._payer, "--status", status),
                 "hub": lambda: self._hub("tenants/update", tenant_id=self._payer, status=status),
                 "sql": lambda: self._sql("acp.tenant_update('%s', null, null, '%s', null)" % (self._payer, status))}
        old, new = (200, 401) if self._suspended else (401, 200)
        return self._change("tenant %s" % status, apply, ways, self._payer_key, VERSION, old, new)

    def _change(self, kind, apply, ways, key, body, old, new):
        way = self._choice.choice([way for way in apply if way in ways])
        return Change(kind, way, key, body, old, new, apply[way])

    _KINDS = [(_revoke, 35), (_scope, 25), (_tier, 40)]

    def _next(self, ways):
        if self._suspended or self._choice.random() < 0.05:
            return self._status(ways)  # make a suspended tenant active again before anything else
        kinds = self._KINDS if "iam.keys.update" in ways else [pair for pair in self._KINDS if pair[0] != Lane._scope]
        make, = self._choice.choices([make for make, _ in kinds], [weight for _, weight in kinds])
        return make(self, ways)

    # One change -------------------------------------------------------------------------------------------------------

    def step(self, cut=False):
        """cut: PostgreSQL ends all connections of the responders just before the change, so no notice of it can reach
        them on an existing connection."""
        ways = {"acpctl", "sql"} if cut else {"acpctl", "sql", "hub", "iam.keys.revoke", "iam.keys.update"}
        change = self._next(ways)
        with Watch(self._hosts, change.key, change.body, change.state_of, self._pause) as watch:
            try:
                until(20, "the state before is known", lambda: watch.is_warm(self._hosts), 0.01)
            except Failure as error:
                raise Failure("%s: %s; last answer: %s" % (change, error, watch.samples and watch.samples[-1].reply))
            change.cut = cut
            if cut:
                self._admin.text(CUT)
            change.apply()
            change.answered = time.monotonic()
            time.sleep(max(0.0, change.answered + PROMISED - time.monotonic()))
            self._probe(change)
            time.sleep(max(0.0, change.answered + WATCHED - time.monotonic()))
        change.samples = watch.samples
        self.done.append(change)

    def _probe(self, change):
        """Calls every process at once; repeats a call that another process of the same program took."""
        threads = [threading.Thread(target=self._probe_host, args=(change, host), daemon=True) for host in self._hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    @staticmethod
    def _probe_host(change, host):
        seen = set()
        deadline = time.monotonic() + 10
        while len(seen) < host.count and time.monotonic() < deadline:
            samples = host.ask(change.key, change.body, change.state_of)
            change.probes.extend(samples)
            known = [sample for sample in samples if sample.state]
            seen.update(host.process_of(sample) if host.count > 1 else host for sample in known)
            if not known:
                time.sleep(0.02)  # a process is reconnecting to PostgreSQL


class Verdict:
    def __init__(self, seed, changes, processes):
        self.seed = seed
        self.changes = changes
        self.processes = processes
        self.stale = [(change, sample) for change in changes for sample in change.stale()]
        self.missed = [change for change in changes if change.processes() != processes]

    @property
    def violations(self):
        stale = ["%s: a call that started %.0f ms after the answer saw the old state: %d %s, request_id %s" % (
            change, (sample.started - change.answered) * 1000, sample.reply.status, sample.reply.code,
            sample.reply.request_id) for change, sample in self.stale]
        return stale + ["%s: only %d of %d processes could be called" % (change, change.processes(), self.processes)
                       for change in self.missed]

    def lines(self):
        kinds = Counter(change.kind for change in self.changes)
        ways = Counter(change.way for change in self.changes)
        calls = sum(len([s for s in change.after() if s.state]) for change in self.changes)
        yield "seed %s; changes: %d (%s)" % (self.seed, len(self.changes), shown(kinds))
        yield "through: %s; with all connections cut just before: %d" % (
            shown(ways), sum(change.cut for change in self.changes))
        yield "processes: %d; change x process pairs called %g ms or more after the answer: %d of %d, by %d calls" % (
            self.processes, PROMISED * 1000, sum(change.processes() for change in self.changes),
            len(self.changes) * self.processes, calls)
        yield "change not cut: " + delays([change.delay() for change in self.changes if not change.cut])
        if any(change.cut for change in self.changes):
            yield "change after a cut: " + delays([change.delay() for change in self.changes if change.cut])
        yield "calls that saw the old state %g ms or more after the answer: %d" % (PROMISED * 1000, len(self.stale))
        for violation in self.violations[:5]:
            yield "VIOLATION %s" % violation
        yield "violations: %d" % len(self.violations)

    def __str__(self):
        return "\n".join(self.lines())


def shown(counts):
    return ", ".join("%s %d" % pair for pair in counts.most_common())


def delays(seconds):
    """Formats how long the old state was visible."""
    late = sorted(s for s in seconds if s > 0)
    if not late:
        return "no call that started after the answer saw the old state (%d changes)" % len(seconds)
    part = statistics.quantiles(late, n=100) if len(late) > 1 else late * 99
    return ("old state still seen after the answer: by %d of %d changes; the last such call started after (median) "
            "%.1f ms, (95 %%) %.1f ms, (most) %.1f ms") % (len(late), len(seconds), statistics.median(late) * 1000,
                                                           part[94] * 1000, late[-1] * 1000)


@contextlib.contextmanager
def running(stack):
    """Starts two programs with one process each and one with two."""
    with contextlib.ExitStack() as opened:
        hosts = [Host(stack, processes) for processes in (1, 1, 2)]
        for host in hosts:
            opened.enter_context(host.responder)
            host.wait()
        yield hosts


def work(lane, numbers, errors):
    """Runs steps of one lane until none are left."""
    try:
        for _ in iter(lambda: next(numbers, None), None):
            lane.step()
    except BaseException as error:  # reported by run()
        errors.append(error)


class Numbers:
    """Yields 0 … count - 1, each to one thread."""

    def __init__(self, count):
        self._numbers = iter(range(count))
        self._lock = threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self._lock:
            return next(self._numbers)


def run(stack, seed, count, lanes, pause=0.01):
    """Makes the given number of changes: most in several concurrent lanes, every twentieth alone after all connections
    are cut."""
    cut = max(1, count // 20)
    with running(stack) as hosts:
        errors = []
        made = [Lane(stack, hosts, seed, number, pause) for number in range(lanes)]
        try:
            numbers = Numbers(count - cut)
            threads = [threading.Thread(target=work, args=(lane, numbers, errors), daemon=True) for lane in made]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]
            for _ in range(cut):
                made[0].step(cut=True)
        finally:
            for lane in made:
                lane.close()
        return Verdict(seed, [change for lane in made for change in lane.done], sum(host.count for host in hosts))
