"""Proof of the audit log: chains, seals, exports, archives; counters and quotas that agree with the rows.

Every attack is made as a superuser, on a copy of a database with real calls."""

import contextlib
import gzip
import json
import os
import random
import re
import signal
import stat
import subprocess
import tempfile
import threading
import time
import uuid

import pytest

from client import SCORE, SCORE_PARAMS, succeeded
from database import clean_environment
from fcgi import Responder
from checks import Load, check, equal, until
from scratch import copy_of, migrated, migrated_database
from test_operator import settings_file

LIST = "domain.leadscoring.models.list"
GOOD, FOUND, USAGE, CONFIG = 0, 1, 64, 78
JSON = {"Content-Type": "application/json"}
EVENT = """jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'tenant_id', :'tenant',
    'integration', 'acp-fcgi', 'pack', 'domain.leadscoring', 'action', 'domain.leadscoring.scores.compute',
    'actor_type', 'api_key', 'actor_id', 'ock_abcdefgh', 'api_key_id', gen_random_uuid(),
    'request_hash', repeat('a', 64), 'status', 'success', 'error_code', 'NONE', 'error_message_redacted', 'a "b", \\c)',
    'result_meta', '{"count": 3, "name": "x"}'::jsonb, 'latency_ms', 1.25, 'ip_address', '192.0.2.7',
    'idempotency_key', 'k-1', 'dry_run', false, 'policy_decision_id', gen_random_uuid(), 'trace_id', 'abc',
    'billable', true, 'billing_unit', 'row', 'billing_quantity', 3, 'tier', 'paid')"""
APPEND = "select acp.audit_append(%s) from generate_series(1, %%d)" % EVENT


def posted(responder, path, body, key=None, **headers):
    headers = {**JSON, **headers, **({"X-API-Key": key} if key else {})}
    return responder.ask("POST", path, json.dumps(body).encode(), headers)


def score(responder, key, **headers):
    return posted(responder, "/api/manage", {"action": SCORE, "params": SCORE_PARAMS}, key, **headers)


def onboarded(responder):
    """Onboards a tenant; returns its id and key."""
    reply = succeeded(posted(responder, "/api/onboard/leadscoring",
                             {"agent_id": "proof-" + uuid.uuid4().hex[:8], "email": "a@example.com"}), 201)
    return reply.json["tenant_uuid"], reply.json["api_key"]


def append(database, tenant, count=1):
    """Appends rows with a value in every column, with the program's role and function. They use no free call."""
    database.execute("set role acp_app; " + APPEND % count, tenant=tenant)


def fill(bench, database):
    """Fills a database: real calls of every outcome in the chain of a process, rows in shared chains, a seal, and rows
    after it. Returns the tenant's id."""
    migrated(bench, database)
    with Responder(bench.stack, database_url=database.as_role("acp_app").url, audit_seal_interval=0,
                   processes="1") as responder:  # the tests alter rows by their position in its chain
        tenant, key = onboarded(responder)
        for n in range(6):
            succeeded(score(responder, key, **{"Idempotency-Key": "k%d" % n}))
        posted(responder, "/api/manage", {"action": SCORE, "params": {}}, key)
        posted(responder, "/api/manage", {"action": "no.such"}, key)
        posted(responder, "/api/manage", {"action": "meta.version"})
        posted(responder, "/api/manage", {"action": SCORE, "params": SCORE_PARAMS, "dry_run": True}, key)
    append_unless(database, "chain_id = 1", tenant, 8)  # makes another shared chain, if there is none
    append_unless(database, "chain_id = 1", tenant, 4)
    # A call whose row met a locked chain has it in another one.
    append_unless(database, "chain_id <> 1", tenant, 7 - ends_of(database)[1])
    seal(bench, database)
    append_unless(database, "chain_id <> 1", tenant, 3)
    database.execute("select acp.usage_roll_up()")
    check(ends_of(database)[1] >= 10, "chain 1 has too few rows for the tests: %s" % ends_of(database))
    return tenant


def append_unless(database, used, tenant, count):
    """Adds rows to a shared chain, while the chains with this condition are in use. A row goes to any that is free."""
    with database.session() as session:
        session.execute("begin; select chain_id from acp.audit_chains where %s for update;" % used)
        append(database, tenant, count)
        session.execute("rollback;")


@contextlib.contextmanager
def filled(bench):
    """A copy of the database that fill() creates, with .tenant; dropped at the end."""
    with copy_of(bench, fill) as copy:
        copy.tenant = copy.made
        yield copy


def ctl(bench, database, *arguments, **environment):
    return bench.stack.program("acpctl", *arguments,
                               environment={"ACP_DATABASE_URL": database.url, **environment})


def done(bench, database, *arguments):
    """Runs acpctl, which must succeed; returns its standard output."""
    run = ctl(bench, database, *arguments)
    equal(run.returncode, GOOD, "acpctl %s: %s%s" % (" ".join(arguments), run.stdout, run.stderr))
    return run.stdout


def seal(bench, database):
    return done(bench, database, "audit", "seal")


def verified(bench, database, *arguments):
    """Runs acpctl audit verify; returns its result, after checking that the exit status matches."""
    run = ctl(bench, database, "--json", "audit", "verify", *arguments)
    check(run.returncode in (GOOD, FOUND) and run.stdout, "acpctl audit verify: %s%s" % (run.stdout, run.stderr))
    result = json.loads(run.stdout)
    equal(run.returncode, GOOD if result["ok"] else FOUND, "exit status")
    equal(result["ok"], not result["findings"], "ok")
    return result


def findings(bench, database, *arguments):
    return verified(bench, database, *arguments)["findings"]


def places(found):
    return [(f["kind"], f.get("chain_id"), f.get("chain_seq")) for f in found]


def row_at(database, chain, seq):
    return database.row("select event_id, chain_id, chain_seq, tenant_id from acp.audit_logs "
                        "where chain_id = %d and chain_seq = %d" % (chain, seq))


def drop_checks(database):
    """Drops the check constraints, as a superuser could, to allow any change."""
    database.execute("select format('alter table acp.audit_logs drop constraint %I', conname) from pg_constraint "
                     "where conrelid = 'acp.audit_logs'::regclass and contype = 'c' \\gexec")


def ends_of(database):
    return {row["chain_id"]: row["seq"] for row in database.rows("select chain_id, seq from acp.audit_chains")}


# Unaltered logs ----------------------------------------------------------------------------------------------------

