#!/usr/bin/env python3
"""Measures metered calls as ratios to a FastCGI responder that does nothing; see README.md.

Started by tests/bench/run, which installs missing packages and builds. Exit status: 0 every target was met,
1 a correctness check failed (a refused call, a missing or surplus audit row), 2 it could not run, 3 a target was
missed.
"""

import argparse
import dataclasses
import datetime
import os
import signal
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import gauge
import report
from checks import Failure
from load import CONNECTIONS, FREE, PAID, USAGE, AuditCheck, Call, Pgbench, Wrk
from report import Figure, Ratio
from rig import WORKERS, Frontend, Rig
from rounds import Rounds, add_options, say
from startup import FirstAnswer
from tenants import TENANTS, Tenants

NOTHING = dataclasses.replace(PAID, name="nothing", title="do-nothing responder", audited=False)
CALLS = [
    NOTHING,
    PAID,
    dataclasses.replace(PAID, name="one-tenant", title="paid call, all from one tenant", keys="one-paid"),
    Call("paid-db", "paid call that reads the database", "paid", "domain.leadscoring.models.list"),
    FREE,
    Call("version", "meta.version (not billed)", "paid", "meta.version", billable=False),
    USAGE,
]
INSERT = "insert"  # pgbench; no call
SERVERS = ["nginx", "apache-fcgid", "apache-proxy"]
PARTS = [call.name for call in CALLS[1:]] + [INSERT] + SERVERS + ["latency", "memory", "start"]

# Target: minimum of the ratio. None: for comparison only.
RATIOS = [
    Ratio("paid", "nothing", "paid call : do-nothing", 0.50),
    Ratio("paid-db", "nothing", "paid call that reads the database : do-nothing", 0.30),
    Ratio("free", "nothing", "free call : do-nothing", 0.33),
    Ratio("one-tenant", "paid", "paid calls of one tenant : of %s tenants" % format(TENANTS, ","), 0.90),
    Ratio("version", "nothing", "meta.version : do-nothing", None),
    Ratio("usage", "nothing", "GET /api/usage : do-nothing", None),
    Ratio(INSERT, "nothing", "pgbench, one durable row a transaction : do-nothing", None),
    Ratio("paid", INSERT, "paid call : pgbench row", None),
] + [Ratio(kind + "/paid", kind + "/nothing", "%s: paid call : do-nothing" % Frontend.TITLES[kind], None)
     for kind in SERVERS]

MIB = 2 ** 20


