#!/usr/bin/env python3
"""Measures the cost of a call when the audit log is large: latency over a large database divided by that over a small
one; see README.md.

Started by tests/bench/growth, which installs missing packages and builds. Exit status: 0 every target was met,
1 a correctness check failed, 2 it could not run, 3 a target was missed.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import gauge
import report
from database import clean_environment, with_database
from checks import Failure, check
from load import FREE, PAID, USAGE, AuditCheck, Call, Wrk, audit_columns
from report import Figure
from rig import Frontend, Process, Rig, as_web_user, make_folder, settings_of, settings_text, write_file
from rounds import Rounds, add_options, say
from tenants import TENANTS, Tenants

CONNECTIONS = 4
TARGET = 1.15
CHUNK = 250000
# Generous estimate per row: the row, its part of the indexes, and the write-ahead log that is kept.
BYTES_A_ROW = 650
BYTES_OF_LOG = 3 * 2 ** 30
INVOICE = Call("invoice", "GET /api/billing/invoice (preview)", "paid", path="/api/billing/invoice")


def of_heaviest(call, tier):
    return dataclasses.replace(call, name=call.name + "-heaviest", keys="one-" + tier,
                               title=call.title + ", the %s tenant with most rows" % tier)


CALLS = [PAID, of_heaviest(PAID, "paid"), FREE, of_heaviest(FREE, "free"), USAGE, of_heaviest(USAGE, "paid"), INVOICE,
         of_heaviest(INVOICE, "paid")]

# Frequency of callers: the tenant of rank r calls about as often as 1/r; paid and free tenants alternate.
RANKS = """
create schema bench;
create table bench.rank as
select case when n < %(tenants)d then 2 * n + 1 else 2 * (n - %(tenants)d) + 2 end as rank, t.tenant_id, k.api_key_id,
	k.key_prefix, acp.effective_tier(t.tier, t.payment_method_status) as tier
from (select *, right(agent_id, 4)::integer as n from acp.tenants where agent_id like 'bench-%%') t
join acp.api_keys k using (tenant_id);
alter table bench.rank add primary key (rank);
analyze bench.rank;
"""

# One row of the log, from its number i, three random numbers and the caller r. Rows are stored in time order, like real
# calls. The hash is a plausible one; chain columns, if any, hold dummy values.
ROW = {
    "event_id": "gen_random_uuid()", "request_id": "gen_random_uuid()", "ts": "x.ts", "tenant_id": "r.tenant_id",
    "integration": "'acp-fcgi'", "pack": "x.pack", "action": "x.action", "actor_type": "'api_key'",
    "actor_id": "r.key_prefix", "api_key_id": "r.api_key_id",
    "request_hash": "encode(sha256(x.i::text::bytea), 'hex')", "status": "x.status",
    "error_code": "case x.status when 'error' then 'UPSTREAM_FAILED' when 'denied' then 'SCOPE_DENIED' end",
    "error_message_redacted": "case x.status when 'success' then null else 'The call was not possible.' end",
    "latency_ms": "(0.5 + 20 * x.luck ^ 4)::real", "ip_address": "'192.0.2.7'",
    "billable": "x.status = 'success' and x.pack = 'domain.leadscoring'",
    "billing_unit": "case x.action when 'domain.leadscoring.scores.compute' then 'row' end", "billing_quantity": "1",
    "tier": "r.tier"}

FILL = """
set synchronous_commit = off;
with made as (
	insert into acp.audit_logs (%(columns)s)
	select %(values)s
	from (
		select i, luck, floor(exp(fame * ln(2 * %(tenants)d + 1)))::integer as rank,
			timestamptz '%(first)s' + (timestamptz '%(last)s' - timestamptz '%(first)s') * (i::float8 / %(rows)d) as ts,
			case when kind < 0.72 then 'domain.leadscoring.scores.compute' when kind < 0.87 then 'domain.leadscoring.models.list'
				when kind < 0.92 then 'domain.leadscoring.questions.list' when kind < 0.97 then 'meta.version'
				else 'iam.keys.list' end as action,
			case when kind < 0.92 then 'domain.leadscoring' when kind < 0.97 then 'meta' else 'iam' end as pack,
			case when luck < 0.93 then 'success' when luck < 0.97 then 'error' else 'denied' end as status
		from (select i, random() as fame, random() as kind, random() as luck
			from generate_series(%(from)d, %(to)d) as i offset 0) numbers
	) x join bench.rank r on r.rank = x.rank
	returning tenant_id, ts, action, status, billable, tier, billing_unit, billing_quantity, event_id
)
insert into acp.usage_counted as c
	(tenant_id, day, action, status, billable, tier, billing_unit, slot, calls, quantity)
