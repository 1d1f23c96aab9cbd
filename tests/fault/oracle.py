"""What must hold afterwards, asked of the database: every answer against every row."""

import csv
import io
import re
import time
from collections import Counter, defaultdict

import test_account
from client import CREATE, NIL, succeeded
from harness import Failure, clipped, until
from workload import BILLABLE, UNKNOWN

SHOWN = 5  # examples of each violation
KEY_SECONDS = 24 * 3600  # how long an idempotency key is remembered
NO_COMMAND = 64  # acpctl's exit status where the command does not exist
COLUMNS = ("request_id", "tenant_id", "action", "status", "error_code", "billable", "dry_run", "tier",
           "idempotency_key", "result_meta->>'resource_id'", "result_meta->>'usage_check'", "acp.period(ts)",
           "extract(epoch from ts)")


class Row:
    def __init__(self, values):
        (self.request_id, self.tenant_id, self.action, self.status, self.code, billable, dry_run, self.tier,
         self.idempotency_key, self.resource, self.usage_check, self.period, at) = [value or None for value in values]
        self.at = float(at)  # by the program's clock
        self.billable = billable == "t"
        self.dry_run = dry_run == "t"

    def __str__(self):
        return "row: %s %s %s%s, tenant %s, idempotency key %s" % (
            self.status, self.code or "", "billable" if self.billable else "not billable",
            ", dry run" if self.dry_run else "", self.tenant_id, self.idempotency_key)


def table(db, select):
    """The rows of a SELECT as lists of text, many at a time."""
    return list(csv.reader(io.StringIO(db.text("copy (%s) to stdout (format csv)" % select))))


STRADDLING = 60  # seconds before a jump of the clock; a call that began then may have done its work after it


def latest(moment, jumps):
    """When a call may have claimed its key whose row says that it began at this moment."""
    return max([moment] + [moment + ahead for before, ahead in jumps if abs(moment - before) <= STRADDLING])


def effects_of(rows, jumps):
    """The billable rows of each idempotency key that can all be right: a key is forgotten after a day (of the
    program's clock), and what comes then is another call. jumps: (when, by how many seconds) that clock went ahead.
    key -> (how many rows, how many are allowed)."""
    times = defaultdict(list)
    for row in rows:
        if row.billable and row.idempotency_key:
            times[row.tenant_id, row.action, row.idempotency_key].append(row.at)
    found = {}
    for key, moments in times.items():
        moments.sort()
        allowed, last = 1, moments[0]
        for moment in moments:
            if latest(moment, jumps) - last >= KEY_SECONDS:
                allowed, last = allowed + 1, latest(moment, jumps)
        found[key] = len(moments), allowed
    return found