class Bench:
    def __init__(self, options):
        self.options = options
        self.rig = Rig(options)
        self.series = {}  # name -> runs, one per alternation
        self.cost = {}  # name -> [[responder, PostgreSQL, web server and load], …], µs of processor time per call
        self.latency = {}  # name -> paced runs at half load
        self.figures = []
        self.failures = []
        self.skipped = []
        self.rows_least = self.rows_most = 0  # bounds of the number of audit rows after all measurements

    def includes(self, name):
        return name in self.options.only

    # One measurement

    def measure(self, call, url, name, seconds, think_ms=0.0):
        """Makes a run and checks it against the audit log. name: for failure messages."""
        with AuditCheck(self.rig.database) as audit:
            with self.rounds.watched():
                run = self.wrk.run(call, url, seconds, think_ms)
            wrong = audit.verify(call, run)
        if call.audit_row:
            self.rows_least += run.successes
            self.rows_most += run.successes + CONNECTIONS
        if wrong:
            self.failures.append("%s: %s" % (name, wrong))
            say("    FAILED %s: %s" % (name, wrong))
        return run

    def _keep(self, measured):
        for name, (run, cost) in measured.items():
            self.series.setdefault(name, []).append(run)
            self.cost.setdefault(name, []).append(cost)

    def _with_cost(self, name, work, responder):
        """Returns the run of work() and its processor time."""
        postmaster, web_server = self.rig.stack.postmaster, self.rig.stack.web_server
        # The load generator and the web server of the do-nothing responder are children of this program.
        pids = [responder, postmaster, os.getpid(), web_server]
        before = [gauge.cpu_seconds(pid) for pid in pids]
        run = work()
        used = [gauge.cpu_seconds(pid) - was for pid, was in zip(pids, before)]
        rest = used[2] + used[3] - (used[0] if responder == self.rig.nothing_pid else 0)
        used = [used[0], used[1], rest]
        say("    %-22s %8.0f/s   p50 %6.2f ms  p99 %6.2f ms" % (name, run.rate, run.p50_us / 1e3, run.p99_us / 1e3))
        return run, [seconds * 1e6 / max(run.requests, 1) for seconds in used]

    def _measure_call(self, call):
        ours = call.name != "nothing"
        return self._with_cost(call.name, lambda: self.measure(call, self._url(call), call.name, self.options.seconds),
                               self.rig.stack.supervisor if ours else self.rig.nothing_pid)

    def _url(self, call):
        return self.rig.nothing_url if call.name == "nothing" else self.rig.stack.url

    def _measure_insert(self):
        before = self.pgbench.rows()
        with self.rounds.watched():
            run, cost = self._with_cost(INSERT, lambda: self.pgbench.run(self.options.seconds),
                                        self.rig.stack.supervisor)
        made = self.pgbench.rows() - before
        if not run.requests <= made <= run.requests + CONNECTIONS:
            self.failures.append("pgbench: %d transactions but %d rows" % (run.requests, made))
        return run, cost

    # Parts

    def prepare(self):
        say("Starting PostgreSQL, the responders and lighttpd")
        self.rig.start_stack()
        self.rig.start_nothing()
        self.fsync_ms = gauge.fsync_ms(self.rig.dir)
        say("Onboarding %d tenants" % (2 * TENANTS))
        self.tenants = Tenants(self.rig.stack.url, self.rig.database, os.path.join(self.rig.dir, "keys"))
        self.rows_least = self.rows_most = self.rig.database.value("select count(*) from acp.audit_logs")
        self.wrk = Wrk(self.tenants.folder)
        self.rounds = Rounds(self.options, lambda: [os.getpid(), *self.rig.daemons()])
        if self.includes(INSERT):
            # Rows of this tenant belong to no measured call and must not be counted with ours.
            self.pgbench = Pgbench(self.rig.another_database("acp_insert"), self.rig.program("pgbench"), self.rig.dir)

    def alternate(self):
        """The main part: every kind of call in turn, repeatedly; every other time in reverse order."""
        calls = [call for call in CALLS if self.includes(call.name)]
        if not calls:
            return
        works = [(call.name, lambda call=call: self._measure_call(call)) for call in calls]
        if self.includes(INSERT):
            works.append((INSERT, self._measure_insert))
        say("Warming up")
        for call in calls:
            self.tenants.check_call(call, self._url(call))
            self.measure(call, self._url(call), call.name + " (warm-up)", 2)

        def once(number):
            return {name: work() for name, work in (works if number % 2 == 0 else reversed(works))}
        self.rounds.alternate(once, self._keep)

    def other_servers(self):
        for kind in filter(self.includes, SERVERS):
            missing = Frontend.missing(kind)
            if missing:
                self.skipped.append((Frontend.TITLES[kind], missing))
                continue
            say(Frontend.TITLES[kind])
            pair = self.rig.frontends(kind)
            try:
                self._alternate_pair(kind, list(zip((NOTHING, PAID), (frontend.url for frontend in pair))))
            finally:
                self.rig.stop_frontends(pair)

    def _alternate_pair(self, kind, pair):
        for call, url in pair:
            self.tenants.check_call(call, url)
            # Apache starts its processes on demand.
            self.measure(call, url, "%s/%s (warm-up)" % (kind, call.name), 3)

        def once(number):
            measured = {}
            for call, url in pair if number % 2 == 0 else reversed(pair):
                name = "%s/%s" % (kind, call.name)
                measured[name] = self.measure(call, url, name, self.options.seconds)
                say("    %-22s %8.0f/s" % (name, measured[name].rate))
            return measured

        def keep(measured):
            for name, run in measured.items():
                self.series.setdefault(name, []).append(run)
        self.rounds.alternate(once, keep)

    def half_load(self):
        """Latency at half of the measured throughput: 32 connections that pause between requests."""
        if not self.includes("latency"):
            return
        say("Latency at half load")
        calls = (NOTHING, PAID)
        for call in calls:
            if call.name not in self.series:
                self._keep({call.name: self._measure_call(call)})
        half = {call.name: statistics.median(run.rate for run in self.series[call.name]) / 2 for call in calls}
        think = {name: CONNECTIONS * 1000 / rate for name, rate in half.items()}

        def once(_=None):
            return {call.name: self._paced(call, half[call.name], think) for call in calls}

        def keep(measured):
            for name, run in measured.items():
                self.latency.setdefault(name, []).append(run)
        once()  # only finds the pause for half load
        self.rounds.alternate(once, keep)
        for name, runs in self.latency.items():
            self._latency_figures(name, runs, 2 * half[name])

    def _paced(self, call, wanted, think):
        """Makes a run at about the wanted rate. Its result corrects the pause for the next run."""
        run = self.measure(call, self._url(call), call.name + " at half load", self.options.seconds, think[call.name])
        think[call.name] = max(0.05, think[call.name] + CONNECTIONS * 1000 * (1 / wanted - 1 / run.rate))
        say("    %-22s %8.0f/s of %.0f  p50 %6.2f ms  p99 %6.2f ms" % (
            call.name, run.rate, wanted, run.p50_us / 1e3, run.p99_us / 1e3))
        return run

    def _latency_figures(self, name, runs, most):
        for title, value, unit, target in (
                ("p50", [run.p50_us / 1000 for run in runs], "ms", None),
                ("p99", [run.p99_us / 1000 for run in runs], "ms", None),
                ("p99 : p50", [run.p99_us / run.p50_us for run in runs], "", 5.0 if name == "paid" else None)):
            self.figures.append(Figure("%s at %.0f %% load, %s" % (
                name, 100 * statistics.median(run.rate for run in runs) / most, title), value, unit, target))

    def memory(self):
        """Measures the memory of a fresh responder: when warm, and after many more calls."""
        if not self.includes("memory"):
            return
        options = self.options
        say("Memory: a new responder, %d s of warm-up, then %d calls or %d s" % (
            options.warm_up, options.calls, options.memory_seconds))
        self.rig.stack.restart_responder()
        served = self.measure(PAID, self.rig.stack.url, "memory (warm-up)", options.warm_up).requests
        warm, warm_pss = gauge.memory_bytes(self.rig.stack.supervisor)
        calls = seconds = 0
        while calls < options.calls and seconds < options.memory_seconds:
            run = self.measure(PAID, self.rig.stack.url, "memory", 10)
            calls += run.requests
            seconds += run.seconds
        rss, pss = gauge.memory_bytes(self.rig.stack.supervisor)
        say("    RSS %.1f MiB after %d calls, %.1f MiB after %d more" % (warm / MIB, served, rss / MIB, calls))
        self.figures += [
            Figure("responder's memory when warm (%s calls), RSS" % format(served, ","), [warm / MIB], "MiB", 48.0),
            Figure("the same, PSS", [warm_pss / MIB], "MiB", None),
            Figure("RSS after %s calls more" % format(calls, ","), [rss / MIB], "MiB", 48.0),
            Figure("the same, PSS", [pss / MIB], "MiB", None),
            Figure("growth of RSS after warm-up", [(rss - warm) / MIB], "MiB", 1.0)]

    def start(self):
        if not self.includes("start"):
            return
        say("Start to first answer, %d times" % self.options.starts)
        before = self.rig.database.value("select count(*) from acp.audit_logs")
        first = FirstAnswer(self.rig, PAID, self.tenants.first["paid"])
        taken = [first.measure() for _ in range(self.options.starts)]
        made = self.rig.database.value("select count(*) from acp.audit_logs") - before
        self.rows_least += len(taken)
        self.rows_most += len(taken)
        if made != len(taken):
            self.failures.append("start: %d first calls but %d audit rows" % (len(taken), made))
        say("    median %.1f ms, longest %.1f ms" % (statistics.median(taken), max(taken)))
        self.figures.append(Figure("start of a process to its first answered paid call", taken, "ms", 100.0))

    def verify_all(self):
        """Final check: counters against audit rows, and all rows against all successes."""
        say("Comparing counters and audit rows")
        drift = self.rig.database.value("select count(*) from acp_report.usage_drift")
        if drift:
            self.failures.append("acp_report.usage_drift has %d rows" % drift)
        rows = self.rig.database.value("select count(*) from acp.audit_logs")
        # The calls that test whether a kind succeeds leave rows too, at most one for each kind and server.
        spare = len(CALLS) + len(SERVERS)
        if not self.rows_least <= rows <= self.rows_most + spare:
            self.failures.append("%d audit rows in total, not %d to %d" % (rows, self.rows_least, self.rows_most + spare))
        self.rows = rows

    def results(self):
        return report.Results(
            date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), machine=self.machine,
            versions={**gauge.versions(), "PostgreSQL": self.rig.database.value(
                "select current_setting('server_version') as v").split()[0]},
            fsync_ms=self.fsync_ms, options=self.options, shape=self.rig.shape, workers=WORKERS, tenants=TENANTS,
            connections=CONNECTIONS, titles={**{call.name: call.title for call in CALLS},
                                             INSERT: "pgbench, one durable row a transaction"},
            series=self.series, cost=self.cost, latency=self.latency, others=self.rounds.others,
            repeated=self.rounds.repeated, rows=self.rows, figures=self.figures,
            ratios=[ratio for ratio in RATIOS if ratio.measure(self.series)], failures=self.failures,
            skipped=self.skipped)

    def run(self):
        self.machine = {**gauge.machine(), "load before": "%.2f" % gauge.load_average()}
        try:
            self.prepare()
            for part in (self.alternate, self.other_servers, self.half_load, self.memory, self.start, self.verify_all):
                part()
            return self.results()
        finally:
            self.rig.close()
            if not self.options.keep:
                self.rig.clean_up()