def test_good_log_is_proved(bench):
    """Contract 3: after real calls, successes and refusals, verify and reconcile find nothing, with the owner's and the
    program's role."""
    with filled(bench) as database:
        result = verified(bench, database)
        rows = database.value("select count(*) from acp.audit_logs")
        chains = database.value("select count(distinct chain_id) from acp.audit_logs")
        check(chains >= 3, "%d chains" % chains)
        equal((result["rows"], result["chains"], result["seals"]), (rows, chains, 1), "rows, chains, seals")
        equal((result["signatures_checked"], result["last_seal"]["unsealed"]), (True, 3), "signatures, unsealed rows")
        output = done(bench, database, "audit", "verify")
        check("3 rows since are chained but not yet sealed" in output and "no findings" in output, output)
        for role in (database, database.as_role("acp_app")):
            equal(json.loads(done(bench, role, "--json", "reconcile"))["differences"], [], "differences")
            equal(findings(bench, role), [], "findings")
        state = json.loads(done(bench, database, "--json", "audit", "status"))
        check(len(state["partitions"]) > 12 and state["last_seal"]["seal_id"] == 1, "status %s" % state)


def test_proof_while_calls_go_on(bench):
    """Reconcile and verify use one snapshot: they find nothing while calls and seals continue."""
    with filled(bench) as database, \
            Responder(bench.stack, database_url=database.as_role("acp_app").url, rate_limits="off") as responder:
        keys = [onboarded(responder)[1] for _ in range(4)]
        turn = iter(range(10 ** 9))
        lock = threading.Lock()

        def call():
            with lock:
                key = keys[next(turn) % len(keys)]
            return score(responder, key).status in (200, 402) or check(False, "a call failed")
        with Load(4, call):
            for _ in range(5):
                done(bench, database, "reconcile")
                seal(bench, database)
                equal(findings(bench, database), [], "findings under load")


def test_empty_log(bench):
    """An empty log has nothing to seal and no findings. Its export verifies, and its months can be dropped."""
    with migrated_database(bench) as database:
        check("nothing to seal" in seal(bench, database), "seal")
        result = verified(bench, database)
        equal((result["findings"], result["rows"], result["last_seal"]), ([], 0, None), "findings, rows, last seal")
        equal(json.loads(done(bench, database, "--json", "reconcile"))["ok"], True, "reconcile")
        with exported(bench, database) as path:
            result = verified(bench, offline(bench), path)
            equal((result["findings"], result["files"][0]["rows"]), ([], 0), "of the export")
        at_offset(database, "70 days")
        with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
            output = done(bench, database, "audit", "archive", "--older-than", "0", "--dir", folder, "--unbilled")
            check(output.count("no rows; its empty partition was dropped") >= 2, output)
            equal(os.listdir(folder), [], "files")


def test_wrong_arguments(bench):
    """acpctl reports impossible requests, with the exit statuses of acpctl(8)."""
    with filled(bench) as database:
        for arguments, status, said in [
                (["audit", "verify", "--colour"], USAGE, "--colour: no such option"),
                (["audit", "verify", "/nonexistent.jsonl"], FOUND, "/nonexistent.jsonl: No such file"),
                (["audit", "export", "--tenant", "x"], FOUND, "no tenant has"),
                (["audit", "archive", "--month", "2026-1", "--dir", "/tmp"], USAGE, "must be YYYY-MM"),
                (["audit", "archive", "--dir", "/tmp"], USAGE, "--older-than"),
                (["audit", "archive", "--month", "2001-01", "--dir", "/nonexistent"], FOUND, "No such file"),
                (["reconcile", "--period", "2026-13"], USAGE, "must be YYYY-MM")]:
            run = ctl(bench, database, *arguments)
            equal(run.returncode, status, "exit status of %s" % arguments)
            check(said in run.stderr, "%s: %s" % (arguments, run.stderr))
        month = database.value("select to_char(acp.now(), 'YYYY-MM')")
        run = ctl(bench, database, "audit", "archive", "--month", month, "--dir", "/tmp")
        check(run.returncode == FOUND and "has not ended yet" in run.stderr, run.stderr)


# Rows -----------------------------------------------------------------------------------------------------------------

CHANGES = {"text": "overlay({0} placing 'X' from length({0}))", "boolean": "not {0}", "bigint": "{0} + 1",
           "integer": "{0} + 1", "smallint": "nullif({0}, 2)", "real": "{0} + 0.25", "inet": "{0} + 1",
           "jsonb": "replace({0}::text, '3', '4')::jsonb",
           "uuid": "overlay({0}::text placing (case left({0}::text, 1) when '0' then '1' else '0' end) from 1 "
                   "for 1)::uuid",
           "timestamp with time zone": "{0} + interval '1 microsecond'",
           "bytea": "set_byte({0}, 5, get_byte({0}, 5) # 1)"}


def columns(database):
    return database.rows("select column_name as name, data_type as type from information_schema.columns "
                         "where table_schema = 'acp' and table_name = 'audit_logs' order by ordinal_position")


def check_altered_column(bench, database, column, place):
    """Alters one byte of one column of the row at (chain, seq), checks the findings, and restores the row."""
    chain, seq = place
    where = "chain_id = %d and chain_seq = %d" % place
    change = CHANGES[column["type"]].format(column["name"])
    if column["name"] == "erased":  # it is null
        change = """'{"ip_address": "%s"}'""" % ("0" * 64)
    database.execute("create table keep as select * from acp.audit_logs where %s; "
                     "update acp.audit_logs set %s = %s where %s" % (where, column["name"], change, where))
    event = database.value("select l.event_id from acp.audit_logs l, keep k "
                           "where l.event_id = k.event_id or l.request_id = k.request_id")
    found = findings(bench, database)
    named = {f["event_id"] for f in found if f.get("event_id")}
    equal(named, {event}, "rows named when %s was altered (%s)" % (column["name"], found))
    if column["name"] == "chain_id":
        check(("removed", chain, seq) in places(found), "chain_id: %s" % found)
    elif column["name"] != "chain_seq":  # with two rows at one position, the check above is enough
        equal(places(found), [("altered", chain, seq)], "findings when %s was altered" % column["name"])
    database.execute("delete from acp.audit_logs l using keep k where l.event_id = k.event_id "
                     "or l.request_id = k.request_id; insert into acp.audit_logs select * from keep; drop table keep")


