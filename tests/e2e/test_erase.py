"""The chain's text in both forms, databases and files of earlier versions, and erasure: the personal values are gone,
and the proof of the log holds."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile

import pytest

import test_proof
from checks import check, equal
from fcgi import Responder
from scratch import migrate, migrated, scratch_database
from test_proof import (FOUND, GOOD, USAGE, append, ctl, done, exported, filled, findings, lines_of,
                        month_back, offline, onboarded, places, proved, rows_in, score, seal, verified,
                        with_old_months)

KEPT = 3
CHAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "chain")
PERSONAL = ["actor_id", "error_message_redacted", "ip_address", "idempotency_key"]
VALUES = "num_nonnulls(%s)" % ", ".join(PERSONAL)


def erase(bench, database, *arguments, status=GOOD):
    """Runs acpctl audit erase and returns its report."""
    run = ctl(bench, database, "--json", "audit", "erase", *arguments)
    equal(run.returncode, status, "acpctl audit erase: %s%s" % (run.stdout, run.stderr))
    return json.loads(run.stdout)


def with_values(database, where="true"):
    return database.value("select count(*) from acp.audit_logs where (%s > 0 or salt is not null) and %s"
                          % (VALUES, where))


def holds(bench, database):
    equal(findings(bench, database), [], "findings")
    equal(json.loads(done(bench, database, "--json", "reconcile"))["differences"], [], "differences")


# The text -------------------------------------------------------------------------------------------------------------

def test_vectors(bench):
    """docs/internals.md: SQL produces the text of every test vector. So does a program written from the page alone."""
    with open(os.path.join(CHAIN, "vectors.json"), encoding="utf-8") as file:
        vectors = json.load(file)
    for vector in vectors:
        columns = {**vector["columns"], "chain_form": 2, "erased": vector["erased"] or None,
                   "salt": "\\x" + vector["salt"] if vector["salt"] else None}
        row = "jsonb_populate_record(null::acp.audit_logs, :'row')"
        made = bench.db.rows("select (acp.audit_texts(array[%s]))[1] as text" % row, row=json.dumps(columns))
        equal(made[0]["text"], vector["text"], vector["name"])
    check(len(vectors) >= 7, "%d vectors" % len(vectors))
    with open(os.path.join(os.path.dirname(CHAIN), "..", "docs", "internals.md"), encoding="utf-8") as file:
        page = file.read()
    check("```text\n%s```\n" % vectors[0]["text"] in page, "the page and the first vector have different texts")
    check("```text\n%s\n```\n" % vectors[0]["hash"] in page, "the page and the first vector have different hashes")
    run = subprocess.run(["python3", os.path.join(CHAIN, "reproduce.py")], stdout=subprocess.PIPE, text=True,
                         check=False)
    equal((run.returncode, run.stdout.split(",")[0]), (0, "suite chain: %d passed" % len(vectors)), "reproduce.py")


# Earlier versions -----------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def old_database(bench):
    """A database of schema version 9 with forty rows, not yet migrated."""
    sql = bench.stack.setting("sql_dir")
    with scratch_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        os.mkdir(os.path.join(folder, "migrations"))
        for name in sorted(os.listdir(os.path.join(sql, "migrations")))[:9]:
            shutil.copy(os.path.join(sql, "migrations", name), os.path.join(folder, "migrations"))
        for kind in ("functions", "reports"):  # the others are added by the next version
            os.mkdir(os.path.join(folder, kind))
        shutil.copy(os.path.join(sql, "functions", "10_clock.sql"), os.path.join(folder, "functions"))
        with open(os.path.join(folder, "reports", "10_none.sql"), "w", encoding="utf-8") as file:
            file.write("SELECT;\n")
        run = migrate(bench, database, ACP_SQL_DIR=folder)
        equal(run.returncode, GOOD, "acpctl migrate: %s%s" % (run.stdout, run.stderr))
        equal(database.value("select max(version) from acp.schema_migrations"), 9, "schema version")
        with open(os.path.join(CHAIN, "schema_9.sql"), encoding="utf-8") as file:
            database.execute(file.read())
        yield database


@pytest.mark.slow
def test_old_database_goes_on(bench):
    """Rows of schema version 9 verify after the migration, sealed and exported. Their chains continue in the new form.
    Alterations are found in rows of either form."""
    with old_database(bench) as database:
        migrated(bench, database)
        equal(database.value("select count(*) from acp.audit_logs where chain_form is null and salt is null"), 40,
              "old rows")
        equal(verified(bench, database)["rows"], 40, "rows")
        seal(bench, database)
        tenant = "22222222-2222-4222-8222-222222222222"
        with Responder(bench.stack, database_url=database.as_role("acp_app").url, processes="1") as responder:
            key = onboarded(responder)[1]
            for _ in range(3):
                equal(score(responder, key).status, 200, "status")
        append(database, tenant, 10)
        seal(bench, database)
        forms = database.rows("select distinct chain_id, chain_form from acp.audit_logs order by 1, 2")
        check({"chain_id": 1, "chain_form": 2} in forms and {"chain_id": 1, "chain_form": None} in forms,
              "chain 1 did not continue: %s" % forms)
        holds(bench, database)
        with exported(bench, database) as path:
            equal(findings(bench, offline(bench), path), [], "findings of the export")
            rows = [json.loads(lines_of(path)[n]) for n in rows_in(lines_of(path))]
            equal(sum("form" not in row for row in rows), 40, "rows of the old form in the export")
        for change in ("latency_ms = latency_ms + 1", "ip_address = '192.0.2.9'", "chain_form = 2", "chain_form = 1",
                       "salt = '\\x00112233445566778899aabbccddeeff'", "erased = '{}'"):
            check_tampered(bench, database, (1, 7), change)


def check_tampered(bench, database, place, change):
    """Verification names exactly the changed row."""
    where = "chain_id = %d and chain_seq = %d" % place
    database.execute("create table keep as select * from acp.audit_logs where %s; update acp.audit_logs set %s where %s"
                     % (where, change, where))
    equal(places(findings(bench, database)), [("altered",) + place], change)
    database.execute("delete from acp.audit_logs where %s; insert into acp.audit_logs select * from keep; "
                     "drop table keep" % where)


def test_old_rows_keep_their_values(bench):
    """acpctl(8): rows of earlier versions cannot be erased without breaking their chain. They are counted; status 3."""
    with old_database(bench) as database:
        migrated(bench, database)
        append(database, "22222222-2222-4222-8222-222222222222", 5)
        wanted = {"erased": 5, "old_rows": 40, "archived_rows": 0, "waiting": 0}
        equal(erase(bench, database, "--before", "2100-01-01", status=KEPT), {**wanted, "dry_run": False}, "result")
        run = ctl(bench, database, "audit", "erase", "--before", "2100-01-01")
        equal(run.returncode, KEPT, "exit status")
        check("40 rows keep theirs: they were written before schema version 10" in run.stderr, run.stderr)
        equal(with_values(database), 40, "rows with values")
        holds(bench, database)


def test_old_exports_verify(bench):
    """An export of schema version 9 verifies; one altered digit is found."""
    pepper = {"ACP_KEY_PEPPER": "0123456789abcdef" * 4}
    path = os.path.join(CHAIN, "export_1.jsonl")
    run = ctl(bench, offline(bench), "audit", "verify", path, **pepper)
    check(run.returncode == GOOD and "9 rows in 1 chains, 1 seals; signatures checked" in run.stdout,
          "%s%s" % (run.stdout, run.stderr))
    with open(path, encoding="utf-8") as file, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        altered = os.path.join(folder, "altered.jsonl")
        with open(altered, "w", encoding="utf-8") as out:
            out.write(file.read().replace('"latency_ms":0.3', '"latency_ms":0.4'))
        run = ctl(bench, offline(bench), "audit", "verify", altered, **pepper)
        check(run.returncode == FOUND and "chain 1, row 3 " in run.stdout, run.stdout)


# Erasure --------------------------------------------------------------------------------------------------------------

OTHER = "33333333-3333-4333-8333-333333333333"


def test_tenant_is_erased(bench):
    """docs/security.md: the addresses, key names, messages and idempotency keys of a tenant are gone from the table and
    from exports. Chains, seals, counters and reports hold, rows of others are unchanged, and an audit row records
    it."""
    with filled(bench) as database:
        append(database, OTHER, 4)
        mine = "tenant_id = '%s'" % database.tenant
        count, others = with_values(database, mine), with_values(database, "not " + mine)
        heads = database.rows("select chain_id, seq, head from acp.audit_chains order by 1")
        check(count > 15 and others >= 5, "%d and %d rows with values" % (count, others))
        wanted = {"erased": count, "old_rows": 0, "archived_rows": 0, "waiting": 0}
        equal(erase(bench, database, "--tenant", database.tenant, "--dry-run"), {**wanted, "dry_run": True}, "dry run")
        equal(with_values(database, mine), count, "rows with values after the dry run")
        equal(database.rows("select chain_id, seq, head from acp.audit_chains order by 1"), heads, "chains")
        equal(erase(bench, database, "--tenant", database.tenant), {**wanted, "dry_run": False}, "result")
        equal((with_values(database, mine), with_values(database, "not " + mine)), (0, others), "rows with values")
        holds(bench, database)
        equal(verified(bench, database)["erased_rows"], count, "rows that verify counts as erased")
        check("the personal values of %d rows were erased" % count in done(bench, database, "audit", "verify"), "verify")
        seal(bench, database)
        row = database.row("select * from acp_report.audit_logs where action = 'audit.erase'")
        equal((row["tenant_id"], row["actor_type"], row["result_meta"]["tenant_id"], row["result_meta"]["count"]),
              (None, "system", database.tenant, count), "audit row")
        equal(erase(bench, database, "--tenant", database.tenant)["erased"], 0, "a second time")
        equal(database.value("select count(*) from acp.audit_logs where action = 'audit.erase'"), 1, "audit rows of it")
        with exported(bench, database, "--tenant", database.tenant) as path:
            equal(findings(bench, offline(bench), path), [], "findings of the export")
            rows = [json.loads(lines_of(path)[n]) for n in rows_in(lines_of(path))]
            check(len(rows) >= count, "%d rows" % len(rows))
            equal([row for row in rows if "salt" in row or any(row[name] is not None for name in PERSONAL)], [],
                  "rows with values in the export")
            erased = [row for row in rows if "erased" in row]
            equal(len(erased), count, "rows that say what was erased")


def test_rows_before_a_moment_are_erased(bench):
    """acpctl(8): --before erases the values of all tenants, and of unknown callers, up to a time in UTC."""
    with with_old_months(bench) as (database, folder):
        first = database.value("select to_char(acp.period(acp.now()) - interval '2 months', 'YYYY-MM-DD') as d")
        database.execute("alter database %s set timezone = 'Pacific/Kiritimati'" % database.value(
            "select quote_ident(current_database()) as d"))
        equal(erase(bench, database, "--before", first)["erased"], 40, "rows of three months ago")
        equal(with_values(database, "ts < timestamptz '%s 00:00+00'" % first), 0, "rows with values before it")
        left = with_values(database)
        check(left > 20, "%d rows with values after it" % left)
        equal(erase(bench, database, "--before", first, "--tenant", OTHER)["erased"], 0, "of another tenant")
        equal(erase(bench, database, "--before", "2100-01-01")["erased"], left, "all")
        equal(with_values(database), 0, "rows with values")
        proved(bench, database, folder)


def test_times_are_bounded(bench):
    """acpctl(8): a time outside the years 1970 to 9999 chooses no rows. It is refused, and nothing is erased."""
    with filled(bench) as database:
        count = with_values(database)
        for time in ("infinity", "-infinity", "4714-11-24 BC", "1969-12-31", "10000-01-01"):
            for more in ([], ["--dry-run"]):
                run = ctl(bench, database, "audit", "erase", "--before=" + time, *more)
                equal(run.returncode, USAGE, "--before %s: %s%s" % (time, run.stdout, run.stderr))
                check("1970 to 9999" in run.stderr, "%s: %s" % (time, run.stderr))
            run = ctl(bench, database, "audit", "export", "--from=" + time)
            equal((run.returncode, run.stdout), (USAGE, ""), "--from " + time)
        equal(with_values(database), count, "rows with values")


@pytest.mark.slow
def test_tampering_after_erasure_is_found(bench):
    """Verification names an erased row if a superuser alters it or its commitment, or puts a value back."""
    with filled(bench) as database:
        erase(bench, database, "--tenant", database.tenant)
        row = database.row("select chain_id, chain_seq, erased from acp.audit_logs where erased ? 'idempotency_key' and "
                           "erased ? 'error_message_redacted' order by chain_id desc, chain_seq limit 1")
        place = (row["chain_id"], row["chain_seq"])
        equal(sorted(row["erased"]), sorted(PERSONAL), "names in erased")
        for change in ("latency_ms = latency_ms + 1", "ip_address = '192.0.2.7'", "actor_id = 'ock_abcdefgh'",
                       "ip_address = '192.0.2.7', erased = erased - 'ip_address'",
                       "idempotency_key = 'k-1', salt = '\\x00112233445566778899aabbccddeeff'",
                       "erased = null", "erased = erased - 'actor_id'",
                       "erased = jsonb_set(erased, '{ip_address}', to_jsonb(repeat('0', 64)))",
                       "erased = jsonb_set(erased, '{ip_address}', 'null')", "erased = '[]'",
                       "erased = erased || jsonb_build_object('status', repeat('0', 64))",
                       "salt = '\\x00112233445566778899aabbccddeeff'", "chain_form = null", "chain_form = 3"):
            check_tampered(bench, database, place, change)
        equal(findings(bench, database), [], "findings after all changes were undone")
        with exported(bench, database) as path:
            check_altered_lines(bench, path)


def check_altered_lines(bench, path):
    """Alters an erased row of an export: a value put back, a changed commitment, a name removed."""
    lines = lines_of(path)
    number = next(n for n in rows_in(lines) if '"erased":["actor_id","error_message_redacted"' in lines[n])
    row = json.loads(lines[number])
    for old, new in (('"ip_address":null', '"ip_address":"192.0.2.7"'), ('"actor_id","error', '"error'),
                     ('"erased":[', '"salt":"00112233445566778899aabbccddeeff","erased":['), ('"form":2', '"form":3'),
                     ("ip_address 64:", "ip_address 64:0"), (',"form":2', "")):
        check(old in lines[number], "%s in %s" % (old, lines[number]))
        test_proof.write_lines(path, lines[:number] + [lines[number].replace(old, new)] + lines[number + 1:])
        found = findings(bench, offline(bench), path)
        equal({(f["chain_id"], f["chain_seq"]) for f in found if f.get("event_id")},
              {(row["chain_id"], row["chain_seq"])}, "%s instead of %s: %s" % (new, old, found))


def test_archives_are_named(bench):
    """acpctl(8): archives are files, which are not changed. The command names them and exits with status 3. A month
    that was archived and kept loses its values like any other."""
    with with_old_months(bench) as (database, folder):
        three, two = month_back(database, 3), month_back(database, 2)
        test_proof.archive(bench, database, folder, three, "--keep")
        test_proof.archive(bench, database, folder, two)
        run = ctl(bench, database, "audit", "erase", "--tenant", database.tenant)
        equal(run.returncode, KEPT, "exit status: %s%s" % (run.stdout, run.stderr))
        for month, rows in ((three, 40), (two, 20)):
            check("the archive audit_logs_%s.jsonl has %d of these rows" % (month.replace("-", "_"), rows)
                  in run.stderr, run.stderr)
        kept = "acp.audit_kept_%s_1" % three.replace("-", "_")
        equal(database.value("select count(*) from %s where erased is not null and %s = 0" % (kept, VALUES)), 40,
              "rows of the month that is kept")
        proved(bench, database, folder)
        equal(erase(bench, database, "--before", three + "-01")["archived_rows"], 0, "rows in archives of before")
        equal(erase(bench, database, "--before", two + "-01", status=KEPT)["archived_rows"], 40, "rows of one archive")


def test_archive_of_erased_rows(bench):
    """An archive of erased rows verifies and has no values."""
    with with_old_months(bench) as (database, folder):
        erase(bench, database, "--before", "2100-01-01")
        test_proof.archive(bench, database, folder, month_back(database, 3))
        proved(bench, database, folder)
        name = os.listdir(folder)[0]
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            text = file.read()
        check("192.0.2.7" not in text and "ock_abcdefgh" not in text and text.count('"erased":[') == 40, "the file")
        facts = verified(bench, database, os.path.join(folder, name))["files"][0]
        equal((facts["rows"], facts["erased_rows"]), (40, 40), "rows of the file, and erased ones")


def test_rows_on_their_way_are_erased(bench):
    """acpctl(8): values are also erased in rows that wait for a remote hub."""
    with filled(bench) as database:
        database.execute("insert into acp.audit_outbox (tenant_id, ts, event_id, event) select tenant_id, ts, event_id, "
                         "acp.audit_event_json(l) from acp.audit_logs l where tenant_id = '%s'" % database.tenant)
        rows = database.value("select count(*) from acp.audit_outbox")
        equal(erase(bench, database, "--tenant", OTHER)["waiting"], 0, "of another tenant")
        equal(erase(bench, database, "--tenant", database.tenant, "--dry-run")["waiting"], rows, "rows of a dry run")
        equal(erase(bench, database, "--tenant", database.tenant)["waiting"], rows, "rows")
        equal(erase(bench, database, "--tenant", database.tenant)["waiting"], 0, "rows of a repetition")
        text = database.value("select string_agg(event::text, '') as t from acp.audit_outbox")
        check("192.0.2.7" not in text and "ock_abcdefgh" not in text and "k-1" not in text, "a value was not erased")


def test_who_may_erase(bench):
    """Contract 3: the role of the program cannot erase, neither by the command nor by SQL. Wrong arguments change
    nothing."""
    with filled(bench) as database:
        count = with_values(database)
        app = database.as_role("acp_app")
        run = ctl(bench, app, "audit", "erase", "--tenant", database.tenant)
        check(run.returncode == FOUND and "permission denied" in run.stderr and "member of acp_owner" in run.stderr,
              "%s%s" % (run.stdout, run.stderr))
        table = database.value("select 'audit_logs_' || to_char(acp.now(), 'YYYY_MM') as t")
        equal(app.sqlstates(["update acp.audit_logs set ip_address = null, salt = null",
                             "select acp.audit_erase('%s', null, now(), 'x', false)" % table,
                             "select acp.audit_erase_outbox(null, now())", "update acp.%s set salt = null" % table]),
              ["42501"] * 4, "SQLSTATEs")
        for arguments, status, said in [([], USAGE, "give --tenant TENANT, --before TIME, or both"),
                                        (["--tenant", "no-such"], FOUND, "no tenant has this UUID or agent_id"),
                                        (["--before", "yesterdayish"], USAGE, "yesterdayish"),
                                        (["--before"], USAGE, "needs a value"), (["x"], USAGE, "unexpected argument")]:
            run = ctl(bench, database, "audit", "erase", *arguments)
            equal(run.returncode, status, "exit status of %s: %s" % (arguments, run.stderr))
            check(said in run.stderr, "%s: %s" % (arguments, run.stderr))
        equal(with_values(database), count, "rows with values")