select tenant_id, (ts at time zone 'UTC')::date, action, status, billable, tier, coalesce(billing_unit, 'call'),
	get_byte(uuid_send(event_id), 0) %% %(slots)d, count(*), sum(billing_quantity)
from made group by 1, 2, 3, 4, 5, 6, 7, 8
on conflict (tenant_id, day, action, status, billable, tier, billing_unit, slot)
do update set calls = c.calls + excluded.calls, quantity = c.quantity + excluded.quantity;
"""

QUOTA = """
insert into acp.usage_quota (tenant_id, period, used)
select tenant_id, date_trunc('month', day)::date, sum(calls) from acp.usage_counted where billable and tier = 'free'
group by 1, 2
on conflict (tenant_id, period) do update set used = excluded.used;
drop schema bench cascade;
"""


def sql(database, statements, seconds=7200):
    """Runs long statements as superuser."""
    done = subprocess.run(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database.url],
                          input=statements, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=clean_environment(), timeout=seconds)
    check(done.returncode == 0, "psql: %s" % done.stderr.strip())
    return done.stdout.strip()


class Site:
    """A responder with lighttpd, its database, its tenants, and its measurements."""

    def __init__(self, name, rows, url, database, folder):
        self.name = name
        self.rows = rows
        self.url = url
        self.database = database
        self.tenants = Tenants(url, database, os.path.join(folder, "keys-" + name))
        self.wrk = Wrk(self.tenants.folder)
        self.runs = {}  # name of call -> runs

    def fill(self, months, slots):
        """Inserts rows over the given number of months up to now, with matching counters and quotas."""
        first, last = json.loads(sql(self.database, (
            "select json_build_array(first, now() - interval '1 minute'), acp.ensure_partitions(first, %d) from "
            "(select date_trunc('month', now(), 'UTC') - interval '%d months' as first) x" % (months + 3, months - 1)
        )).rpartition("|")[0])
        columns = audit_columns(self.database, ROW, "x.i::bigint")
        sql(self.database, RANKS % {"tenants": TENANTS})
        for begin in range(1, self.rows + 1, CHUNK):
            sql(self.database, FILL % {
                "columns": ", ".join(columns), "values": ", ".join(columns.values()), "tenants": TENANTS,
                "first": first, "last": last, "rows": self.rows, "slots": slots, "from": begin,
                "to": min(begin + CHUNK - 1, self.rows)})
            if begin // CHUNK % 8 == 7:
                say("    %s rows" % format(begin + CHUNK - 1, ","))
        sql(self.database, QUOTA)

    def tidy(self):
        """Does the work of autovacuum over the months."""
        sql(self.database, "vacuum analyze")

    def described(self):
        """Describes the contents of the database."""
        rows, counters, size = sql(self.database, (
            "select (select count(*) from acp.audit_logs), (select count(*) from acp.usage_counted), "
            "pg_size_pretty(pg_database_size(current_database()))")).split("|")
        most = sql(self.database, "select count(*) from acp.audit_logs where pack is not null group by tenant_id "
                   "order by 1 desc limit 1")
        return "%s rows, %s tenants (the busiest: %s), %s counters, %s" % (
            format(int(rows), ","), format(2 * TENANTS, ","), format(int(most), ","), format(int(counters), ","), size)

    def drift(self):
        return int(sql(self.database, "select count(*) from acp_report.usage_drift"))


class Growth:
    def __init__(self, options):
        self.options = options
        self.rig = Rig(options)
        self.failures = []
        self.skipped = []

    def check_disk(self):
        folder = os.path.realpath(self.rig.stack.env["ACP_STATE"])
        needed = (self.options.rows + self.options.small) * BYTES_A_ROW + BYTES_OF_LOG
        free = shutil.disk_usage(folder).free
        check(free >= needed, "%s: %.1f GB are free, %.1f GB are needed for %s rows, %.1f GB are missing; give a --dir "
              "on a larger disk, or fewer --rows" % (folder, free / 1e9, needed / 1e9, format(self.options.rows, ","),
                                                     (needed - free) / 1e9))

    def start(self):
        """Starts two databases in one PostgreSQL, each with its own responder and lighttpd."""
        say("Starting PostgreSQL, and two responders with a lighttpd in front of each")
        self.rig.start_stack()
        self.check_disk()
        url, database = self._second_responder()
        folder = self.rig.dir
        self.small = Site("small", self.options.small, self.rig.stack.url, self.rig.database, folder)
        self.large = Site("large", self.options.rows, url, database, folder)
        self.rounds = Rounds(self.options, lambda: [os.getpid(), *self.rig.daemons()])

    def _second_responder(self):
        database = self.rig.another_database("acp_large")
        folder = make_folder(os.path.join(self.rig.state, "large"))
        with open(self.rig.stack.config, encoding="utf-8") as file:
            settings = settings_of(file.read())
        # A separate installation: the name of the shared memory depends on the pepper.
        pepper = os.path.join(folder, "pepper")
        write_file(pepper, os.urandom(32).hex() + "\n", 0o640)
        settings.update(database_url=with_database(settings["database_url"], "acp_large"), key_pepper_file=pepper,
                        listen=os.path.join(folder, "acp.sock"), log_file=os.path.join(folder, "responder.log"))
        config = os.path.join(folder, "acp.conf")
        write_file(config, settings_text(settings), 0o640)
        responder = Process([os.path.join(self.rig.stack.sbin, "acp.fcgi"), "--config", config],
                            os.path.join(folder, "output.log"), **as_web_user())
        self.rig.add(responder)
        frontend = Frontend("lighttpd", "lighttpd-large", self.options.port + 1, self.rig.state, settings["listen"])
        self.rig.add(frontend)
        return frontend.url, database

    def grow(self):
        for site in (self.small, self.large):
            say("Making %s audit rows" % format(site.rows, ","))
            site.fill(self.options.months, self.options.slots)
            site.tidy()
        sql(self.large.database, "checkpoint")

    def usable_calls(self):
        """The calls that this program supports."""
        calls = []
        for call in CALLS:
            status, _ = self.small.tenants.try_call(call, self.small.url)
            if call.path == INVOICE.path and status == 404:
                self.skipped.append((call.title, "this program does not have the path: it answers 404"))
                continue
            for site in (self.small, self.large):
                site.tenants.check_call(call, site.url)
            calls.append(call)
        return calls

    def measure(self, call, site, seconds):
        with AuditCheck(site.database) as audit:
            with self.rounds.watched():
                run = site.wrk.run(call, site.url, seconds, connections=CONNECTIONS)
            wrong = audit.verify(call, run)
        if wrong:
            self.failures.append("%s, %s database: %s" % (call.title, site.name, wrong))
            say("    FAILED %s" % self.failures[-1])
        return run

    def alternate(self):
        calls = self.usable_calls()
        say("Warming up")
        for call in calls:
            for site in (self.small, self.large):
                self.measure(call, site, 2)
        self.rounds.alternate(lambda number: [(call, self._pair(call, number)) for call in calls], self._keep)
        return calls

    def _pair(self, call, number):
        """Runs the call at both sites; they take turns in going first."""
        sites = [self.small, self.large] if number % 2 == 0 else [self.large, self.small]
        runs = {site: self.measure(call, site, self.options.seconds) for site in sites}
        self._print(call, runs[self.small], runs[self.large])
        return runs

    @staticmethod
    def _keep(measured):
        for call, runs in measured:
            for site, run in runs.items():
                site.runs.setdefault(call.name, []).append(run)

    @staticmethod
    def _print(call, small, large):
        say("    %-16s p50 %7.3f → %7.3f ms   p99 %7.3f → %7.3f ms" % (
            call.name, small.p50_us / 1e3, large.p50_us / 1e3, small.p99_us / 1e3, large.p99_us / 1e3))

    def verify(self):
        say("Comparing counters and audit rows")
        for site in (self.small, self.large):
            drift = site.drift()
            if drift:
                self.failures.append("%s database: acp_report.usage_drift has %d rows" % (site.name, drift))

    def run(self):
        self.machine = {**gauge.machine(), "load before": "%.2f" % gauge.load_average()}
        try:
            self.start()
            self.fsync_ms = gauge.fsync_ms(self.rig.dir)
            self.grow()
            described = {site.name: site.described() for site in (self.small, self.large)}
            self.server_version = sql(self.rig.database, "show server_version").split()[0]
            calls = self.alternate()
            self.verify()
            return Results(self, calls, described)
        finally:
            self.rig.close()
            if not self.options.keep:
                self.rig.clean_up()


class Results:
    """The figures and their presentation."""

    def __init__(self, growth, calls, described):
        self.date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        self.growth = growth
        self.machine = growth.machine
        self.fsync_ms = growth.fsync_ms
        self.versions = {name: version for name, version in gauge.versions().items() if name in ("lighttpd", "wrk")}
        self.versions["PostgreSQL"] = growth.server_version
        self.described = described
        self.failures = growth.failures
        self.skipped = growth.skipped
        self.figures = []
        self.rows = []
        for call in calls:
            self._add(call, growth.small.runs[call.name], growth.large.runs[call.name])

    def _add(self, call, small, large):
        for percentile in ("p50", "p99"):
            took = [[getattr(run, percentile + "_us") / 1000 for run in runs] for runs in (small, large)]
            figure = Figure("%s, %s" % (call.title, percentile), [b / a for a, b in zip(*took)], "", TARGET)
            self.figures.append(figure)
            medians = ["%.3f" % statistics.median(values) for values in took]
            self.rows.append([figure.title, *medians, "%.2f" % figure.median,
                              report.spread_of(figure.values, "%.2f"), "≤ %.2f" % TARGET, figure.verdict])

    def missed(self):
        return [figure for figure in self.figures if figure.verdict == report.MISSED]

    def exit_status(self):
        return 1 if self.failures else 3 if self.missed() else 0

    def markdown(self):
        options = self.growth.options
        head = ["Latency (ms)", format(options.small, ",") + " rows", format(options.rows, ",") + " rows", "ratio",
                "spread", "target", ""]
        method = ("Two databases in one PostgreSQL, each with its own responder and lighttpd; %s of %d s "
                  "between them, %d connections; ratios are taken within an alternation; median and spread "
                  "are shown. Small database: %s. Large database: %s. Rows are spread over %d months; tenants call "
                  "about as often as 1/rank; counters have %d slots. %s" % (
                      report.counted(options.alternations, "alternation"), options.seconds, CONNECTIONS,
                      self.described["small"], self.described["large"], options.months, options.slots,
                      report.strangers_text(self.growth.rounds, options)))
        verdict = ("**%d correctness checks FAILED**" % len(self.failures) if self.failures else
                   "%d of %d targets met, every count exact" % (len(self.figures) - len(self.missed()),
                                                                len(self.figures)))
        parts = ["# Growth, %s" % self.date, verdict + ".", report.machine_text(self), method,
                 report.table(head, self.rows)]
        notes = ["- not measured: %s (%s)" % pair for pair in self.skipped]
        notes += ["- FAILED: " + failure for failure in self.failures]
        if notes:
            parts.append("\n".join(notes))
        return "\n\n".join(parts) + "\n"

    def json(self):
        sites = (self.growth.small, self.growth.large)
        return json.dumps({
            "date": self.date, "machine": self.machine, "versions": self.versions, "fsync_ms": self.fsync_ms,
            "databases": self.described, "others": self.growth.rounds.others,
            "options": vars(self.growth.options), "failures": self.failures,
            "skipped": self.skipped, "exit_status": self.exit_status(),
            "runs": {site.name: {name: [dataclasses.asdict(run) for run in runs] for name, runs in site.runs.items()}
                     for site in sites},
            "figures": [{**dataclasses.asdict(figure), "median": figure.median, "verdict": figure.verdict}
                        for figure in self.figures]}, indent=1, ensure_ascii=False)


def read_options():
    parser = argparse.ArgumentParser(prog="tests/bench/growth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20000000, help="audit rows of the large database (20 million)")
    parser.add_argument("--small", type=int, default=10000, help="audit rows of the small database (default 10,000)")
    parser.add_argument("--months", type=int, default=4, help="number of months over which they are spread (default 4)")
    parser.add_argument("--slots", type=int, default=1, help="sub-counters per counter, at most 16 (default 1, as "
                        "in the program; up to schema version 5 there were more)")
    parser.add_argument("--dir", required=True, help="scratch folder; 20 million rows take about 13 GB there")
    parser.add_argument("--install", required=True, help="prefix of make install")
    parser.add_argument("--nothing", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=18120, help="first of two ports used on 127.0.0.1")
    parser.add_argument("--conf", help="file of settings for the responders that override those of the benchmark")
    parser.add_argument("--out", help="Markdown file; .json is written beside it; default: DIR/growth.md")
    add_options(parser)
    parser.set_defaults(alternations=5, seconds=5)
    parser.add_argument("--keep", action="store_true", help="keep the databases and the logs in DIR")
    options = parser.parse_args()
    options.out = os.path.abspath(options.out or os.path.join(options.dir, "growth.md"))
    if min(options.rows, options.small, options.months, options.alternations, options.seconds) < 1 or \
            not 1 <= options.slots <= 16:
        parser.error("--rows, --small, --months, --alternations and --seconds must be at least 1, --slots 1 to 16")
    return options


def write(results, out):
    os.makedirs(os.path.dirname(out), exist_ok=True)
    for path, text in ((out, results.markdown()), (os.path.splitext(out)[0] + ".json", results.json())):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def main():
    options = read_options()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(2))
    try:
        results = Growth(options).run()
    except (Failure, OSError, subprocess.TimeoutExpired) as error:
        say("tests/bench/growth: %s" % error)
        return 2
    write(results, options.out)
    print(results.markdown())
    return results.exit_status()


if __name__ == "__main__":
    sys.exit(main())