@pytest.mark.slow
def test_each_altered_column_is_found(bench):
    """If a superuser alters one byte of any column, exactly that row is named, sealed or not."""
    with filled(bench) as database:
        drop_checks(database)
        ends = ends_of(database)
        chain = max(ends, key=lambda c: ends[c])  # its last rows have a value in every column
        place = (chain, ends[chain] - 1)
        equal(database.value("select count(*) from (select unnest(array[error_code, trace_id, idempotency_key]) v "
                             "from acp.audit_logs where chain_id = %d and chain_seq = %d) x where v is "
                             "null" % place), 0,
              "columns without a value")
        every = columns(database)
        equal(len(every), 31, "columns")
        for column in every:
            check_altered_column(bench, database, column, place)
        equal(findings(bench, database), [], "findings after all changes were undone")


def test_finding_says_which_row(bench):
    """The message of a finding names chain, position, event, tenant and time."""
    with filled(bench) as database:
        row = row_at(database, 1, 3)
        database.execute("update acp.audit_logs set latency_ms = latency_ms + 1 where chain_id = 1 and chain_seq = 3")
        run = ctl(bench, database, "audit", "verify")
        equal(run.returncode, FOUND, "exit status")
        check(re.search(r"^chain 1, row 3 \(event %s, tenant %s, [-0-9]+ [0-9:.]+ UTC\): its content is not what was "
                        r"written$" % (row["event_id"], row["tenant_id"]), run.stdout, re.M), run.stdout)
        check(run.stdout.endswith("\n1 finding\n"), run.stdout)


def test_removed_rows_are_found(bench):
    """Each gap is named: a row removed at the start, in the middle, at the end, and a whole chain."""
    with filled(bench) as database:
        ends = ends_of(database)
        for seq, wanted in ((1, ("removed", 1, 1)), (5, ("removed", 1, 5)), (ends[1], ("cut_off", 1, ends[1] - 1))):
            database.execute("create table keep as select * from acp.audit_logs where chain_id = 1 and chain_seq = %d; "
                             "delete from acp.audit_logs where chain_id = 1 and chain_seq = %d" % (seq, seq))
            equal(places(findings(bench, database)), [wanted], "findings without row %d" % seq)
            database.execute("insert into acp.audit_logs select * from keep; drop table keep")
        database.execute("delete from acp.audit_logs where chain_id = 2")
        equal(places(findings(bench, database)), [("cut_off", 2, 0)], "without chain 2")
        database.execute("delete from acp.audit_chains where chain_id = 2")
        found = findings(bench, database)
        check(any("but seal 1 holds" in f["message"] for f in found), "without its head too: %s" % found)


def test_tail_removed_with_its_end(bench):
    """If the last rows are removed and the chain's head is set back, the seal proves it, except for rows that were not
    yet sealed."""
    with filled(bench) as database:
        sealed = database.row("select chain_ids, seqs from acp.audit_seals")
        for chain, seq in zip(sealed["chain_ids"], sealed["seqs"]):
            database.execute("delete from acp.audit_logs where chain_id = %d and chain_seq > %d; update "
                             "acp.audit_chains c "
                             "set seq = %d, head = (select chain_hash from acp.audit_logs l where l.chain_id = "
                             "c.chain_id "
                             "and chain_seq = %d) where chain_id = %d" % (chain, seq, seq, seq, chain))
        equal(findings(bench, database), [], "back to the seal exactly")
        back = sealed["seqs"][0] - 2
        database.execute("delete from acp.audit_logs where chain_id = 1 and chain_seq > %d; update acp.audit_chains c "
                         "set seq = %d, head = (select chain_hash from acp.audit_logs l where l.chain_id = "
                         "c.chain_id and "
                         "chain_seq = %d) where chain_id = 1" % (back, back, back))
        found = findings(bench, database)
        equal(places(found), [("cut_off", 1, back)], "findings")
        check("seal 1 holds %d rows: the last 2 were removed" % (back + 2) in found[0]["message"], found[0]["message"])


def forge(database, chain, seq):
    """Inserts a forged row at this position; returns its event_id."""
    event = str(uuid.uuid4())
    database.execute("insert into acp.audit_logs select (jsonb_populate_record(l, jsonb_build_object('event_id', "
                     ":'event', "
                     "'chain_id', %d, 'chain_seq', %d))).* from acp.audit_logs l where chain_id = 1 and chain_seq = 4" %
                     (chain, seq), event=event)
    return event


def test_inserted_rows_are_found(bench):
    """A forged row is named: at an existing position, beyond the end, in no chain, without a position."""
    with filled(bench) as database:
        ends = ends_of(database)
        database.execute("alter table acp.audit_logs alter chain_seq drop not null")
        for chain, seq in ((1, 4), (1, ends[1] + 1), (99, 1), (1, 0), (1, -3)):
            event = forge(database, chain, seq)
            found = findings(bench, database)
            equal({f["event_id"] for f in found if f.get("event_id")}, {event}, "rows named at %s: %s" %
                  ((chain, seq), found))
            check("inserted" in " ".join(f["message"] for f in found), found)
            database.execute("delete from acp.audit_logs where event_id = :'event'", event=event)
        event = forge(database, 1, 4)
        database.execute("update acp.audit_logs set chain_seq = null where event_id = :'event'", event=event)
        equal([f["event_id"] for f in findings(bench, database)], [event], "a row without a position")


def test_swapped_rows_are_found(bench):
    """Two rows with exchanged positions are both named."""
    with filled(bench) as database:
        four, six = row_at(database, 1, 4), row_at(database, 1, 6)
        database.execute("update acp.audit_logs l set chain_seq = o.chain_seq, chain_hash = o.chain_hash from "
                         "acp.audit_logs o "
                         "where l.chain_id = 1 and o.chain_id = 1 and l.chain_seq in (4, 6) and o.chain_seq = 10 - "
                         "l.chain_seq")
        found = findings(bench, database)
        equal([f.get("event_id") for f in found], [six["event_id"], four["event_id"]], "rows named: %s" % found)


# Works for a row of any kind, because the rows of a chain differ from run to run.
ALTER_ROW = "update acp.audit_logs set latency_ms = latency_ms + 1 where chain_id = 1 and chain_seq = 3;"
REHASH = """
do $$
declare h bytea; r record; place bigint := %d;
begin
    select chain_hash into h from acp.audit_logs where chain_id = 1 and chain_seq = place - 1;
    for r in select chain_seq, (acp.audit_texts(array[l]))[1] as line from acp.audit_logs l
        where chain_id = 1 and chain_seq >= place order by chain_seq
    loop
        h := sha256(h || convert_to(r.line, 'UTF8'));
        update acp.audit_logs set chain_hash = h where chain_id = 1 and chain_seq = r.chain_seq;
    end loop;
    update acp.audit_chains set head = h where chain_id = 1;
end $$"""