class Oracle:
    def __init__(self, bench, load, since, free_limit, reservation_ttl, may_fail=lambda answer: False,
                 jumps=()):
        """may_fail(answer): was the schema broken when that was answered, so that a 500 is right? jumps: of the
        program's clock, as for effects_of."""
        self._bench = bench
        self._load = load
        self._since = since
        self._limit = free_limit
        self._ttl = reservation_ttl
        self._may_fail = may_fail
        self._jumps = jumps
        self._answers = load.answers()
        self._accounts = load.accounts()
        self.violations = []
        self.notes = []
        self.in_doubt = []  # 503: what the table says was done all the same

    # Results ----------------------------------------------------------------------------------------------------------

    def _expect(self, name, wrong):
        """Each of wrong is a violation of one promise; the first few are told."""
        for one in wrong[:SHOWN]:
            self.violations.append("%s: %s" % (name, clipped(str(one), 1200)))
        if len(wrong) > SHOWN:
            self.violations.append("%s: and %d more" % (name, len(wrong) - SHOWN))
        self.notes.append("%s %s" % ("FAIL" if wrong else "ok", name))

    def judge(self):
        self._read()
        self._rows_of_answers()
        self._rows_of_nobody()
        self._unavailable()
        self._models()
        self._keyed()
        self._free_limit()
        self._places()
        self._account()
        self._usage()
        self._command("reconcile")
        self._command("audit", "verify")
        return self.violations

    # Every answer and its row -----------------------------------------------------------------------------------------

    def _read(self):
        rows = [Row(values) for values in table(
            self._bench.db, "select %s from acp.audit_logs where ts >= '%s'" % (", ".join(COLUMNS), self._since))]
        self._rows = defaultdict(list)
        for row in rows:
            self._rows[row.request_id].append(row)
        ours = {account.id for account in self._accounts}
        self._own = [row for row in rows if row.tenant_id in ours]
        self._effects = effects_of(self._own, self._jumps)

    def _rows_of_answers(self):
        answered = [a for a in self._answers if a.status not in (UNKNOWN, 503)]
        told = Counter(answer.request_id for answer in self._answers if answer.request_id)
        self._expect("no request_id is given twice", ["%s, %d times" % pair for pair in told.items() if pair[1] > 1])
        self._expect("every reply has its form", [(a.fault, str(a)) for a in self._answers if a.fault])
        self._expect("no 500", [a for a in answered if a.status == 500 and not self._may_fail(a)])
        counts = [(a, len(self._rows[a.request_id])) for a in answered]
        self._expect("every 2xx has exactly one audit row",
                     ["%d rows of %s" % (count, a) for a, count in counts if count != 1 and a.status < 300])
        self._expect("every other answer has exactly one audit row",
                     ["%d rows of %s" % (count, a) for a, count in counts if count != 1 and a.status >= 300])
        wrong = [(a, self._difference(a, self._rows[a.request_id][0])) for a, count in counts if count == 1]
        self._expect("the row says what was answered", ["%s; %s; %s" % (what, a, self._rows[a.request_id][0])
                                                        for a, what in wrong if what])

    def _difference(self, answer, row):
        """What the row should say and does not; None: nothing."""
        request = answer.request
        good = answer.status < 300
        fresh = good and answer.code is None
        # Answered while the database was away; afterwards the allowance had no room for it: it is given away.
        given_away = row.usage_check == "failed_open_over_limit" and row.tier == "free"
        wanted = {"status": (row.status == "success", good), "error_code": (row.code, answer.code),
                  "billable": (row.billable, fresh and request.action in BILLABLE and not request.dry_run and not given_away)}
        if answer.status != 400:  # a body that was refused early was not read to its end
            wanted["action"] = (row.action, request.action or row.action)
            wanted["dry_run"] = (row.dry_run, request.dry_run)
            if request.action:
                wanted["idempotency_key"] = (row.idempotency_key, request.idempotency_key)
        if request.account and row.tenant_id != NIL:
            wanted["tenant"] = (row.tenant_id, request.account.id)
            wanted["tier"] = (row.tier, request.account.tier)
        if good and request.account:
            wanted["a tenant"] = (row.tenant_id != NIL, True)
        wrong = ["%s is %s instead of %s" % (name, *pair) for name, pair in wanted.items() if pair[0] != pair[1]]
        return ", ".join(wrong) or None

    def _rows_of_nobody(self):
        """Rows whose answer never arrived: at most as many as there were calls without an answer."""
        told = {answer.request_id for answer in self._answers}
        # What Stripe tells about a tenant is no call of a client.
        nobody = [row for row in self._own if row.request_id not in told and row.action != "stripe.webhook"]
        unknown = sum(answer.status is UNKNOWN for answer in self._answers)
        self.notes.append("rows of calls whose answer never arrived: %d, of %d such calls" % (len(nobody), unknown))
        if len(nobody) > unknown:
            self._expect("no rows of calls that nobody made", nobody)

    def _unavailable(self):
        """A 503 says that nothing was done. Where the commit's answer was lost, that may be wrong: told apart here."""
        found = Counter()
        for answer in self._answers:
            if answer.status != 503:
                continue
            rows = self._rows[answer.request_id]
            done = [row for row in rows if row.status == "success"]
            found["done all the same" if done else "with the row of the refusal" if rows else "without a row"] += 1
            if done:
                self.in_doubt.append("%s; %s" % (answer, done[0]))
        self.notes.append("503: %s" % (", ".join("%d %s" % (n, what) for what, n in found.most_common()) or "none"))
        twice = [a for a in self._answers if a.status == 503 and len(self._rows[a.request_id]) > 1]
        self._expect("no 503 has two rows", twice)

    # What was written -------------------------------------------------------------------------------------------------

    def _models(self):
        found = defaultdict(list)
        for name, tenant, model in table(self._bench.db, "select name, tenant_id, model_id from acp.leadscoring_models "
                                         "where starts_with(name, '%s-')" % self._load.name):
            found[name].append((tenant, model))
        self._found_models = found
        creates = defaultdict(list)
        for answer in self._answers:
            if answer.request.model and not answer.request.dry_run:
                creates[answer.request.model].append(answer)
        wrong = []
        for name, answers in creates.items():
            wrong += self._wrong_model(name, answers, found.get(name, []))
        wrong += ["%s: a model that nobody created" % name for name in found if name not in creates]
        self._expect("models are those that were answered with success", wrong)
        written = Counter(model for models in found.values() for _, model in models)
        counted = Counter(row.resource for row in self._own if row.action == CREATE and row.billable)
        self._expect("each model has the one audit row that charges it", [
            "%s: %d models, %d rows" % (model, written[model], counted[model])
            for model in set(written) | set(counted) if written[model] != counted[model]])

    def _wrong_model(self, name, answers, models):
        good = [a for a in answers if a.status == 200]
        unsure = [a for a in answers if a.status in (UNKNOWN, 503)]
        request = answers[0].request
        _, allowed = self._effects.get((request.account.id, CREATE, request.idempotency_key), (0, 1))
        if len(models) > allowed:
            return ["%s: %d models; %s" % (name, len(models), answers[0])]
        if good and not models:
            return ["%s: success was answered and there is no model; %s" % (name, good[0])]
        if models and not good and not unsure:
            return ["%s: a model, though nothing was answered but refusals; %s" % (name, answers[0])]
        there = [model for _, model in models]
        return ["%s: model %s was answered, %s is there; %s" % (name, a.data, ", ".join(there), a)
                for a in good if a.data not in there]

    def _keyed(self):
        """One key, one effect: at most one billable row, and one if there was a success; at most one model."""
        calls = defaultdict(list)
        for answer in self._answers:
            if answer.request.idempotency_key:
                key = answer.request.account.id, answer.request.action, answer.request.idempotency_key
                calls[key].append(answer)
        wrong = []
        for key, answers in calls.items():
            good = [answer for answer in answers if answer.status == 200]
            models = sum(len(self._found_models.get(name, [])) for name in {a.request.model for a in answers} if name)
            effects, allowed = self._effects.get(key, (0, 1))
            if effects > allowed or models > allowed or (good and not effects):
                wrong.append("%d billable rows, %d models, %d successes; %s" %
                             (effects, models, len(good), (good or answers)[0]))
        self._expect("an idempotency key has one effect", wrong)
        replays = sum(answer.code == "IDEMPOTENT_REPLAY" for answer in self._answers)
        self.notes.append("idempotency keys: %d, replays: %d" % (len(calls), replays))

    # The allowance ----------------------------------------------------------------------------------------------------

    def _free_limit(self):
        billable = [row for row in self._own if row.billable and row.tier == "free"]
        used = Counter((row.tenant_id, row.period) for row in billable)
        open_failed = Counter((row.tenant_id, row.period) for row in billable if row.usage_check)
        self._expect("no free tenant has more than %d billable successes in a month" % self._limit, [
            "tenant %s, month %s: %d, of them %d whose usage check failed open" % (*key, count, open_failed[key])
            for key, count in used.items() if count > self._limit])
        full = sum(count == self._limit for count in used.values())
        self.notes.append("free tenants: %d; allowances of a month used up: %d" % (
            sum(account.tier == "free" for account in self._accounts), full))

    def _places(self):
        """Places that died with a process are free again after their time: the tenant can use all it is due."""
        db = self._bench.db
        held = "select count(*) from acp.usage_reservations where expires_at > acp.now()"
        try:
            until(self._ttl + 5, "reservations expire", lambda: db.value(held) == 0, 0.2)
        except Failure as error:
            self._expect("reservations free themselves", [error])
            return
        left = db.rows("select tenant_id, used, reserved from acp.usage_quota where reserved > 0 and used < %d "
                       "and period = acp.period(acp.now())" % self._limit)
        mine = {account.id: account for account in self._accounts if account.tier == "free"}
        left = [quota for quota in left if quota["tenant_id"] in mine]
        wrong = []
        for quota in left[:5]:
            due = self._limit - quota["used"]
            more = self._use_up(mine[quota["tenant_id"]])
            if more != due:
                wrong.append("%d more calls instead of %d: %s" % (more, due, quota))
        self._expect("reservations free themselves", wrong)
        self.notes.append("tenants with places of calls that died: %d; used up afterwards: %d" % (len(left),
                                                                                                 len(left[:5])))

    def _use_up(self, account):
        for count in range(self._limit + 1):
            reply = self._bench.score(account.key)
            if reply.status == 402:
                return count
            succeeded(reply)
        return self._limit + 1

    # The books --------------------------------------------------------------------------------------------------------

    def _account(self):
        """What every run of the end-to-end tests must leave behind."""
        for test in (test_account.test_no_drift, test_account.test_quota_is_what_the_rows_say,
                     test_account.test_nobody_beyond_the_allowance, test_account.test_billable_rows,
                     test_account.test_request_ids_are_unique):
            wrong = []
            try:
                test(self._bench)
            except Failure as error:
                wrong.append(error)
            self._expect(test.__name__[len("test_"):].replace("_", " "), wrong)

    def _usage(self):
        """GET /api/usage of every tenant."""
        counted = dict(table(self._bench.db, "select tenant_id, count(*) from acp.audit_logs where billable and "
                             "acp.period(ts) = acp.period(acp.now()) group by 1"))
        wrong = []
        for account in self._accounts:
            shown, rows = self._bench.usage(account.key)["calls_used"], int(counted.get(account.id, 0))
            if shown != rows:
                wrong.append("tenant %s: calls_used %d, %d billable rows" % (account.id, shown, rows))
        self._expect("GET /api/usage is what the rows say (%d tenants)" % len(self._accounts), wrong)

    def _command(self, *words):
        done = self._bench.stack.program("acpctl", *words)
        if is_missing(done):
            self.notes.append("skip acpctl %s: this acpctl does not have it" % " ".join(words))
            return
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        self._expect("acpctl %s" % " ".join(words),
                     ["exit %d: %s" % (done.returncode, said)] if done.returncode else [])


def is_missing(done):
    return done.returncode == NO_COMMAND and "no such command" in done.stderr


def wait_for_journal(stack, seconds):
    """Until rows that were kept aside while the database was away have reached it; how long that took, in words."""
    start = time.monotonic()
    done = stack.program("acpctl", "journal", "status")
    if is_missing(done):
        return "skip acpctl journal status: this acpctl does not have it"

    def is_empty():
        nonlocal done
        done = stack.program("acpctl", "journal", "status")
        return done.returncode == 0 and re.search(r"\bempty\b", done.stdout)

    try:
        until(seconds, "the journal is empty", is_empty, 0.2)
    except Failure as error:
        raise Failure("%s: acpctl journal status: exit %d: %s%s" % (error, done.returncode, done.stdout, done.stderr))
    return "the journal was empty after %.1f s" % (time.monotonic() - start)
