"""The checks after a run: compares every answer with every row in the database."""

import csv
import io
import re
import time
from collections import Counter, defaultdict

import test_account
from client import CREATE, NIL, ONBOARD, succeeded
from checks import Failure, clipped, until
from workload import BILLABLE, CREATE_KEY, OUTCOME_UNKNOWN, UNKNOWN

SHOWN = 5  # examples of each violation
KEY_SECONDS = 24 * 3600  # how long an idempotency key is remembered
SHOWN_OF_KEY = 12  # characters of an API key that are stored
UNAVAILABLE = "UNAVAILABLE"
# The steps of a person at the link of a shopper, and the events of Stripe, are not calls of a client.
NOT_CALLED = {"upgrade.checkout", "stripe.webhook"}
NO_COMMAND = 64  # exit status of acpctl for an unknown command
COLUMNS = ("request_id", "tenant_id", "action", "status", "error_code", "billable", "dry_run", "tier",
           "idempotency_key", "result_meta->>'resource_id'", "result_meta->>'usage_check'", "acp.period(ts)",
           "extract(epoch from ts)")


class Row:
    def __init__(self, values):
        (self.request_id, self.tenant_id, self.action, self.status, self.code, billable, dry_run, self.tier,
         self.idempotency_key, self.resource, self.usage_check, self.period, at) = [value or None for value in values]
        self.at = float(at)  # by the clock of the program
        self.billable = billable == "t"
        self.dry_run = dry_run == "t"

    def __str__(self):
        return "row: %s %s %s%s, tenant %s, idempotency key %s" % (
            self.status, self.code or "", "billable" if self.billable else "not billable",
            ", dry run" if self.dry_run else "", self.tenant_id, self.idempotency_key)


def table(db, select):
    """Returns all rows of a SELECT as lists of text."""
    return list(csv.reader(io.StringIO(db.text("copy (%s) to stdout (format csv)" % select))))


STRADDLING = 60  # seconds: a call that began at most this long before a clock jump may do its work after the jump


def latest(moment, jumps):
    """Times at which a call may have claimed its key, if its row says that it began at this moment."""
    return max([moment] + [moment + ahead for before, ahead in jumps if abs(moment - before) <= STRADDLING])


def effects_of(rows, jumps):
    """Counts the billable rows of each idempotency key and how many are allowed. A key is forgotten after a day of the
    program's clock; a later call is a new one. jumps: (when, seconds) that the clock jumped ahead. Returns
    key -> (rows, allowed)."""
    times = defaultdict(list)
    for row in rows:
        if row.billable and row.idempotency_key:
            times[row.tenant_id, row.action, row.idempotency_key].append(row.at)
    return {key: (len(moments), most_effects(moments, jumps)) for key, moments in times.items()}


def most_effects(moments, jumps):
    """Returns how many effects of one key at those times are allowed."""
    allowed, last = 1, min(moments, default=0)
    for moment in sorted(moments):
        if latest(moment, jumps) - last >= KEY_SECONDS:
            allowed, last = allowed + 1, latest(moment, jumps)
    return allowed