def test_rewritten_chain_is_found_by_its_seal(bench):
    """If a row is altered and all later hashes and the chain's head are recomputed, an earlier seal proves it."""
    with filled(bench) as database:
        sealed = database.value("select seqs[1] from acp.audit_seals")
        database.execute(ALTER_ROW + REHASH % 3)
        found = findings(bench, database)
        equal(places(found), [("rewritten", 1, sealed)], "findings")
        check("seal 1" in found[0]["message"] and "between row 1 and this one" in found[0]["message"], found)
        seal(bench, database)  # a later seal does not hide it
        equal(places(findings(bench, database))[0], ("rewritten", 1, sealed), "findings after another seal")
    with filled(bench) as database:
        end = ends_of(database)[1]
        database.execute(ALTER_ROW + REHASH % 3)
        database.execute("delete from acp.audit_seals")
        equal(findings(bench, database), [], "without any seal it cannot be detected")
        database.execute("update acp.audit_chains set head = sha256('x') where chain_id = 1")
        equal(places(findings(bench, database)), [("rewritten", 1, end)], "an altered head")


# Seals --------------------------------------------------------------------------------------------------------------

def test_forged_seals_are_found(bench):
    """A seal that was altered, forged without the pepper, removed or reordered is named."""
    with filled(bench) as database:
        for _ in range(2):
            append(database, database.tenant)
            seal(bench, database)
        equal(findings(bench, database), [], "three good seals")
        for change, said in [
                ("update acp.audit_seals set at = at + interval '1 microsecond' where seal_id = 2",
                 "seal 2: it was altered"),
                ("update acp.audit_seals set heads[1] = heads[2] where seal_id = 2", "seal 2: it was altered"),
                ("update acp.audit_seals set rows = rows + 1 where seal_id = 3", "seal 3: its number of rows"),
                ("update acp.audit_seals set signature = sha256('x') where seal_id = 1", "seal 1: it is forged"),
                ("update acp.audit_seals set previous = hash where seal_id = 2", "seal 2: it was altered"),
                ("delete from acp.audit_seals where seal_id = 2", "seal 2 is missing: removed"),
                ("update acp.audit_seals set seal_id = seal_id + 1 where seal_id = 3", "seal 4: it was altered")]:
            database.execute("create table keep as select * from acp.audit_seals; " + change)
            messages = [f["message"] for f in findings(bench, database)]
            check(any(said in m for m in messages), "%s: %s" % (change, messages))
            database.execute("truncate acp.audit_seals; insert into acp.audit_seals select * from keep; drop table "
                             "keep")


def test_seal_of_another_pepper(bench):
    """A seal that the database's owner creates with another pepper counts as forged."""
    with filled(bench) as database:
        append(database, database.tenant)
        run = ctl(bench, database, "audit", "seal", ACP_KEY_PEPPER="x" * 40)
        if run.returncode == CONFIG:  # key_pepper_file and ACP_KEY_PEPPER exclude each other
            with settings_file("key_pepper = %s\n" % ("x" * 40)) as path:
                run = bench.stack.program("acpctl", "audit", "seal", config=path,
                                          environment={"ACP_DATABASE_URL": database.url})
        equal(run.returncode, GOOD, run.stderr)
        equal([f["message"][:20] for f in findings(bench, database)], ["seal 2: it is forged"], "findings")


def test_without_the_pepper(bench):
    """Without the pepper, the chains are checked, the output says that signatures were not, and sealing is refused."""
    with filled(bench) as database, settings_file("log_level = info\n") as path:
        settings = {"ACP_DATABASE_URL": database.url}
        run = bench.stack.program("acpctl", "audit", "verify", config=path, environment=settings)
        equal(run.returncode, GOOD, run.stderr)
        check("signatures were not checked" in run.stdout, run.stdout)
        run = bench.stack.program("acpctl", "audit", "seal", config=path, environment=settings)
        check(run.returncode == FOUND and "key_pepper is not set" in run.stderr, run.stderr)


def test_upkeep_seals(bench):
    """The responder seals automatically every audit_seal_interval, once over all its processes, and logs it."""
    with filled(bench) as database:
        settings = {"database_url": database.as_role("acp_app").url, "audit_seal_interval": 1, "processes": 4}
        with Responder(bench.stack, **settings) as responder:
            key = onboarded(responder)[1]
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                succeeded(score(responder, key))
                time.sleep(0.1)
            until(10, "everything is sealed", lambda: database.value(
                "select (select sum(seq) from acp.audit_chains) - (select max(rows) from acp.audit_seals) as n") == 0)
            log = responder.read_log()
        seals = database.rows("select seal_id, at from acp.audit_seals order by seal_id")
        check(3 <= len(seals) <= 12, "%d seals in about five seconds" % len(seals))
        check("audit seal 2 over " in log and ", hash " in log, log)
        equal(database.value("select count(*) from (select at - lag(at) over (order by seal_id) d from "
                             "acp.audit_seals) x "
                             "where d < interval '0.9 s'"), 0, "seals closer together than the interval")
        equal(findings(bench, database), [], "findings")


def test_seals_are_append_only(bench):
    """The program's role can add seals but not change them. It can only read archives."""
    with filled(bench) as database:
        app = database.as_role("acp_app")
        changes = ["update acp.audit_seals set rows = 1", "delete from acp.audit_seals", "truncate acp.audit_seals",
                   "insert into acp.audit_archives select * from acp.audit_archives",
                   "delete from acp.audit_archive_runs", "update acp.audit_archive_totals set calls = 1"]
        equal(app.sqlstates(changes), ["42501"] * len(changes), "SQLSTATEs")
        equal(app.sqlstate("select acp.audit_archive_begin('2020-01-01')"), "42501", "archiving as acp_app")


# Exports --------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def exported(bench, database, *arguments):
    """Creates an export; yields its path."""
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        path = os.path.join(folder, "rows.jsonl")
        done(bench, database, "audit", "export", "-o", path, *arguments)
        yield path


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))


def offline(bench):
    """A database that does not exist, because verifying files must not need one."""
    return bench.db.named("e2e_is_not_there")


def rows_in(lines):
    return [n for n, line in enumerate(lines) if '"chain_seq"' in line]


