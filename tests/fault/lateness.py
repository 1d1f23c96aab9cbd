"""Calls whose commit is late: compares the answer, the effect, and the answer to a repeat."""

import contextlib
import os
import random
import tempfile
import time
import urllib.parse
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from client import CREATE, ONBOARD, Bench
from durability import knows_setting
from checks import until
from oracle import COLUMNS, SHOWN_OF_KEY, UNAVAILABLE, Row, is_missing, table, wait_for_journal
from proxy import Network
from workload import CREATE_KEY, OUTCOME_UNKNOWN, UNKNOWN, VERSION, Load, Request, pay

CASES = ["models.create", "iam.keys.create", "onboarding"]
TIMEOUT, COMMIT_TIMEOUT = 300, 1500  # ms
LATE = 0.2, 3  # seconds by which commits are late; some answers come in time, some do not
# Faults of commits, whether connections are cut then, and how often.
TROUBLES = {("commits", False): 4, ("commit-answers", False): 3, ("commits", True): 2, ("commit-answers", True): 2}
# No limits, and a connection for every concurrent call.
SETTINGS = """db_timeout = %d
%sdb_connections = 64
rate_limits = off
ceiling_keys = 100000
reservation_ttl = 5
idempotency_lease = 5
database_url = postgresql://acp_app@/acp?host=%s&port=5432
"""
# For each case, a query for the created objects by the name that the call chose: (name, id, stored part of the key).
CREATED = {"models.create": "select name, model_id, '' from acp.leadscoring_models where starts_with(name, '%s-')",
         "iam.keys.create": "select name, api_key_id, key_prefix from acp.api_keys where starts_with(name, '%s-')",
         "onboarding": "select t.agent_id, t.tenant_id, k.key_prefix from acp.tenants t join acp.api_keys k "
                       "using (tenant_id) where starts_with(t.agent_id, '%s-call-')"}


class Call:
    """A call made under a late commit, and its repeats."""

    def __init__(self, case, name, client, account):
        self.case, self.name, self._client = case, name, client
        self._request = {
            "models.create": lambda: Request(case, {"action": CREATE, "params": {
                "name": name, "model_type": "linear"}}, account),
            "iam.keys.create": lambda: Request(case, {"action": CREATE_KEY, "params": {
                "name": name, "scopes": ["manage.read"]}}, account),
            "onboarding": lambda: Request(case, {"agent_id": name, "email": "late@example.com"}, path=ONBOARD)}[case]()
        self.answers = []
        self.trouble = None

    def send(self):
        self.answers = [self._client.send(self._request)]

    def repeat(self):
        """Repeats the call: with the key from the answer, or unchanged if nothing was done."""
        before = len(self._client.answers)
        self._client.done_once(self.first)
        self.answers += self._client.answers[before:]

    @property
    def first(self):
        return self.answers[0]

    @property
    def last(self):
        return self.answers[-1]

    def secret(self):
        """The API key in the answer, if any."""
        return self.last.data.get("api_key", "") if self.last.good and self.case != "models.create" else ""

    def created(self, answer):
        """(id, stored part of the key) of the created object according to this answer."""
        if self.case == "models.create":
            return answer.data, ""
        return (answer.data.get("api_key_id" if self.case == "iam.keys.create" else "tenant_uuid"),
                answer.data.get("api_key", "")[:SHOWN_OF_KEY])

    def works(self):
        """True if the API key in the answer works, or if there is none."""
        return not self.secret() or self._client.send(Request("meta.version", {"action": VERSION},
                                                              key=self.secret())).status == 200


def shown(answer):
    return "none" if answer.status is UNKNOWN else " ".join(filter(None, (str(answer.status), answer.code)))