def read_options():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 alternations of 3 s, fewer calls for memory")
    parser.add_argument("--full", action="store_true", help="memory over 1,000,000 calls, without a time limit")
    parser.add_argument("--only", metavar="NAMES", help="only these parts, separated by commas: " + ", ".join(PARTS))
    parser.add_argument("--dir", required=True, help="scratch folder")
    parser.add_argument("--install", required=True, help="prefix of make install")
    parser.add_argument("--nothing", required=True, help="the built do-nothing responder")
    parser.add_argument("--port", type=int, default=18100, help="first of 20 ports used on 127.0.0.1")
    parser.add_argument("--conf", help="file of settings for the responder that override those of the benchmark")
    parser.add_argument("--out", help="Markdown file; .json and .svg are written beside it; default: DIR/results.md")
    add_options(parser)
    parser.add_argument("--keep", action="store_true", help="keep the database and the logs in DIR")
    options = parser.parse_args()
    fill_in(parser, options)
    return options


def fill_in(parser, options):
    """Sets defaults and adds the parts needed for comparison."""
    options.out = os.path.abspath(options.out or os.path.join(options.dir, "results.md"))
    options.alternations = options.alternations or (3 if options.quick else 5)
    options.seconds = options.seconds or (3 if options.quick else 5)
    options.warm_up = 5 if options.quick else 15
    options.calls = 1000000 if options.full else 20000 if options.quick else 200000
    options.memory_seconds = 86400 if options.full else 10 if options.quick else 60
    options.starts = 20
    if min(options.alternations, options.seconds) < 1 or not 1024 <= options.port <= 65516:
        parser.error("--alternations and --seconds must be at least 1, --port 1024 to 65516")
    names = options.only.split(",") if options.only else PARTS
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error("--only %s: unknown part; known: %s" % (",".join(unknown), ", ".join(PARTS)))
    options.only = set(names)
    if options.only & {"one-tenant", INSERT}:
        options.only.add("paid")
    if options.only & {call.name for call in CALLS}:
        options.only.add("nothing")


def main():
    options = read_options()
    # Ends all started programs, however this one ends.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(2))
    try:
        results = Bench(options).run()
    except (Failure, OSError) as error:
        say("tests/bench/run: %s" % error)
        return 2
    report.write(results, options.out)
    print(report.markdown(results))
    say("Written: %s" % ", ".join(report.files(options.out)))
    return results.exit_status()


if __name__ == "__main__":
    sys.exit(main())