def test_export_is_readable_and_verifies(bench):
    """Each line of an export is a row with the members of acp_report.audit_logs. It verifies without the database. gzip
    and standard output work too."""
    with filled(bench) as database, exported(bench, database) as path:
        result = verified(bench, offline(bench), path)
        rows = [json.loads(line) for n, line in enumerate(lines_of(path)) if n in rows_in(lines_of(path))]
        equal(result["files"][0]["rows"], len(rows), "rows")
        report = database.rows("select * from acp_report.audit_logs")
        wanted = {row["event_id"]: row for row in report}
        equal({row["event_id"] for row in rows}, set(wanted), "events")
        for row in rows:
            for name, value in wanted[row["event_id"]].items():
                if name != "ts":
                    equal(row[name], value, name)
        equal(ctl(bench, database, "audit", "export").stdout.splitlines()[2:-1], lines_of(path)[2:-1],
              "standard output")
        done(bench, database, "audit", "export", "-o", path + ".gz", "--gzip")
        with gzip.open(path + ".gz", "rt", encoding="utf-8") as file:
            equal(file.read().splitlines()[2:-1], lines_of(path)[2:-1], "gzip")
        equal(findings(bench, offline(bench), path + ".gz", path), [], "findings of both")


def altered_member(line, name):
    """The line with one character of a member's value changed."""
    at = line.index('"%s":' % name) + len(name) + 3
    if line.startswith("null", at):
        return None
    at += line[at] in '"{'
    while line[at] in '"{ ' or line[at:at + 2] == '\\"':
        at += 1
    if line[at:].startswith("true"):
        return line[:at] + "false" + line[at + 4:]
    if line[at:].startswith("false"):
        return line[:at] + "true" + line[at + 5:]
    return line[:at] + ("1" if line[at] != "1" else "2") + line[at + 1:]


def test_altered_exports_are_found(bench):
    """If one character of any member of a line is altered, including its text and hash, exactly that row is named."""
    with filled(bench) as database, exported(bench, database) as path:
        lines = lines_of(path)
        # Use a row with a value in every column (append()). The last chain in the file differs from run to run.
        number = [n for n in rows_in(lines) if '"trace_id":"abc"' in lines[n]][1]
        row = json.loads(lines[number])
        tried = 0
        for name in row:
            changed = altered_member(lines[number], name)
            if changed is None:
                continue
            tried += 1
            write_lines(path, lines[:number] + [changed] + lines[number + 1:])
            found = findings(bench, offline(bench), path)
            named = {(f["chain_id"], f["chain_seq"]) for f in found if f.get("event_id")}
            if name in ("chain_id", "chain_seq"):
                equal({f["event_id"] for f in found if f.get("event_id")}, {row["event_id"]},
                      "named, %s: %s" % (name, found))
            else:
                equal(named, {(row["chain_id"], row["chain_seq"])}, "named when %s was altered: %s" % (name, found))
        equal(tried, 31, "members altered")


@pytest.mark.slow
def test_every_byte_of_an_export_matters(bench):
    """A byte that is changed, removed or inserted anywhere in a file, including header and trailer, is always found."""
    chance = random.Random(1)
    with filled(bench) as database, exported(bench, database) as path:
        with open(path, "rb") as file:
            good = file.read()
        tail = good.rindex(b"\n", 0, -1)  # the trailer is short, so test it as often as all the rest
        for number in range(120):
            at = chance.randrange(0 if number % 2 else tail, len(good))
            new = bytes([good[at] ^ 1 << chance.randrange(7)])
            bad = good[:at] + (new, b"", good[at:at + 1] + new)[number % 3] + good[at + 1:]
            with open(path, "wb") as file:
                file.write(bad)
            run = ctl(bench, offline(bench), "audit", "verify", path)
            equal(run.returncode, FOUND, "byte %d of %d, %r instead of %r: %s" %
                  (at, len(good), bad[at:at + 2], good[at:at + 2], run.stdout))


def test_lines_removed_from_exports(bench):
    """These are found: a line removed, repeated, moved, added, cut off; the trailer removed, altered, or created
    without the pepper."""
    with filled(bench) as database, exported(bench, database) as path:
        lines = lines_of(path)
        row = rows_in(lines)[3]
        trailer = json.loads(lines[-1])
        for what, changed, said in [
                ("a row removed", lines[:row] + lines[row + 1:], "is missing: removed"),
                ("a row doubled", lines[:row] + [lines[row]] + lines[row:], "two rows claim this place"),
                ("two rows exchanged", lines[:row] + [lines[row + 1], lines[row]] + lines[row + 2:],
                 "is missing: removed"),
                ("the last row removed", lines[:-2] + lines[-1:], "were removed"),
                ("no trailer", lines[:-1], "without its trailer: it was cut off"),
                ("half a line", lines[:-1] + [lines[-1][:40]], "is not a line of an export"),
                ("a seal removed", lines[:1] + lines[2:], "is the trailer"),
                ("a seal altered", [lines[0], lines[1].replace('"rows":', '"rows":1')] + lines[2:],
                 "its number of rows"),
                ("more behind", lines + [lines[row]], "comes after the trailer"),
                ("a trailer with another count", lines[:-1] + [json.dumps({**trailer, "rows": 1})], "signature"),
                ("an unsigned trailer", lines[:-1] + [json.dumps({**trailer, "signature": None})], "not signed"),
                ("reformatted", [json.dumps(json.loads(line), indent=None) for line in lines], "readable members")]:
            write_lines(path, changed)
            messages = [f["message"] for f in findings(bench, offline(bench), path)]
            check(any(said in m for m in messages), "%s: %s" % (what, messages))
        write_lines(path, lines)
        equal(findings(bench, offline(bench), path), [], "findings of the original file")


def test_parts_of_the_log(bench):
    """A time range can be exported and verified. So can the rows of one tenant, which cannot show missing rows."""
    with filled(bench) as database:
        middle = database.value("select acp.audit_instant(ts) as at from acp.audit_logs where chain_id = 1 and "
                                "chain_seq = 6")
        since = database.value("select count(*) from acp.audit_logs where ts >= :'at'::timestamptz", at=middle)
        with exported(bench, database, "--from", middle) as path:
            result = verified(bench, offline(bench), path)
            equal((result["findings"], result["files"][0]["rows"]), ([], since), "findings, rows")
        equal(findings(bench, database, "--from", middle), [], "of the database")
        equal(findings(bench, database, "--to", middle), [], "of the database")
        with exported(bench, database, "--tenant", database.tenant) as path:
            output = done(bench, offline(bench), "audit", "verify", path)
            check("rows of one tenant" in output and "not whether one was missing" in output, output)
            lines = lines_of(path)
            write_lines(path, lines[:4] + [lines[4].replace("domain", "domaim")] + lines[5:])
            check(findings(bench, offline(bench), path)[0]["kind"] == "altered", "an altered row of a tenant")
        database.execute("update acp.audit_logs set dry_run = not dry_run, billable = false where chain_id = 1 "
                         "and chain_seq = 8")
        equal(places(findings(bench, database, "--from", middle)), [("altered", 1, 8)], "altered within")
        equal(findings(bench, database, "--to", middle), [], "altered outside")