class Oracle:
    def __init__(self, bench, load, since, free_limit, reservation_ttl, may_fail=lambda answer: False,
                 jumps=()):
        """may_fail(answer): true if the schema was broken at that time, so that a 500 is allowed. jumps: those of the
        program's clock, as for effects_of."""
        self._bench = bench
        self._load = load
        self._since = since
        self._limit = free_limit
        self._ttl = reservation_ttl
        self._may_fail = may_fail
        self._jumps = jumps
        self._answers = load.answers()
        self._all_accounts = load.accounts()
        self._accounts = [account for account in self._all_accounts if not load.is_lost(account)]
        self.violations = []
        self.notes = []

    # Results ----------------------------------------------------------------------------------------------------------

    def _expect(self, name, wrong):
        """Records each entry of wrong as a violation of one promise; prints the first few."""
        for one in wrong[:SHOWN]:
            self.violations.append("%s: %s" % (name, clipped(str(one), 1200)))
        if len(wrong) > SHOWN:
            self.violations.append("%s: and %d more" % (name, len(wrong) - SHOWN))
        self.notes.append("%s %s" % ("FAIL" if wrong else "ok", name))

    def check(self):
        self._read()
        self._rows_of_answers()
        self._unanswered_rows()
        self._refusals()
        self._outcomes()
        self._models()
        self._keyed()
        self._repeats()
        self._new_keys()
        self._agents()
        self._free_limit()
        self._reservations()
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
        ours = {account.id for account in self._all_accounts}
        self._own = [row for row in rows if row.tenant_id in ours]
        self._effects = effects_of(self._own, self._jumps)
        self._rows_of_keys = defaultdict(list)
        for row in self._own:
            if row.idempotency_key:
                self._rows_of_keys[row.tenant_id, row.action, row.idempotency_key].append(row)

    def _rows_of_answers(self):
        answered = [a for a in self._answers if a.status not in (UNKNOWN, 503)]
        ids = Counter(answer.request_id for answer in self._answers if answer.request_id)
        self._expect("no request_id is given twice", ["%s, %d times" % pair for pair in ids.items() if pair[1] > 1])
        self._expect("every reply is well-formed", [(a.fault, str(a)) for a in self._answers if a.fault])
        self._expect("no 500", [a for a in answered if a.status == 500 and not self._may_fail(a)])
        counts = [(a, len(self._rows[a.request_id])) for a in answered]
        self._expect("every 2xx has exactly one audit row",
                     ["%d rows of %s" % (count, a) for a, count in counts if count != 1 and a.status < 300])
        self._expect("every other answer has exactly one audit row",
                     ["%d rows of %s" % (count, a) for a, count in counts if count != 1 and a.status >= 300])
        wrong = [(a, self._difference(a, self._rows[a.request_id][0])) for a, count in counts if count == 1]
        self._expect("the row matches the answer", ["%s; %s; %s" % (what, a, self._rows[a.request_id][0])
                                                        for a, what in wrong if what])

    def _difference(self, answer, row, done=False):
        """Describes how the row differs from the expected one; None: it does not. done: a success that the answer does
        not show."""
        request = answer.request
        good = answer.good or done
        code = None if done else answer.code
        fresh = good and code is None
        # Answered while the database was away. The allowance had no room left afterwards, so the call is free.
        is_free = row.usage_check == "failed_open_over_limit" and row.tier == "free"
        billable = fresh and request.action in BILLABLE and not request.dry_run and not is_free
        wanted = {"status": (row.status == "success", good), "error_code": (row.code, code),
                  "billable": (row.billable, billable)}
        if answer.status != 400:  # a body refused early was not read completely
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

    def _unanswered_rows(self):
        """Rows without a received answer: at most as many as calls without an answer."""
        answered = {answer.request_id for answer in self._answers}
        unanswered = [row for row in self._own if row.request_id not in answered and row.action not in NOT_CALLED]
        unknown = sum(answer.status is UNKNOWN for answer in self._answers)
        self.notes.append("rows of calls whose answer never arrived: %d, of %d such calls" % (len(unanswered), unknown))
        if len(unanswered) > unknown:
            self._expect("no rows of calls that no client made", unanswered)

    def _refusals(self):
        """A call answered as refused or failed was not done and is not done later."""
        found, wrong = Counter(), []
        for answer in self._answers:
            if answer.unsure or answer.good:
                continue
            rows = self._rows[answer.request_id]
            wrong += ["%s; %s" % (answer, row) for row in rows if row.status == "success"]
            if answer.status == 503:
                found["with the row of the refusal" if rows else "without a row"] += 1
        self.notes.append("503 %s: %s" % (UNAVAILABLE, ", ".join("%d %s" % (n, what) for what, n in found.most_common())
                                          or "none"))
        self._expect("calls answered as refused or failed were not done", wrong)
        twice = [a for a in self._answers if a.status == 503 and len(self._rows[a.request_id]) > 1]
        self._expect("no 503 has two rows", twice)

    def _outcomes(self):
        """Calls answered with OUTCOME_UNKNOWN: done or not, and the rows agree."""
        found, wrong = Counter(), []
        for answer in self._answers:
            if answer.code != OUTCOME_UNKNOWN:
                continue
            rows = self._rows[answer.request_id]
            done = any(row.status == "success" for row in rows)
            found["done" if done else "with another row" if rows else "without a row"] += 1
            found["without a key"] += not answer.named_key
            for row in rows:
                outcome = row.status, row.code
                what = self._difference(answer, row, done=True) if done else \
                    outcome not in [("error", OUTCOME_UNKNOWN), ("error", UNAVAILABLE)] and "the row does not match"
                wrong += ["%s; %s; %s" % (what, answer, row)] if what else []
        self.notes.append("%s: %d%s" % (OUTCOME_UNKNOWN, sum(a.code == OUTCOME_UNKNOWN for a in self._answers),
                                        "".join(", %d %s" % (n, what) for what, n in found.most_common() if n)))
        self._expect("rows of calls with unknown outcome match what was done", wrong)

    # Models and idempotency keys --------------------------------------------------------------------------------------

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
        wrong += ["%s: a model that no client created" % name for name in found if name not in creates]
        self._expect("the models are those answered with success", wrong)
        written = Counter(model for models in found.values() for _, model in models)
        counted = Counter(row.resource for row in self._own if row.action == CREATE and row.billable)
        self._expect("each model has exactly one audit row that charges it", [
            "%s: %d models, %d rows" % (model, written[model], counted[model])
            for model in set(written) | set(counted) if written[model] != counted[model]])

    def _wrong_model(self, name, answers, models):
        good = [a for a in answers if a.status == 200]
        unsure = [a for a in answers if a.unsure]
        allowed = self._allowed(answers)
        if len(models) > allowed:
            return ["%s: %d models; %s" % (name, len(models), answers[0])]
        if good and not models:
            return ["%s: success was answered, but there is no model; %s" % (name, good[0])]
        if models and not good and not unsure:
            return ["%s: a model, but all answers were refusals; %s" % (name, answers[0])]
        found = [model for _, model in models]
        return ["%s: model %s was answered, but found: %s; %s" % (name, a.data, ", ".join(found), a)
                for a in good if a.data not in found]

    def _keyed(self):
        """One effect per key: at most one billable row, exactly one after a success, and at most one model."""
        calls = defaultdict(list)
        for answer in self._answers:
            if answer.request.idempotency_key and not answer.request.has_given_key:
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

    # Repeats with the key from an answer ------------------------------------------------------------------------------

    def _done(self, answers):
        """Returns the rows that record the success of this call or of a repeat."""
        rows = {row for answer in answers for row in self._rows.get(answer.request_id, [])}
        for request in {answer.request for answer in answers}:
            if request.account and request.idempotency_key:
                rows.update(self._rows_of_keys.get((request.account.id, request.action, request.idempotency_key), []))
        return [row for row in rows if row.status == "success" and row.code is None]

    def _allowed(self, answers):
        """Returns how many effects of these calls are allowed. All but the first have one key."""
        keyed = any(answer.request.idempotency_key for answer in answers)
        return most_effects([row.at for row in self._done(answers)], self._jumps) if keyed else 1

    def _repeats(self):
        """A call with unknown outcome and its repeats with the key from its answer have one effect."""
        chains = {a.request.first: [] for a in self._answers if a.request.has_given_key and a.request.path != ONBOARD}
        for answer in self._answers:
            if answer.request.first in chains:
                chains[answer.request.first].append(answer)
        wrong, ends = [], Counter()
        for answers in chains.values():
            last, done, allowed = answers[-1], self._done(answers), self._allowed(answers)
            ends["not ended" if last.open else "ended in success" if last.good else "ended in a refusal"] += 1
            if len(done) > allowed:
                wrong.append("done %d times; %s; %s" % (len(done), answers[0], ", ".join(map(str, done))))
            elif last.good and not done:
                wrong.append("the last answer was a success, but it has no row of a success; %s" % last)
            elif done and not last.open and not last.good:
                wrong.append("refused in the end, but done; %s; %s; %s" % (answers[0], last, done[0]))
        self.notes.append("calls repeated with the key from their answer: %s" % (
            ", ".join("%d %s" % (n, what) for what, n in ends.most_common()) or "none"))
        self._expect("a call repeated with the key from its answer is done once", wrong)

    def _new_keys(self):
        """Every API key in an answer exists, and every existing key was in an answer."""
        found = defaultdict(list)
        for name, tenant, key_id, prefix in table(
                self._bench.db, "select name, tenant_id, api_key_id, key_prefix from acp.api_keys "
                "where starts_with(name, '%s-')" % self._load.name):
            found[name].append((tenant, key_id, prefix))
        creates = defaultdict(list)
        for answer in self._answers:
            if answer.request.new_key:
                creates[answer.request.new_key].append(answer)
        wrong = ["%s: a key that no client created" % name for name in found if name not in creates]
        for name, answers in creates.items():
            wrong += self._wrong_key(name, answers, found.get(name, []))
        self._expect("the API keys are those answered with success (%d)" % len(found), wrong)
        written = Counter(key_id for keys in found.values() for _, key_id, _ in keys)
        # A replay is a success, too, and is marked as such.
        recorded = Counter(row.resource for row in self._own if row.action == CREATE_KEY and row.status == "success"
                       and row.code is None)
        self._expect("each API key has exactly one audit row", [
            "%s: %d keys, %d rows" % (key_id, written[key_id], recorded[key_id])
            for key_id in set(written) | set(recorded) if written[key_id] != recorded[key_id]])

    def _wrong_key(self, name, answers, keys):
        good = [a for a in answers if a.good]
        if len(keys) > self._allowed(answers):
            return ["%s: %d keys; %s" % (name, len(keys), answers[0])]
        if keys and not good and not any(a.unsure for a in answers):
            return ["%s: a key, but all answers were refusals; %s" % (name, answers[0])]
        found = [(key_id, prefix) for _, key_id, prefix in keys]
        return ["%s: key %s… with id %s was answered, but found: %s; %s" % (
            name, a.data.get("api_key", "")[:SHOWN_OF_KEY], a.data.get("api_key_id"), found, a) for a in good
                if (a.data.get("api_key_id"), a.data.get("api_key", "")[:SHOWN_OF_KEY]) not in found]

    def _agents(self):
        """Agents that onboarded without a key: each that got an answer becomes a tenant and knows the key of the
        tenant."""
        tenants = defaultdict(list)
        for agent, tenant, prefix in table(
                self._bench.db, "select t.agent_id, t.tenant_id, k.key_prefix from acp.tenants t "
                "left join acp.api_keys k using (tenant_id) where starts_with(t.agent_id, '%s-')" % self._load.name):
            tenants[agent].append((tenant, prefix))
        agents = defaultdict(list)
        for answer in self._answers:
            if answer.request.agent:
                agents[answer.request.agent].append(answer)
        wrong, ends = [], Counter()
        for agent, answers in agents.items():
            last = answers[-1]
            ends["tenants" if last.good else "unanswered" if last.status is UNKNOWN else "not ended" if last.open else
                 "refused"] += 1
            wrong += self._wrong_agent(agent, answers, tenants.get(agent, []))
        self.notes.append("agents onboarded without a key: %s" % (
            ", ".join("%d %s" % (n, what) for what, n in ends.most_common()) or "none"))
        self._expect("no agent is lost", wrong)

    def _wrong_agent(self, agent, answers, tenants):
        good = [(a.data["tenant_uuid"], a.data["api_key"][:SHOWN_OF_KEY]) for a in answers if a.good]
        refused = [a for a in answers if not a.good and not a.open]
        if refused:
            return ["%s: refused, after %s; %s" % (agent, answers[0], refused[0])]
        if len(tenants) > 1 or any(pair not in tenants for pair in good):
            return ["%s: %s answered, but found: %s; %s" % (agent, good, tenants, answers[-1])]
        if tenants and not good and not any(a.unsure for a in answers):
            return ["%s: a tenant, but all answers were refusals; %s" % (agent, answers[0])]
        return []

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

    def _reservations(self):
        """Reservations of killed calls expire: the tenant can use its whole allowance."""
        db = self._bench.db
        held = "select count(*) from acp.usage_reservations where expires_at > acp.now()"
        try:
            until(self._ttl + 5, "reservations expire", lambda: db.value(held) == 0, 0.2)
        except Failure as error:
            self._expect("reservations expire", [error])
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
        self._expect("reservations expire", wrong)
        self.notes.append("tenants with reservations of killed calls: %d; used up afterwards: %d" % (len(left),
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
        """The consistency checks of every end-to-end run."""
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
        """Checks GET /api/usage of every tenant."""
        counted = dict(table(self._bench.db, "select tenant_id, count(*) from acp.audit_logs where billable and "
                             "acp.period(ts) = acp.period(acp.now()) group by 1"))
        wrong = []
        for account in self._accounts:
            shown, rows = self._bench.usage(account.key)["calls_used"], int(counted.get(account.id, 0))
            if shown != rows:
                wrong.append("tenant %s: calls_used %d, %d billable rows" % (account.id, shown, rows))
        self._expect("GET /api/usage matches the rows (%d tenants)" % len(self._accounts), wrong)

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
    """Waits until journaled rows are in the database. Returns a sentence with the duration."""
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
