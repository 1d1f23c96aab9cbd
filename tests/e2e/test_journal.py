"""The local journal and acpctl journal: rows on disk are stored in PostgreSQL exactly once, whatever happens."""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
import uuid

import pytest

from client import NIL
from database import clean_environment, with_database
from checks import check, equal, parallel, until

OK, FAILED, USAGE, WAITING = 0, 1, 64, 3


class Journal:
    """A journal folder for one test. The test writes its files in the format that core/audit/journal.h describes."""

    def __init__(self, bench, folder):
        self.bench = bench
        self.folder = folder
        self.environment = {"ACP_JOURNAL_DIR": folder}

    def ctl(self, command, *options, **environment):
        return self.bench.stack.program("acpctl", *options, "journal", command,
                                        environment={**self.environment, **environment})

    def replay(self, status=OK, **environment):
        """Runs acpctl journal replay, which must exit with this status; returns the nonzero counts."""
        done = self.ctl("replay", "--json", **environment)
        equal(done.returncode, status, "exit status; %s%s" % (done.stdout, done.stderr))
        return {name: count for name, count in json.loads(done.stdout).items() if count}

    def status(self):
        done = self.ctl("status", "--json")
        shown = json.loads(done.stdout)
        equal(done.returncode, OK if shown["empty"] else WAITING, "exit status; %s%s" % (done.stdout, done.stderr))
        return shown

    def write(self, name, *events):
        path = os.path.join(self.folder, name)
        with open(path, "ab") as file:
            for event in events:
                file.write(line(event))
        os.chmod(path, 0o600)
        return path

    def files(self):
        return sorted(os.listdir(self.folder))


def line(event):
    text = json.dumps(event).encode()
    return b"%08x %s %s\n" % (len(text), hashlib.sha256(text).hexdigest()[:16].encode(), text)


@contextlib.contextmanager
def journal(bench):
    bench.stack.need_programs()
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        yield Journal(bench, folder)


def event(bench, tenant, **more):
    now = bench.db.value("select acp.now()::text")
    return {"event_id": str(uuid.uuid4()), "request_id": str(uuid.uuid4()), "ts": now, "tenant_id": tenant.id,
            "integration": "e2e", "pack": "test", "action": "test.journal", "actor_type": "api_key",
            "status": "success", "latency_ms": 1.5, "dry_run": False, "billable": True, "billing_quantity": 1,
            "tier": "paid", **more}


def events(bench, tenant, count, **more):
    first = event(bench, tenant, **more)
    return [{**first, "event_id": str(uuid.uuid4()), "request_id": str(uuid.uuid4())} for _ in range(count)]


def rows(bench, tenant):
    """The number of the tenant's rows and the number of distinct event ids."""
    return tuple(bench.db.row("select count(*) as rows, count(distinct event_id) as ids from acp.audit_logs "
                              "where tenant_id = :'id' and action = 'test.journal'", id=tenant.id).values())


def test_empty(bench):
    """acpctl journal: a folder that has no files or does not exist counts as empty, exit status 0. If the journal is
    off, there is a message."""
    with journal(bench) as kept:
        for folder in kept.folder, os.path.join(kept.folder, "missing"):
            done = kept.ctl("status", ACP_JOURNAL_DIR=folder)
            equal((done.returncode, done.stdout.splitlines()[-1]), (OK, "empty"), "status of %s" % folder)
            equal(kept.replay(ACP_JOURNAL_DIR=folder), {}, "counts")
        check(not os.path.exists(os.path.join(kept.folder, "missing")), "acpctl created the folder")
        for command in "status", "replay":
            done = kept.ctl(command, ACP_JOURNAL_DIR="")
            check(done.returncode == FAILED and "journal_dir" in done.stderr, "off: %s" % done)
        equal(kept.ctl("status", "--wrong").returncode, USAGE, "exit status of a wrong option")


def test_replay_once(bench):
    """Contract 3: journaled rows are replayed once, without duplicates, even from a copy of the file."""
    tenant = bench.paid_tenant()
    with journal(bench) as kept:
        old = event(bench, tenant, ts="2026-01-02 03:04:05.678901+00", result_meta={"count": 3})
        all_of_them = [old, *events(bench, tenant, 1200)]
        first = kept.write("20260101T000000Z-1-00000001.journal", *all_of_them)
        shown = kept.status()
        equal([shown[name] for name in ("empty", "events", "bytes", "oldest", "in_use", "bad_files")],
              [False, 1201, os.path.getsize(first), old["ts"], 0, 0], "status")
        equal(shown["files"][0]["state"], "waiting", "state")
        text = kept.ctl("status").stdout
        check("1201" in text and old["ts"] in text and "(1 row)" in text, "status for people: %s" % text)
        kept.write("20260101T000000Z-2-00000002.journal", *all_of_them[:700])
        equal(kept.replay(), {"events_stored": 1201, "events_stored_before": 700, "files_removed": 2}, "counts")
        equal(kept.files(), [], "files")
        check(kept.status()["empty"], "not empty")
    equal(rows(bench, tenant), (1201, 1201), "rows")
    row = bench.db.row("select * from acp.audit_logs where event_id = :'id'", id=old["event_id"])
    for member, value in old.items():
        if member != "ts":
            equal(row[member], value, member)
    equal(row["ts"], "2026-01-02T03:04:05.678901+00:00", "ts")