def test_export_remembers_the_seals(bench):
    """If all seals and rows are rolled back together, the database alone cannot show it, but an earlier export can."""
    with filled(bench) as database, exported(bench, database) as path:
        equal(findings(bench, database, "--database", path), [], "findings")
        database.execute("delete from acp.audit_seals")
        seal(bench, database)
        equal(findings(bench, database), [], "of the database alone")
        found = findings(bench, database, "--database", path)
        check("seal 1 differs from the seal in the database" in found[0]["message"], found)


# Archives -------------------------------------------------------------------------------------------------------------

def at_offset(database, offset):
    database.execute("select format('alter database %I set acp.clock_offset = %L', current_database(), :'o') \\gexec",
                     o=offset)


def month_back(database, months):
    return database.value("select to_char(acp.period(acp.now()) - make_interval(months => %d), 'YYYY-MM') as "
                          "m" % months)


def old_rows(database, months, count):
    """Appends rows in the middle of the month that was months ago, by shifting the clock."""
    days = database.value("select (acp.period(now()) - make_interval(months => %d) + interval '14 days')::date - "
                          "now()::date "
                          "as d" % months)
    at_offset(database, "%d days" % days)
    append(database, database.tenant, count)
    database.execute("select format('alter database %I reset acp.clock_offset', current_database()) \\gexec")


