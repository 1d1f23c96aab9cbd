"""Load: wrk against a URL, pgbench against the audit log, and the count that checks both."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field, replace
from typing import Optional

from database import clean_environment
from checks import Failure, check, clipped, until

HERE = os.path.dirname(os.path.abspath(__file__))
CONNECTIONS = 32
# One thread of wrk is enough for any responder here. A second thread would only take processor time from it.
THREADS = 1
# Rows that the last requests of a measurement may still write after wrk has ended, and the possible clock difference.
SETTLE_SECONDS = 1.0


@dataclass
class Call:
    """A kind of request, and the audit row that each success must write."""

    name: str
    title: str
    keys: str  # group of keys (tenants.py)
    action: Optional[str] = None  # None: no call of the router
    params: dict = field(default_factory=dict)
    path: str = "/api/manage"
    billable: bool = True
    audited: bool = True

    @property
    def method(self):
        return "POST" if self.action else "GET"

    @property
    def body(self):
        if not self.action:
            return None
        return json.dumps({"action": self.action, "params": self.params}, separators=(",", ":"))

    @property
    def audit_row(self):
        """Returns action, status, billable and tier of its rows, or None if it writes none."""
        if not (self.action and self.audited):
            return None
        return self.action, "success", self.billable, "free" if self.keys.endswith("free") else "paid"


PAID = Call("paid", "paid call", "paid", "domain.leadscoring.scores.compute",
            {"weights": {"visits": 0.5, "employees": 0.01},
             "leads": [{"id": "lead-1", "features": {"visits": 12, "employees": 250}}]})
FREE = replace(PAID, name="free", title="free call", keys="free")
USAGE = Call("usage", "GET /api/usage (no audit row)", "paid", path="/api/usage")


@dataclass
class Run:
    """The result of one run of the load generator."""

    requests: int
    seconds: float
    errors: dict  # errors of wrk: connect, read, write, status (an answer of 400 and above), timeout
    p50_us: int = 0
    p90_us: int = 0
    p99_us: int = 0
    max_us: int = 0

    @property
    def successes(self):
        return self.requests - self.errors.get("status", 0)

    @property
    def rate(self):
        """Successes per second."""
        return self.successes / self.seconds

    def faults(self):
        """The errors in words; empty if there were none."""
        words = {"status": "answers of 400 or above", "timeout": "answers after more than 10 s"}
        return ", ".join("%d %s" % (count, words.get(kind, "connections with an error in " + kind))
                         for kind, count in self.errors.items() if count)


class Wrk:
    """Runs wrk with the keys of a folder: KEYS.keys for each group."""

    def __init__(self, folder):
        self.folder = folder
        self._seed = 0

    def _body_file(self, call):
        if call.body is None:
            return "-"
        path = os.path.join(self.folder, call.name + ".body")
        with open(path, "w", encoding="utf-8") as file:
            file.write(call.body)
        return path

    def run(self, call, url, seconds, think_ms=0.0, connections=CONNECTIONS):
        self._seed += 1
        command = ["wrk", "-t", str(THREADS), "-c", str(connections), "-d", "%ds" % seconds, "--timeout", "10s",
                   "-s", os.path.join(HERE, "wrk.lua"), url, "--", os.path.join(self.folder, call.keys + ".keys"),
                   call.method, call.path, self._body_file(call), "%.4f" % think_ms, str(self._seed)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=seconds + 60)
        last = done.stdout.rstrip().rpartition("\n")[2]
        if done.returncode != 0 or not last.startswith("{"):
            raise Failure("wrk failed (exit %d): %s" % (done.returncode, clipped(done.stdout.strip(), 600)))
        output = json.loads(last)
        errors = {kind: output[kind] for kind in ("connect", "read", "write", "status", "timeout")}
        return Run(output["requests"], output["duration_us"] / 1e6, errors, output["p50_us"], output["p90_us"], output["p99_us"],
                   output["max_us"])


class AuditCheck:
    """Checks a measurement against the audit log: a context manager around it, then verify()."""

    def __init__(self, database):
        self.database = database

    def __enter__(self):
        # The last requests of an earlier measurement lie well before this moment, the first of this one after it.
        time.sleep(SETTLE_SECONDS)
        self._since = self.database.text("select clock_timestamp() - interval '%g s'" % (SETTLE_SECONDS / 3)).strip()
        return self

    def __exit__(self, *_):
        pass

    def _rows(self):
        rows = self.database.rows("select action, status, billable, tier, count(*) as n from acp.audit_logs "
                                  "where ts >= :'since' group by 1, 2, 3, 4", since=self._since)
        return {(row["action"], row["status"], row["billable"], row["tier"]): row["n"] for row in rows}

    def _rows_at_rest(self):
        """Waits until no more rows arrive."""
        seen = [None]

        def unchanged():
            before, seen[0] = seen[0], self._rows()
            return before == seen[0]
        until(20, "the audit log comes to rest", unchanged, pause=0.1)
        return seen[0]

    def verify(self, call, run):
        """Returns a description of a mismatch, or None. wrk ends without waiting, so requests in flight may have a row
        without a success."""
        rows = self._rows_at_rest()
        mine = rows.pop(call.audit_row, 0) if call.audit_row else 0
        least, most = (run.successes, run.successes + CONNECTIONS) if call.audit_row else (0, 0)
        wrong = []
        if run.faults():
            wrong.append(run.faults())
        if not least <= mine <= most:
            wrong.append("%d successes but %d audit rows" % (run.successes, mine))
        wrong += ["%d unexpected audit rows %s" % (count, row) for row, count in rows.items()]
        return "; ".join(wrong) or None


# The columns that a paid call writes.
INSERT_VALUES = {
    "event_id": "gen_random_uuid()", "request_id": "gen_random_uuid()", "ts": "now()", "integration": "'acp-fcgi'",
    "pack": "'domain.leadscoring'", "action": "'domain.leadscoring.scores.compute'",
    "actor_type": "'api_key'", "actor_id": "'ock_00000000'",
    "tenant_id": "('00000000-0000-4000-8000-' || lpad(to_hex(cast(:tenant as bigint)), 12, '0'))::uuid",
    "api_key_id": "('00000000-0000-4000-9000-' || lpad(to_hex(cast(:tenant as bigint)), 12, '0'))::uuid",
    "request_hash": "repeat('0123456789abcdef', 4)", "status": "'success'", "latency_ms": "1.25",
    "ip_address": "'127.0.0.1'", "billable": "true", "billing_unit": "'row'", "billing_quantity": "1", "tier": "'paid'"}


def audit_columns(database, values, number):
    """Column -> expression for a row of acp.audit_logs: the given values, and a value of the right type for every other
    column that needs one; number is an expression for a unique bigint."""
    by_type = {"uuid": "gen_random_uuid()", "bigint": number, "integer": "(%s %% 2147483647)::integer" % number,
               "smallint": "0", "bytea": "decode(repeat('0123456789abcdef', 4), 'hex')", "text": "'x'",
               "boolean": "false", "timestamp with time zone": "now()", "jsonb": "'{}'", "numeric": "0", "real": "0"}
    columns = database.rows("select column_name as name, data_type as type, "
                            "is_nullable = 'NO' and column_default is null as needed from information_schema.columns "
                            "where table_schema = 'acp' and table_name = 'audit_logs' order by ordinal_position")
    unknown = [c["name"] for c in columns if c["needed"] and c["name"] not in values and c["type"] not in by_type]
    check(not unknown, "acp.audit_logs: no value is known for the columns %s" % ", ".join(unknown))
    return {c["name"]: values.get(c["name"]) or by_type[c["type"]] for c in columns
            if c["name"] in values or c["needed"]}


class Pgbench:
    """Inserts one durable row per transaction, with as many clients as the other measurements have connections."""

    def __init__(self, database, program, folder):
        self.database = database
        self._program = program
        self._script = os.path.join(folder, "insert.sql")
        with open(self._script, "w", encoding="utf-8") as file:
            columns = audit_columns(database, INSERT_VALUES, "cast(:number as bigint)")
            file.write("\\set tenant random(1, 1000)\n\\set number random(1, 9000000000000000000)\n"
                       "insert into acp.audit_logs (%s) values (%s);\n" % (", ".join(columns),
                                                                          ", ".join(columns.values())))

    def run(self, seconds):
        command = [self._program, "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", "2", "-T", str(seconds),
                   "-f", self._script, self.database.url]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=seconds + 60, env=clean_environment())
        count = re.search(r"^number of transactions actually processed: (\d+)", done.stdout, re.M)
        rate = re.search(r"^tps = ([0-9.]+)", done.stdout, re.M)
        check(done.returncode == 0 and count and rate and float(rate.group(1)) > 0,
              "pgbench failed (exit %d): %s" % (done.returncode, clipped(done.stdout.strip(), 600)))
        return Run(int(count.group(1)), int(count.group(1)) / float(rate.group(1)), {})

    def rows(self):
        return self.database.value("select count(*) from acp.audit_logs")