def test_allowance(bench):
    """Contract 3: no tenant gets more billable successes than its limit, even through the journal."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "3")
    with journal(bench) as kept:
        kept.write("a.journal", *events(bench, tenant, 5, tier="free"))
        equal(kept.replay(), {"events_stored": 5, "events_not_billable": 2, "files_removed": 1}, "counts")
    usage = bench.usage(tenant.key)
    equal((usage["calls_used"], usage["calls_remaining"]), (3, 0), "usage")
    equal(bench.db.value("select count(*) from acp.audit_logs where tenant_id = :'id' and billable", id=tenant.id), 3,
          "billable rows")


def test_cut_and_damaged(bench):
    """A truncated last line is ignored. A damaged line, or one that can never be stored, keeps the file as *.bad."""
    tenant = bench.paid_tenant()
    with journal(bench) as kept:
        good = events(bench, tenant, 3)
        path = kept.write("cut.journal", *good[:2])
        with open(path, "ab") as file:
            file.write(line(good[2])[:-20])
        equal(kept.replay(), {"events_stored": 2, "lines_cut": 1, "files_removed": 1}, "counts of the cut file")
        path = kept.write("damaged.journal", *good)
        with open(path, "r+b") as file:
            file.seek(60)
            file.write(b"!")
        unknown = {**event(bench, tenant), "tenant_id": str(uuid.uuid4()), "tier": "free"}
        kept.write("unknown.journal", good[0], unknown, *events(bench, tenant, 1))
        equal(kept.replay(FAILED), {"events_stored": 2, "events_stored_before": 2, "events_refused": 1,
                                    "lines_damaged": 1, "files_bad": 2}, "counts")
        equal(kept.files(), ["damaged.bad", "unknown.bad"], "files")
        shown = kept.status()
        equal((shown["empty"], shown["bad_files"]), (False, 2), "status")
        done = bench.stack.program("acpctl", "doctor", environment=kept.environment)
        check(done.returncode == FAILED and "WRONG journal" in done.stdout, "doctor: %s" % done.stdout)
        equal(kept.replay(), {}, "counts of a replay with only *.bad files")
    equal(rows(bench, tenant), (4, 4), "rows")


def test_in_use_and_away(bench):
    """A file that a process has locked is left to that process. While PostgreSQL is down every file stays, exit status
    1."""
    tenant = bench.paid_tenant()
    with journal(bench) as kept:
        path = kept.write("a.journal", *events(bench, tenant, 2))
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            equal(kept.replay(), {"files_in_use": 1}, "counts")
            equal(kept.status()["files"][0]["state"], "in use", "state")
        nowhere = with_database(bench.stack.database_url, "no_such_database")
        equal(kept.replay(FAILED, ACP_DATABASE_URL=nowhere), {}, "counts without a database")
        equal(kept.files(), ["a.journal"], "files")
        equal(rows(bench, tenant), (0, 0), "rows")
        os.chmod(kept.folder, 0o777)
        done = kept.ctl("replay")
        check(done.returncode == FAILED and "chmod go-w" in done.stderr, "a folder writable by all: %s" % done)
        os.chmod(kept.folder, 0o700)
        equal(kept.replay(), {"events_stored": 2, "files_removed": 1}, "counts")


def test_partition_away(bench):
    """Contract 3: a row whose partition is currently detached stays in the journal. Its file does not become *.bad."""
    tenant = bench.paid_tenant()
    table, bounds = "acp.audit_logs_2025_05", "('2025-05-01 00:00:00+00') to ('2025-06-01 00:00:00+00')"
    bench.db.execute("select acp.ensure_partitions('2025-05-01', 0)")
    bench.db.execute("alter table acp.audit_logs detach partition %s" % table)
    with journal(bench) as kept:
        try:
            kept.write("a.journal", event(bench, tenant, ts="2025-05-02 03:04:05+00"), *events(bench, tenant, 2))
            equal(kept.replay(FAILED), {}, "counts without the partition")
            equal(kept.files(), ["a.journal"], "files")
        finally:
            bench.db.execute("alter table acp.audit_logs attach partition %s for values from %s" % (table, bounds))
        equal(kept.replay(), {"events_stored": 3, "files_removed": 1}, "counts")
    equal(rows(bench, tenant), (3, 3), "rows")


@pytest.mark.slow
def test_killed_replays(bench):
    """Two concurrent replays are killed at any moment. In the end each event has one row, and the counters match the
    rows."""
    tenant = bench.paid_tenant()
    command = [os.path.join(bench.stack.sbin or "", "acpctl"), "--config", bench.stack.config, "journal", "replay"]
    with journal(bench) as kept:
        for number in range(4):
            kept.write("%d.journal" % number, *events(bench, tenant, 3000))
        environment = clean_environment(ACP_DATABASE_URL=bench.stack.database_url, **kept.environment)

        def run_and_kill(number):
            killed = 0
            for attempt in range(6):
                process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)
                time.sleep(0.05 + 0.04 * attempt + 0.03 * number)
                process.kill()
                killed += process.wait() == -signal.SIGKILL
            return killed

        check(sum(parallel(2, run_and_kill)) > 0, "no replay was killed while it ran")
        # PostgreSQL continues to run the statement of a client that died.
        until(20, "the last statements of killed replays end", lambda: bench.db.value(
            "select count(*) from pg_stat_activity where state <> 'idle' and query ~ 'journal_replay' and pid <> "
            "pg_backend_pid()") == 0)
        before = rows(bench, tenant)[0]
        left = len(kept.files())
        counts = kept.replay()
        equal(counts.get("events_stored", 0) + before, 12000, "rows stored by the last replay and before it")
        equal(counts.get("files_removed", 0), left, "files removed by the last replay")
        equal(kept.files(), [], "files")
    equal(rows(bench, tenant), (12000, 12000), "rows")
    equal(bench.db.value("select count(*) from acp_report.usage_drift where tenant_id in (:'id', :'nil')", id=tenant.id,
                         nil=NIL), 0, "differences between counters and rows")