@contextlib.contextmanager
def with_old_months(bench):
    """A database with rows of three and two months ago, and a folder for archives."""
    with filled(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        old_rows(database, 3, 40)
        old_rows(database, 2, 20)
        append(database, database.tenant, 5)
        yield database, folder


def archive(bench, database, folder, month, *more):
    return done(bench, database, "audit", "archive", "--month", month, "--dir", folder, "--unbilled", *more)


def proved(bench, database, folder):
    """Checks that chains, archives and counters verify."""
    equal(findings(bench, database, "--archives", folder), [], "findings")
    equal(json.loads(done(bench, database, "--json", "reconcile"))["differences"], [], "differences")
    equal(database.rows("select * from acp_report.usage_drift"), [], "drift")


def test_export_to_a_pipe(bench):
    """acpctl(8): an export to what is not a file is written there, and does not replace it. A compressed export is
    recognised under any name."""
    with filled(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        pipe, copy, packed = (os.path.join(folder, name) for name in ("pipe", "copy.jsonl", "packed.jsonl"))
        os.mkfifo(pipe)
        with open(copy, "wb") as file, subprocess.Popen(["cat", pipe], stdout=file):
            done(bench, database, "audit", "export", "-o", pipe)
        check(stat.S_ISFIFO(os.stat(pipe).st_mode), "the pipe was replaced")
        done(bench, database, "audit", "export", "--gzip", "-o", packed)
        with open(packed, "rb") as file:
            equal(file.read(2), b"\x1f\x8b", "the beginning of a compressed file")
        rows = len(rows_in(lines_of(copy)))
        equal([file["rows"] for file in verified(bench, database, copy, packed)["files"]], [rows] * 2, "rows")
        equal(done(bench, database, "audit", "export", "-o", "-").count("\n"), len(lines_of(copy)), "lines on standard output")


def test_archived_months_stay_proved(bench):
    """After a month was archived to a file, chains still verify across the gap, and counters still match the rows."""
    with with_old_months(bench) as (database, folder):
        rows = database.value("select count(*) from acp.audit_logs")
        three, two = month_back(database, 3), month_back(database, 2)
        proved(bench, database, folder)
        archive(bench, database, folder, three)
        equal(database.value("select count(*) from acp.audit_logs"), rows - 40, "rows left")
        proved(bench, database, folder)
        check("is already archived" in archive(bench, database, folder, three), "a second time")
        archive(bench, database, folder, two, "--gzip")
        equal(sorted(os.listdir(folder)), ["audit_logs_%s.jsonl" % three.replace("-", "_"),
                                           "audit_logs_%s.jsonl.gz" % two.replace("-", "_")], "files")
        proved(bench, database, folder)
        equal(findings(bench, offline(bench), *(os.path.join(folder, name) for name in os.listdir(folder))), [],
              "files")
        with exported(bench, database) as path:
            equal(findings(bench, offline(bench), path), [], "an export of the remaining rows")
        database.execute("delete from acp.audit_logs where chain_id = 1 and chain_seq = 7")
        equal(places(findings(bench, database)), [("removed", 1, 7)], "a removed row that was not archived")


def test_late_rows_of_an_archived_month(bench):
    """A late row of an archived month is not lost. It gets a new partition, which is listed as late."""
    with with_old_months(bench) as (database, folder):
        month = month_back(database, 3)
        archive(bench, database, folder, month)
        database.execute("select acp.ensure_partitions(acp.now() - interval '5 months', 5)")
        name = "acp.audit_logs_" + month.replace("-", "_")
        equal(database.value("select to_regclass('%s') is null as x" % name), True, "no partition without late rows")
        old_rows(database, 3, 7)
        proved(bench, database, folder)
        state = json.loads(done(bench, database, "--json", "audit", "status"))
        equal([p["state"] for p in state["partitions"] if p["month"] == month], ["late"], "state")
        archive(bench, database, folder, month)
        parts = database.rows("select part, rows, file from acp.audit_archives order by part")
        equal([(p["part"], p["rows"]) for p in parts], [(1, 40), (2, 7)], "parts")
        equal(len(os.listdir(folder)), 2, "files")
        proved(bench, database, folder)


def test_older_than_and_keep(bench):
    """--older-than archives every month of this age, including empty ones. --keep leaves the detached table."""
    with with_old_months(bench) as (database, folder):
        done(bench, database, "audit", "archive", "--older-than", "1", "--dir", folder, "--keep", "--unbilled")
        kept = database.rows("select relname, (select count(*) from pg_inherits where inhrelid = c.oid) as attached "
                             "from pg_class "
                             "c where relname like 'audit\\_kept\\_%' and relkind = 'r' order by 1")
        equal([row["attached"] for row in kept], [0, 0], "kept tables %s" % kept)
        equal(database.value("select count(*) from acp.%s" % kept[0]["relname"]), 40, "rows kept")
        equal(database.value("select min(ts) > now() - interval '62 days' as x from acp.audit_logs"), True,
              "only new rows are left")
        proved(bench, database, folder)


def test_altered_archives_are_found(bench):
    """Each of these is named: an archive's file altered or missing; its record, ranges or totals altered, forged or
    removed."""
    with with_old_months(bench) as (database, folder):
        archive(bench, database, folder, month_back(database, 3))
        path = os.path.join(folder, os.listdir(folder)[0])
        lines = lines_of(path)
        row = json.loads(lines[rows_in(lines)[9]])
        write_lines(path, [line.replace('"billing_quantity":3', '"billing_quantity":2')
                           if '"%s"' % row["event_id"] in line else line for line in lines])
        found = findings(bench, database, "--archives", folder)
        check("is not the file that was archived" in found[0]["message"], found)
        equal([f["event_id"] for f in found[1:2]], [row["event_id"]], "row named")
        write_lines(path, lines)
        os.rename(path, path + ".away")
        check("cannot be read" in findings(bench, database, "--archives", folder)[0]["message"], "without the file")
        os.rename(path + ".away", path)
        proved(bench, database, folder)
        for change, said in [
                ("update acp.audit_archives set sha256 = sha256('x')", "is forged or was altered"),
                ("update acp.audit_archives set at = at + interval '1 s'", "is forged or was altered"),
                ("update acp.audit_archive_runs set last_hash = sha256('x')", "its ranges of the chains were "
                                                                              "altered"),
                ("update acp.audit_archive_totals set quantity = quantity + 1", "its totals were altered"),
                ("delete from acp.audit_archives", "no such archive")]:
            with database.session() as session:  # restores the tables
                database.execute("".join("create table keep_%s as table acp.audit_%s; " % (t, t)
                                         for t in ("archives", "archive_runs", "archive_totals")) + change)
                messages = [f["message"] for f in findings(bench, database)]
                check(any(said in m for m in messages), "%s: %s" % (change, messages))
                session.execute("".join("truncate acp.audit_%s; insert into acp.audit_%s table keep_%s; drop table "
                                        "keep_%s;" %
                                        (t, t, t, t) for t in ("archives", "archive_runs", "archive_totals")))
        proved(bench, database, folder)


def test_altered_month_is_not_archived(bench):
    """A month with an altered row is not archived, and the row is named."""
    with with_old_months(bench) as (database, folder):
        month = month_back(database, 3)
        event = database.value("select event_id from acp.audit_logs order by ts, chain_seq limit 1")
        database.execute("update acp.audit_logs set billing_quantity = 4 where event_id = :'event'", event=event)
        run = ctl(bench, database, "audit", "archive", "--month", month, "--dir", folder, "--unbilled")
        equal(run.returncode, FOUND, "exit status")
        check(event in run.stdout and "is not archived" in run.stderr, run.stdout + run.stderr)
        equal(os.listdir(folder), [], "files")
        equal(database.value("select count(*) from acp.audit_archives"), 0, "archives")


def start_archive(bench, database, folder, month):
    return subprocess.Popen([os.path.join(bench.stack.sbin, "acpctl"), "--config", bench.stack.config, "audit",
                             "archive", "--unbilled",
                             "--month", month, "--dir", folder], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=clean_environment(ACP_DATABASE_URL=database.url))


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()


@pytest.mark.slow
def test_interrupted_archives(bench):
    """If archiving is killed while it writes, or when the file is complete but the database unchanged, nothing is lost,
    and another run completes it."""
    with with_old_months(bench) as (database, folder):
        month = month_back(database, 3)
        rows = database.value("select count(*) from acp.audit_logs")
        table = "acp.audit_logs_" + month.replace("-", "_")
        name = "audit_logs_%s.jsonl" % month.replace("-", "_")
        waiting = "select count(*) from pg_locks where not granted and database = (select oid from pg_database where " \
                  "datname = current_database())"
        with database.session() as session:
            session.execute("begin; lock table %s in access exclusive mode;" % table)
            process = start_archive(bench, database, folder, month)
            until(20, "it waits for the lock", lambda: database.value(waiting) > 0)
            kill(process)
            equal(os.listdir(folder), ["." + name], "files after the kill while writing")
        proved(bench, database, folder)
        with database.session() as session:
            session.execute("begin; select count(*) from acp.audit_logs;")
            process = start_archive(bench, database, folder, month)
            until(20, "the file exists", lambda: os.path.exists(os.path.join(folder, name)))
            time.sleep(0.5)
            kill(process)
            equal(database.value("select count(*) from acp.audit_logs"), rows, "rows after the kill")
        until(10, "its session is over", lambda: database.value(
            "select count(*) from pg_locks where locktype = 'advisory' and granted and database = "
            "(select oid from pg_database where datname = current_database())") == 0)
        equal(database.value("select count(*) from acp.audit_archives"), 0, "archives after the kill")
        proved(bench, database, folder)
        archive(bench, database, folder, month)
        equal(os.listdir(folder), [name], "files")
        equal(database.value("select count(*) from acp.audit_logs"), rows - 40, "rows left")
        proved(bench, database, folder)


@pytest.mark.slow
def test_archive_while_calls_go_on(bench):
    """No call fails while a month is archived, even if archiving waits for a report that reads the log."""
    with with_old_months(bench) as (database, folder), \
            Responder(bench.stack, database_url=database.as_role("acp_app").url, rate_limits="off") as responder:
        key = onboarded(responder)[1]

        def call():
            return check(posted(responder, "/api/manage", {"action": "meta.version"}, key).status == 200,
                         "a call failed")
        with Load(4, call) as load:
            with database.session() as session:
                session.execute("begin; select count(*) from acp.audit_logs;")
                process = start_archive(bench, database, folder, month_back(database, 3))
                time.sleep(2.5)
                check(process.poll() is None, "it did not wait for the report")
                session.execute("rollback;")
                output = process.communicate(timeout=60)[0].decode()
                equal(process.returncode, GOOD, output)
        check(len(load.results) > 20, "%d calls" % len(load.results))
        proved(bench, database, folder)


# Reconcile ------------------------------------------------------------------------------------------------------------

def differences(bench, database, *arguments):
    run = ctl(bench, database, "--json", "reconcile", *arguments)
    result = json.loads(run.stdout)
    equal(run.returncode, GOOD if result["ok"] else FOUND, "exit status")
    return result["differences"]


def test_links_made_by_the_program(bench):
    """A row that the program linked has the hash that PostgreSQL would compute, whatever its texts."""
    odd = ["a\"b", "back\\slash", "(x), y", "tab\there", " ", "\u00e9\u20ac\U0001f600", "line\nend", "{curly}", "\x01\x7f"]
    addresses = ["192.0.2.7", "2001:db8::1", "2001:DB8:0:0:1:0:0:1", "::ffff:192.0.2.1", "fe80::1:0:0:0", "::1"]
    with migrated_database(bench) as database:
        with Responder(bench.stack, database_url=database.as_role("acp_app").url, trusted_proxies="127.0.0.1") as program:
            _, key = onboarded(program)
            for n, text in enumerate(odd):
                away = {"X-Forwarded-For": addresses[n % len(addresses)]}
                posted(program, "/api/manage", {"action": text}, key, **away)
                posted(program, "/api/manage", {"action": SCORE, "params": {text: 1}}, key, **away)
                succeeded(score(program, key, traceparent="00-%s-%s-01" % ("a" * 32, "b" * 16)))
            succeeded(posted(program, "/api/manage", {"action": LIST}, key))
        linked = database.rows("select l.* from acp.audit_logs l join acp.audit_chains c using (chain_id) "
                               "where c.owner is not null")
        check(len(linked) > 3 * len(odd) - 3, "only %d rows were linked by the program" % len(linked))
        check(any(row["result_meta"] for row in linked), "none has result_meta")
        check(any(":" in row["ip_address"] for row in linked), "none has an IPv6 address")
        equal(findings(bench, database), [], "findings")


def test_reconcile_finds_each_difference(bench):
    """Exactly the difference is named: a changed counter, quantity, unit or quota, a removed row, a wrong number of
    reservations."""
    with filled(bench) as database:
        tenant, period = database.tenant, database.value("select to_char(acp.now(), 'YYYY-MM')")
        quota = "acp.usage_quota where tenant_id = '%s'" % tenant
        counter = "acp.usage_counted where tenant_id = '%s' and tier = 'paid'" % tenant
        used = database.value("select used from " + quota)
        for change, wanted in [
                ("update acp.usage_counted set calls = calls + 1 where (tenant_id, day, action, tier, slot) = (select "
                 "tenant_id, day, action, tier, slot from %s limit 1)" % counter, ["calls of"]),
                ("update acp.usage_counted set quantity = quantity - 1 where (tenant_id, day, action, tier, slot) = "
                 "(select "
                 "tenant_id, day, action, tier, slot from %s limit 1)" % counter, ["quantity of"]),
                ("update acp.usage_counted set billing_unit = 'token' where tier = 'paid'",
                 ["calls of", "calls of", "quantity of", "quantity of"]),
                ("update acp.usage_quota set used = used + 1", ["free calls used"]),
                ("update acp.usage_quota set reserved = 2", ["places reserved"]),
                ("delete from acp.usage_quota", ["free calls used"]),
                ("delete from acp.audit_logs where event_id = (select event_id from acp.audit_logs where tier = "
                 "'free' and "
                 "billable limit 1)", ["calls of", "free calls used", "quantity of"]),
                ("update acp.tenants set calls_limit = %d, updated_at = onboarded_at" % (used - 1),
                 ["free calls above the limit"])]:
            tables = ("usage_counted", "usage_quota", "audit_logs", "tenants")
            database.execute("".join("create table keep_%s as table acp.%s; " % (t, t) for t in tables) + change)
            found = differences(bench, database)
            equal({(d["tenant_id"], d["period"]) for d in found}, {(tenant, period)}, "tenant and period, %s" % change)
            equal(sorted(" ".join(d["what"].split()[:len(w.split())]) for d, w in
                         zip(sorted(found, key=lambda d: d["what"]), sorted(wanted))), sorted(wanted),
                  "%s: %s" % (change, found))
            equal(len(found), len(wanted), "differences, %s: %s" % (change, found))
            equal(differences(bench, database, "--period", "2020-01"), [], "of another month")
            equal(len(differences(bench, database, "--period", period)), len(wanted), "of this month")
            restore = "".join("delete from acp.%s; insert into acp.%s table keep_%s; drop table keep_%s; " % (t, t,
                                                                                                              t, t)
                              for t in tables)
            database.execute("begin; set session_replication_role = replica; %s commit" % restore)
        equal(differences(bench, database), [], "differences after all changes were undone")


def test_leaked_reservations(bench):
    """A place held by a crashed call is at first not a difference. Later it is, and maintenance frees it."""
    with filled(bench) as database:
        insert = ("insert into acp.usage_reservations values ('%s', acp.period(acp.now()), gen_random_uuid(), "
                  "acp.now() - "
                  "interval '%%s'); update acp.usage_quota set reserved = reserved + 1" % database.tenant)
        database.execute(insert % "1 minute")
        equal(differences(bench, database), [], "just expired: the next maintenance will free it")
        database.execute(insert % "1 hour")
        found = differences(bench, database)
        equal([(d["what"], d["counted"]) for d in found], [("places held by calls that died", 1)], "differences")
        with Responder(bench.stack, database_url=database.as_role("acp_app").url):
            until(10, "both are freed", lambda: database.value("select count(*) from acp.usage_reservations") == 0)
        equal(database.value("select sum(reserved) from acp.usage_quota"), 0, "reserved")
        equal(differences(bench, database), [], "differences after maintenance")


def test_drift_view_compares_quantity_and_unit(bench):
    """acp_report.usage_drift, read as acp_report, shows rows that differ only in quantity or unit."""
    with filled(bench) as database:
        report = database.as_role("acp_report")
        equal(report.rows("select * from acp_report.usage_drift"), [], "drift")
        database.execute("update acp.usage_counted set quantity = quantity + 5 where tier = 'paid'")
        rows = report.rows("select billing_unit, audit_rows - counted as calls, counted_quantity - audit_quantity as "
                           "quantity "
                           "from acp_report.usage_drift")
        check(rows, "no drift")
        for row in rows:
            equal((row["billing_unit"], row["calls"], row["quantity"] % 5), ("row", 0, 0), "drift %s" % row)