class Verdict:
    """Compares the answers with the audit rows and the created objects."""

    def __init__(self, bench, name, since, calls):
        self._bench, self._calls = bench, calls
        self._rows = {}
        for values in table(bench.db, "select %s from acp.audit_logs where ts >= '%s'" % (", ".join(COLUMNS), since)):
            row = Row(values)
            self._rows.setdefault(row.request_id, []).append(row)
        self._found = {case: {} for case in CASES}
        for case, select in CREATED.items():
            for named, made, key in table(bench.db, select % name):
                self._found[case].setdefault(named, []).append((made, key))
        self.notes = []
        found = [(call, list(dict.fromkeys(self._wrong(call)))) for call in calls]
        self._wrong_cases = {call.case for call, wrong in found if wrong}
        self.contradictions = [
            "%s; %s, %s; %s" % (", ".join(wrong), call.trouble, call.name, "; ".join(map(str, call.answers)))
            for call, wrong in found if wrong]
        self.contradictions += [*self._command("reconcile"), *self._command("audit", "verify")]

    def _rows_of(self, answers):
        return [row for answer in answers for row in self._rows.get(answer.request_id, [])]

    def _wrong(self, call):
        found = self._found[call.case].get(call.name, [])
        for answer in call.answers:
            yield from self._wrong_answer(call, answer, found)
        if not call.last.good and call.last.status is not UNKNOWN:
            yield "the last answer is no success"
        if len(found) > 1 or len(found) < call.last.good:
            yield "done %d times" % len(found)
        charged = sum(row.billable for row in self._rows_of(call.answers))
        if charged != (call.case == "models.create" and call.last.good) and call.last.status is not UNKNOWN:
            yield "charged by %d rows" % charged
        if not call.works():
            yield "the API key in the answer does not work"

    def _wrong_answer(self, call, answer, found):
        rows = self._rows_of([answer])
        done = [row for row in rows if row.status == "success"]
        if len(rows) > 1:
            yield "%d rows of one request" % len(rows)
        if answer.good and not done:
            yield "success was answered, but it has no row of a success"
        if answer.good and call.created(answer) not in found:
            yield "%s was answered, but found: %s" % (call.created(answer)[0], [made for made, _ in found])
        if done and not answer.good and not answer.unsure:
            yield "%s was answered, but the call was done" % shown(answer)
        if answer.code == OUTCOME_UNKNOWN and not answer.named_key:
            yield "OUTCOME_UNKNOWN without an idempotency key"
        if answer.status is not UNKNOWN and not answer.open and not answer.good:
            yield "%s was answered" % shown(answer)
        if answer.fault or answer.status == 500:
            yield answer.fault or "500 was answered"
        if answer.status == 503 and answer.code not in (UNAVAILABLE, OUTCOME_UNKNOWN):
            yield "%s was answered" % shown(answer)

    def _command(self, *words):
        done = self._bench.stack.program("acpctl", *words)
        if done.returncode and not is_missing(done):
            yield "acpctl %s: exit %d: %s" % (" ".join(words), done.returncode, (done.stderr or done.stdout)[-600:])

    def _line(self, call):
        rows = self._rows_of([call.first])
        log = ("%d rows" % len(rows) if len(rows) > 1 else "no row" if not rows else
               "success row" if rows[0].status == "success" else "refusal row")
        repeat = "-" if len(call.answers) < 2 else shown(call.last)
        how = "" if len(call.answers) < 2 else "with the key" if call.last.request.has_given_key else "unchanged"
        return (call.case, shown(call.first), log, repeat, how, str(len(self._found[call.case].get(call.name, []))))

    def lines(self):
        yield from self.notes
        counts = Counter(self._line(call) for call in self._calls)
        lines = [("case", "answered", "log", "repeat got", "repeated", "effects", "calls")]
        lines += [(*line, str(counts[line])) for line in sorted(counts, key=lambda line: (CASES.index(line[0]), line))]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            yield "  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip()
        for case in CASES:
            yield "%s %s: the log agrees with the answers" % ("FAIL" if case in self._wrong_cases else "ok", case)
        for line in self.contradictions:
            yield "VIOLATION %s" % line
        yield "violations: %d" % len(self.contradictions)

    def __str__(self):
        return "\n".join(self.lines())


def play(network, pool, calls, choice):
    """Makes the given number of concurrent calls under one fault, and their repeats: after recovery, or while earlier
    late commits are still late."""
    (order, cut), = choice.choices(list(TROUBLES), list(TROUBLES.values()))
    seconds, hasty = choice.uniform(*LATE), choice.random() < 0.5
    begun = time.monotonic()
    network.order(order, 60 if cut else seconds)
    sent = [pool.submit(call.send) for call in calls]
    if cut:
        time.sleep(choice.uniform(0.1, 1.2))
        network.order("cut")
        time.sleep(0.05)
        network.order("pass")
    for one in sent:
        one.result(90)
    if not cut and hasty:
        network.order(order, 0)
    elif not cut:
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        network.order("pass")
    list(pool.map(Call.repeat, calls))
    network.order("pass")
    for call in calls:
        call.trouble = order + (" cut" if cut else " %.1f s late%s" % (seconds, ", hasty" if hasty else ""))


@contextlib.contextmanager
def site(stack):
    """Starts the stack with the network before its database; yields the network."""
    stack.up()
    timeout = "db_commit_timeout = %d\n" % COMMIT_TIMEOUT if knows_setting(stack, "db_commit_timeout") else ""
    state = stack.env["ACP_STATE"]
    with Network(os.path.join(state, "run", "network"), os.path.join(state, "run", "pg")) as network, \
            tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-fault-") as settings:
        settings.write(SETTINGS % (TIMEOUT, timeout, urllib.parse.quote(network.folder, safe="")))
        settings.flush()
        try:
            stack.up(conf=settings.name)
            yield network
        finally:
            stack.down()


def made_calls(stack, load, seed, times, clients, choice):
    """Runs each case the given number of times, in rounds of one call per client. Each client has its own tenant."""
    load.onboard(clients, 0, pay(stack))
    callers = [(load.stand_by(stack.url, "%s/%d" % (seed, number)), account)
               for number, account in enumerate(load.accounts())]
    cases = CASES * times
    choice.shuffle(cases)
    calls = [Call(case, "%s-call-%d" % (load.name, number), *callers[number % clients])
             for number, case in enumerate(cases)]
    return [calls[first:first + clients] for first in range(0, len(calls), clients)]


def run(stack, seed, times, clients):
    """Runs on a private stack that is not running yet. Returns the Verdict."""
    choice = random.Random("%s/late" % seed)
    with site(stack) as network, ThreadPoolExecutor(clients) as pool:
        bench = Bench(stack)
        load = Load(stack.url, 1, seed, "late-%s" % uuid.uuid4().hex[:8])
        since = bench.db.value("select acp.now() as now")
        rounds = made_calls(stack, load, seed, times, clients, choice)
        start = time.monotonic()
        for calls in rounds:
            until(60, "the program is ready", lambda: bench.get("/readyz").status == 200)
            play(network, pool, calls, choice)
        took = time.monotonic() - start
        note = wait_for_journal(stack, 60)
        verdict = Verdict(bench, load.name, since, [call for calls in rounds for call in calls])
        verdict.notes = ["seed %s, %d rounds of %d calls, %.0f s" % (seed, len(rounds), clients, took), note]
        return verdict
