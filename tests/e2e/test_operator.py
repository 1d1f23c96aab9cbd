"""Tasks of an operator: acpctl, options and settings of acp.fcgi, migrations."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import termios
import uuid

import pytest

from client import refused, succeeded
from database import PSQL, clean_environment
from fcgi import Responder
from checks import Skip, check, equal, parallel, until
from scratch import migrate, migrated, migrated_database, scratch_database

OK, FAILED, USAGE, CONFIG = 0, 1, 64, 78
LISTS = [["tenant", "list"], ["key", "list"], ["policy", "list"], ["proposal", "list"], ["approval", "list"],
         ["billing", "list"], ["price", "list"], ["outbox", "list", "--state", "all"], ["webhook", "list"],
         ["webhook", "deliveries"], ["usage"], ["usage", "--by", "action"], ["usage", "--by", "day"], ["report"],
         ["report", "usage_by_tenant_month"], ["report", "denials"]]


@contextlib.contextmanager
def settings_file(text):
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        path = os.path.join(folder, "acp.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        yield path


# acpctl ---------------------------------------------------------------------------------------------------------------

def test_migrate_twice(bench):
    """Running acpctl migrate a second time changes nothing and reports that the schema is up to date."""
    with scratch_database(bench) as database:
        first = migrated(bench, database)
        check("0001_foundation.sql" in first.stdout and "up to date" not in first.stdout, "first: %s" % first.stdout)
        before = database.rows("select * from acp.schema_migrations order by version")
        second = migrated(bench, database)
        check("up to date" in second.stdout and "migration 0" not in second.stdout, "second: %s" % second.stdout)
        equal(database.rows("select * from acp.schema_migrations order by version"), before, "schema_migrations")


@pytest.mark.slow
def test_migrate_twenty_at_once(bench):
    """Twenty concurrent runs on a fresh database all succeed, and one of them does the work."""
    with scratch_database(bench) as database:
        runs = parallel(20, lambda _: migrate(bench, database))
        equal([run.returncode for run in runs], [OK] * 20, "exit statuses; %s" % {run.stderr for run in runs})
        equal(sum("0001_foundation.sql" in run.stdout for run in runs), 1, "runs that applied the first migration")
        equal(database.value("select count(*) from acp.schema_migrations where version = 1"), 1, "rows of version 1")


def test_newer_schema_is_refused(bench):
    """Acpctl migrate and /readyz refuse a newer, breaking schema with a message, so no calls are routed to
    it."""
    with migrated_database(bench) as database:
        insert = ("insert into acp.schema_migrations (version, name, sha256, breaking) "
                  "values (999, '0999_x.sql', 'x', %s)")
        url = database.as_role("acp_app").url
        with Responder(bench.stack, database_url=url) as responder:
            succeeded(responder.ask("GET", "/readyz"))
            database.execute(insert % "true")
            done = migrate(bench, database)
            equal(done.returncode, FAILED, "acpctl migrate")
            check("breaking migration 999" in done.stderr and "upgrade acp-fcgi" in done.stderr, done.stderr)
            refused(responder.ask("GET", "/readyz"), 503, "UNAVAILABLE")
            until(5, "the log has the reason", lambda: "breaking version 999" in responder.read_log())
            succeeded(responder.ask("GET", "/healthz"))
            database.execute("delete from acp.schema_migrations where version = 999")
            database.execute(insert % "false")
            succeeded(responder.ask("GET", "/readyz"))
        equal(migrate(bench, database).returncode, OK, "acpctl migrate with a newer schema that breaks nothing")


def test_no_schema(bench):
    """With a database without the schema /readyz is 503; after acpctl migrate the same responder is ready."""
    with scratch_database(bench) as database:
        with Responder(bench.stack, database_url=database.as_role("acp_app").url) as responder:
            refused(responder.ask("GET", "/readyz"), 503, "UNAVAILABLE")
            migrated(bench, database)
            succeeded(responder.ask("GET", "/readyz"))


def test_edited_migration_is_refused(bench):
    """Migrations are immutable. An applied migration that was edited is refused by name, and nothing changes."""
    with migrated_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        copy = os.path.join(folder, "sql")
        shutil.copytree(bench.stack.setting("sql_dir"), copy)
        equal(migrate(bench, database, ACP_SQL_DIR=copy).returncode, OK, "with an unchanged copy")
        with open(os.path.join(copy, "migrations", "0001_foundation.sql"), "a", encoding="utf-8") as file:
            file.write("-- one more line\n")
        before = database.fingerprints()
        done = migrate(bench, database, ACP_SQL_DIR=copy)
        equal(done.returncode, FAILED, "with an edited one")
        check("0001_foundation.sql" in done.stderr and "changed after it had been applied" in done.stderr, done.stderr)
        equal(database.fingerprints(), before, "tables")


def test_failing_migration_leaves_nothing(bench):
    """A migration that fails is rolled back completely, and the error names it."""
    with scratch_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        copy = os.path.join(folder, "sql")
        shutil.copytree(bench.stack.setting("sql_dir"), copy)
        with open(os.path.join(copy, "migrations", "0001_foundation.sql"), "a", encoding="utf-8") as file:
            file.write("SELECT 1 / 0;\n")
        done = migrate(bench, database, ACP_SQL_DIR=copy)
        check(done.returncode == FAILED and "0001_foundation.sql" in done.stderr, "%s" % done)
        equal(database.value("select to_regclass('acp.tenants') is null as x"), True, "the table does not exist")
        migrated(bench, database)


def test_functions_are_rerunnable(bench):
    """Functions are run again if, and only if, they were changed."""
    with scratch_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        migrated(bench, database)
        copy = os.path.join(folder, "sql")
        shutil.copytree(bench.stack.setting("sql_dir"), copy)
        with open(os.path.join(copy, "functions", "10_clock.sql"), "a", encoding="utf-8") as file:
            file.write("COMMENT ON FUNCTION acp.now() IS 'changed';\n")
        check("functions and views" in migrate(bench, database, ACP_SQL_DIR=copy).stdout, "they were not run again")
        equal(database.value("select obj_description('acp.now()'::regprocedure) as x"), "changed", "the comment")
        check("up to date" in migrate(bench, database, ACP_SQL_DIR=copy).stdout, "they were run twice")


def test_usage_errors(bench):
    """acpctl(8): after a wrong command or option, acpctl exits with 64 and a message, and changes nothing."""
    for line in ["nonsense", "key", "key nonsense", "migrate --force", "migrate now", "key create",
                 "key create --tenant", "key revoke", "tenant show", "tenant update", "tenant list extra",
                 "key list --nope x", "doctor --url", "--nope", "", "tenant list --json --csv", "usage --by hour",
                 "usage --period 2026", "report nonsense", "report denials --period x", "webhook", "webhook retry",
                 "webhook deliveries --status x", "webhook deliveries --limit many"]:
        done = bench.stack.program("acpctl", *line.split())
        equal((done.returncode, done.stdout), (USAGE, ""), "acpctl %s: exit status and output" % line)
        check(done.stderr.strip(), "acpctl %s prints no reason" % line)


def table(bench):
    """The commands that acpctl help --list prints, as name -> (operand, [options])."""
    lines = [line.split("\t") for line in bench.stack.program("acpctl", "help", "--list").stdout.splitlines()]
    return {line[0]: (line[1], line[2:]) for line in lines}


def test_option_forms(bench):
    """acpctl(8): --name=value and --name value are equivalent, options may precede or follow an operand, -- ends them,
    and there are no abbreviations."""
    tenant = bench.onboard()
    ctl = lambda *words, **more: bench.stack.program("acpctl", *words, **more)
    shown = ctl("tenant", "show", tenant.id, "--json").stdout
    check(json.loads(shown)["tenant_id"] == tenant.id, shown)
    for words in (["--json", "tenant", "show", tenant.id], ["tenant", "show", "--json", tenant.id],
                  ["tenant", "show", "--json", "--", tenant.id], ["--", "tenant", "show", tenant.id, "--json"]):
        equal(ctl(*words).stdout, shown, "acpctl %s" % words)
        equal(ctl(*words, environment={"POSIXLY_CORRECT": "1"}).stdout, shown, "acpctl %s, POSIXLY_CORRECT" % words)
    keys = ctl("key", "list", "--tenant", tenant.id, "--csv").stdout
    equal(ctl("key", "list", "--tenant=" + tenant.id, "--csv").stdout, keys, "--tenant=ID")
    equal(ctl("tenant", "update", tenant.id, "--organization").returncode, USAGE, "an option of another command")
    done = ctl("tenant", "update", "--calls-limit=-1", tenant.id)
    check(done.returncode == USAGE and "--calls-limit -1: must be" in done.stderr, "%s" % done)
    with settings_file("nonsense = 1\n") as path:
        for words in (["--config", path, "tenant", "list"], ["tenant", "list", "--config", path],
                      ["tenant", "list", "--config=" + path]):
            done = ctl(*words)
            check(done.returncode == CONFIG and path in done.stderr, "acpctl %s: %s" % (words, done))
        for words in (["version"], ["help"]):
            equal(ctl(*words, "--config", path).returncode, OK, "acpctl %s needs no configuration" % words)
    equal(ctl("tenant", "show", "--", "--json").stderr,
          "acpctl: --json: no tenant has this UUID or agent_id; acpctl tenant list shows them\n", "an operand after --")


def test_wrong_options(bench):
    """acpctl(8): the message names the wrong argument and what to do, in one sentence before the command's usage."""
    key = bench.onboard().key
    cases = [("key list --nope", "--nope: no such option; acpctl help key list shows its options"),
             ("key list --nope=1", "--nope: no such option; acpctl help key list shows its options"),
             ("key list -x", "-x: no such option; acpctl help key list shows its options"),
             ("--nope", "--nope: no such option before a command; acpctl help shows the options"),
             ("key list --ten a", "--ten: write --tenant in full"), ("--js tenant list", "--js: write --json in full"),
             ("key list --tenant", "--tenant needs a value; write --tenant TENANT"),
             ("audit export -o", "-o needs a value; write -o|--output FILE"),
             ("tenant list --config", "--config needs a value; write --config FILE"),
             ("reconcile --stripe=1", "--stripe takes no value; leave out what follows it"),
             ("tenant list extra", "extra: unexpected argument; tenant list takes none"),
             ("tenant show a b", "b: unexpected argument; tenant show takes one TENANT"),
             ("usage a b", "b: unexpected argument; usage takes one TENANT"),
             ("tenant show", "tenant show needs TENANT"),
             ("key create --tenant a --scopes manage.read", "key create needs --name NAME"),
             ("audit archive --dir d", "audit archive needs --month YYYY-MM or --older-than MONTHS"),
             ("audit archive --dir d --older-than 2 --month 2026-01",
              "--month and --older-than exclude each other; give one of them"),
             ("tenant list --csv --json", "--json and --csv exclude each other; give one of them"),
             ("tenant update x --tier gold", "--tier gold: must be one of: free paid"),
             ("report denials --period x", "--period x: must be YYYY-MM, a UTC month, or all"),
             ("usage --period 2026-13", "--period 2026-13: must be YYYY-MM, a UTC month"),
             ("help audit verify now", "now: unexpected argument; help takes one command"),
             ("nonsense", "nonsense: no such command; acpctl help lists all of them"), ("audit nonsense", "audit nonsense: no such command"),
             (key, "[REDACTED]: no such command; acpctl help lists all of them"),
             ("help nonsense", "nonsense: no such command; acpctl help lists all of them"),
             ("key list " + key, "[REDACTED]: unexpected argument; key list takes none")]
    bench.watch.meant.add(key[:12])
    for line, sentence in cases:
        done = bench.stack.program("acpctl", *line.split())
        equal((done.returncode, done.stdout), (USAGE, ""), "acpctl %s: exit status and output" % line)
        equal(done.stderr.splitlines()[0], "acpctl: " + sentence, "acpctl %s: the message" % line)


@pytest.mark.slow
def test_help(bench):
    """acpctl(8): help, help COMMAND and COMMAND --help print the same, for every command and its options."""
    help_text = bench.stack.program("acpctl", "help").stdout
    equal(bench.stack.program("acpctl", "--help").stdout, help_text, "acpctl --help")
    commands = table(bench)
    check(len(commands) > 40 and "audit verify" in commands, "acpctl help --list: %s" % sorted(commands))
    for name, (operand, options) in commands.items():
        words = name.split()
        usage = bench.stack.program("acpctl", "help", *words)
        equal(usage.returncode, OK, "acpctl help %s" % name)
        equal(bench.stack.program("acpctl", *words, "--help").stdout, usage.stdout, "acpctl %s --help" % name)
        check(usage.stdout in help_text, "acpctl help lacks %s" % name)
        line, summary = usage.stdout.splitlines()
        check(line.startswith(("  %s %s" % (name, operand)).rstrip()) and summary.startswith("        "), usage.stdout)
        check(all(option in line for option in options), "%s: %s" % (options, line))
    equal(bench.stack.program("acpctl", "help", "audit").stdout, bench.stack.program("acpctl", "audit", "--help").stdout,
          "acpctl help audit")
    listed = [name for name in commands if name.startswith("audit ")]
    equal(re.findall(r"^  (\w+ \w+)", bench.stack.program("acpctl", "help", "audit").stdout, re.M), listed, "help audit")


def test_version(bench):
    """acpctl(8): version and --version print the versions of program and schema, without a configuration."""
    text = bench.stack.program("acpctl", "version").stdout
    check(re.fullmatch(r"acp-fcgi \d+\.\d+\S*\nschema \d+\njson-c \S+\n", text), text)
    for words in (["--version"], ["tenant", "list", "--version"]):
        equal(bench.stack.program("acpctl", *words).stdout, text, "acpctl %s" % words)
    shown = json.loads(bench.stack.program("acpctl", "version", "--json").stdout)
    equal(shown["schema"], bench.db.value("select max(version) from acp.schema_migrations"), "the schema's version")


def test_output_that_is_lost(bench):
    """acpctl(8): if standard output cannot be written, the exit status is 1, also of a command that did its work."""
    tenant = bench.onboard()
    bench.stack.need_programs()
    for words in ("tenant list", "report", "--version", "help", "audit status", "audit export",
                  "key create --tenant %s --name lost --scopes manage.read" % tenant.id):
        done = subprocess.run("exec %s/acpctl --config %s %s >/dev/full" % (bench.stack.sbin, bench.stack.config, words),
                              shell=True, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
                              env=clean_environment(ACP_DATABASE_URL=bench.stack.database_url))
        equal(done.returncode, FAILED, "acpctl %s: exit status, with %s" % (words, done.stderr))
        check("standard output" in done.stderr, "acpctl %s: %s" % (words, done.stderr))


def test_output(bench):
    """acpctl(8): every list can be printed as a table, as JSON and as CSV, with the same content. Without rows, CSV has
    the names."""
    bench.onboard()
    for words in LISTS:
        table = bench.stack.ctl(*words).stdout
        rows = json.loads(bench.stack.ctl(*words, "--json").stdout)
        lines = list(csv.reader(io.StringIO(bench.stack.ctl("--csv", *words).stdout)))
        check(len(lines) >= 1 and len(lines[0]) > 1, "%s --csv: no line of names" % (words,))
        equal(len(lines) - 1, len(rows), "%s: rows of CSV and of JSON" % (words,))
        check(all(len(line) == len(lines[0]) for line in lines), "%s --csv: lines of different length" % (words,))
        check("(%d row" % len(rows) in table, "%s: the table does not show %d rows" % (words, len(rows)))
        for row, line in zip(rows, lines[1:]):
            equal(list(row), lines[0], "%s: names" % (words,))
            equal(line, [csv_text(value) for value in row.values()], "%s: values" % (words,))


def csv_text(value):
    """A JSON value in the form that acpctl --csv prints."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_output_of_names(bench):
    """acpctl(8): CSV quotes values where necessary. No control character in a tenant's name reaches a terminal."""
    name = 'a, "b"\n\x1b[31mred'
    tenant_id = bench.stack.ctl("tenant", "create", "--agent-id", bench.agent_id(), "--email", "a@b.co",
                                "--organization", name).stdout.strip()
    lines = list(csv.DictReader(io.StringIO(bench.stack.ctl("tenant", "show", tenant_id, "--csv").stdout, newline="")))
    equal([line["organization_name"] for line in lines], [name], "the name in CSV")
    shown = bench.stack.ctl("tenant", "show", tenant_id).stdout
    check('a, "b"??[31mred' in shown and "\x1b" not in shown, "in the table: %r" % shown)


def on_terminal(bench, columns, *arguments, stderr=False):
    """The output of acpctl on a terminal of this width, from standard output or error."""
    bench.stack.need_programs()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [os.path.join(bench.stack.sbin, "acpctl"), "--config", bench.stack.config, *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if stderr else theirs,
                          stderr=theirs if stderr else subprocess.DEVNULL,
                          env=clean_environment(ACP_DATABASE_URL=bench.stack.database_url)) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # the end of a terminal's output
            while True:
                text += os.read(ours, 65536)
        equal(process.wait(), OK, "acpctl %s" % " ".join(arguments))
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


def test_terminal(bench):
    """acpctl(8): on a terminal that is too narrow for the table, each row is a block of lines."""
    tenant = bench.onboard()
    wide = on_terminal(bench, 250, "key", "list", "--tenant", tenant.id)
    equal(wide, bench.stack.ctl("key", "list", "--tenant", tenant.id).stdout, "on a wide terminal")
    narrow = on_terminal(bench, 60, "key", "list", "--tenant", tenant.id)
    check(re.search(r"^tenant_id +%s$" % tenant.id, narrow, re.M), "on a narrow terminal: %s" % narrow)


@contextlib.contextmanager
def locked(bench, table, seconds):
    """Locks the table for this many seconds, so that nobody can read it; the body starts once it is locked."""
    code = "begin; lock table %s; select 'locked' as x; select pg_sleep(%d); commit" % (table, seconds)
    with subprocess.Popen([PSQL, "-X", "-q", "-A", "-t", "-c", code, bench.stack.database_url], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=clean_environment()) as holder:
        held = "select 1 as x from pg_locks where mode = 'AccessExclusiveLock' and granted and relation = :'t'::regclass"
        until(20, "the lock is held", lambda: bench.db.rows(held, t=table))
        yield
        holder.communicate()


@pytest.mark.slow
def test_progress(bench):
    """acpctl(8): on a terminal, a command that takes longer than two seconds shows its progress, and erases it at the
    end."""
    def on_a_terminal():
        with locked(bench, "acp.usage_counters", 4):
            return on_terminal(bench, 100, "reconcile", "--database", stderr=True)

    def elsewhere():
        with locked(bench, "acp.audit_seals", 4):
            return bench.stack.ctl("audit", "verify")

    shown, done = parallel(2, lambda n: (on_a_terminal, elsewhere)[n]())
    check(re.search(r"\rreconciling \[ *#+ *\] [2-9] s", shown), "reconcile on a terminal: %r" % shown)
    equal(shown.rstrip("\r").rpartition("\r")[2].strip(), "", "what remains on the line")
    equal((done.stderr, "no findings" in done.stdout), ("", True), "audit verify, without a terminal")
    equal(on_terminal(bench, 100, "reconcile", "--database", stderr=True), "", "progress of a quick command")


def test_usage_and_reports(bench):
    """acpctl usage agrees with GET /api/usage and with the sums of its lists. Every report works."""
    tenant = bench.onboard()
    for _ in range(3):
        succeeded(bench.score(tenant.key))
    usage = json.loads(bench.stack.ctl("--json", "usage", tenant.id).stdout)
    equal(usage, {name: value for name, value in bench.usage(tenant.key).items() if name in usage}, "usage")
    equal(usage["calls_used"], 3, "calls_used")
    for by in ("tenant", "action", "day"):
        rows = json.loads(bench.stack.ctl("--json", "usage", tenant.agent_id, "--by", by).stdout)
        equal(sum(row["billable_calls"] for row in rows), 3, "usage by %s" % by)
    names = [row["name"] for row in json.loads(bench.stack.ctl("--json", "report").stdout)]
    check("denials" in names and len(names) >= 10, "reports: %s" % names)
    for name in names:
        views = bench.db.rows("select 1 as x from pg_views where schemaname = 'acp_report' and viewname = :'name'", name=name)
        equal(len(views), 1, "views called %s" % name)
        bench.stack.ctl("report", name)
        bench.stack.ctl("report", name, "--period", "all", "--csv")


COMPLETION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "completion", "acpctl")


def completed(bench, *words):
    """The completions that bash offers for the last of these words."""
    script = '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _acpctl; printf "%s\\n" "${COMPREPLY[@]}"'
    program = os.path.join(bench.stack.sbin, "acpctl")
    done = subprocess.run(["bash", "-c", script, "bash", COMPLETION, program, *words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_completion(bench):
    """bash completes commands, options and their possible values from the output of acpctl help --list."""
    bench.stack.need_programs()
    help_text = bench.stack.program("acpctl", "--help").stdout
    first = {line.split()[0] for line in help_text.splitlines() if re.match(r"  [a-z]", line)}
    equal({word for word in completed(bench, "") if not word.startswith("-")}, first, "first words")
    equal(completed(bench, "tenant", ""), ["create", "list", "show", "update"], "after tenant")
    equal(completed(bench, "--json", "tenant", "sh"), ["show"], "after --json tenant sh")
    check({"--tier", "--status", "--csv"} <= set(completed(bench, "tenant", "update", "x", "--")), "options")
    equal(completed(bench, "tenant", "update", "x", "--tier", ""), ["free", "paid"], "values")
    check("denials" in completed(bench, "report", "") and "manage.iam" in completed(bench, "key", "create", "--scopes", ""),
          "reports and scopes")
    check("failed" in completed(bench, "billing", "list", "--status", ""), "statuses of invoices")
    equal(completed(bench, "audit", "verify", COMPLETION[:-2]), [COMPLETION], "files")
    equal(completed(bench, "key", "create", "--tenant", ""), [], "values that cannot be completed")
    equal(completed(bench, "tenant", "update", "x", "--tier", "=", "p"), ["paid"], "--tier=p")
    equal(completed(bench, "tenant", "update", "x", "--tier", "="), ["free", "paid"], "--tier=")
    equal(completed(bench, "audit", "export", "-o", COMPLETION[:-2]), [COMPLETION], "a file after a short option")
    for name, (_, options) in table(bench).items():
        words = name.split()
        check(words[-1] in completed(bench, *words[:-1], ""), "the command %s" % name)
        check(words[-1] in completed(bench, "help", *words[:-1], ""), "help %s" % name)
        offered = set(completed(bench, *words, "-"))
        wanted = {form for option in options for form in option.split()[0].split("|")}
        if name != "help":
            check(wanted | {"--json", "--csv", "--help"} <= offered, "options of %s: %s" % (name, offered))


def test_wrong_values(bench):
    """acpctl(8): the exit status is 64 for an invalid value and 1 for an object that does not exist. There is a
    message, and nothing changes."""
    tenant = bench.onboard()
    before = bench.db.fingerprints(without=("acp.audit_logs",))
    update = "tenant update %s " % tenant.id
    never = [update + "--tier gold", update + "--status x", update + "--payment-method cash",
             update + "--calls-limit -1", update + "--calls-limit many", "tenant create --agent-id a/b --email a@b.co",
             "tenant create --agent-id e2e --email bad", "tenant create --agent-id e2e --email a@b.co --product nosuch",
             "key revoke zzz", "outbox retry x", "outbox drop x", "policy enable x", "webhook retry x",
             "reconcile --period 2026-1", "reconcile --stripe --database", "billing list --status foo",
             "price add --amount 1 --currency USD --action bad-pattern", "report audit_logs", "price remove x",
             "price currency eur --amount 1", "key create --tenant %s --name n --scopes manage.read --expires soon" % tenant.id]
    absent = ["tenant update nobody --tier paid", "tenant show %s" % uuid.uuid4(), "key revoke %s" % uuid.uuid4(),
              "key list --tenant nobody", "audit export --tenant nobody", "price remove 999",
              "tenant create --agent-id %s --email a@b.co" % tenant.agent_id]
    for line in never + absent:
        done = bench.stack.program("acpctl", *line.split())
        equal((done.returncode, done.stdout), (USAGE if line in never else FAILED, ""),
              "acpctl %s: exit status and output" % line)
        check(done.stderr.strip(), "acpctl %s prints no reason" % line)
        if line in never:
            check("\n  " + " ".join(line.split()[:2 if line.split()[0] not in ("reconcile", "report") else 1]) in done.stderr,
                  "acpctl %s does not show the command's usage: %s" % (line, done.stderr))
    equal(bench.db.fingerprints(without=("acp.audit_logs",)), before, "tables")


def test_roles(bench):
    """acpctl(8), ROLES: acp_app is enough for an operator's commands, acp_report for reports. Otherwise the error names
    the missing role."""
    bench.score(bench.onboard().key)
    bad = bench.onboard()
    run = lambda role, *words: bench.stack.program("acpctl", *words,
                                                   environment={"ACP_DATABASE_URL": bench.db.as_role(role).url})
    for words in [words for words in LISTS if words[0] != "report"] + [["usage", bad.id], ["tenant", "show", bad.id]]:
        equal(run("acp_app", *words).returncode, OK, "acpctl %s as acp_app" % words)
    names = [row["name"] for row in json.loads(bench.stack.ctl("--json", "report").stdout)]
    for name in names:
        done = run("acp_report", "report", name)
        equal(done.returncode, OK, "acpctl report %s as acp_report: %s" % (name, done.stderr))
    for role, words, missing in (("acp_app", ["report", "denials"], "acp_report"), ("acp_report", ["usage"], "acp_app"),
                                 ("acp_app", ["price", "add", "--amount", "1", "--currency", "USD"], "acp_owner")):
        done = run(role, *words)
        check(done.returncode == FAILED and "member of %s" % missing in done.stderr, "%s as %s: %s" % (words, role, done.stderr))


def test_wrong_policies(bench):
    """acpctl policy add accepts the same policies as governance.propose_policy. For others it names the invalid member
    and stores nothing."""
    good = {"name": "e2e", "decision": "deny", "action": "e2e.nothing"}
    before = bench.db.fingerprints(without=("acp.audit_logs",))
    cases = [({"actoin": "x"}, "actoin", USAGE), ({"decision": "maybe"}, "decision", USAGE), ({"action": "a b"}, "action", USAGE),
             ({"time_window": 5}, "time_window", USAGE), ({"time_window": {"from": "9am"}}, "time_window/from", USAGE),
             ({"time_window": {"timezone": "Europe/Berln"}}, "time_window/timezone", FAILED)]
    for more, place, status in cases:
        done = bench.stack.program("acpctl", "policy", "add", json.dumps({**good, **more}))
        equal((done.returncode, done.stdout), (status, ""), "acpctl policy add with %s" % more)
        check(re.search(r"\b%s (must|is no|does not)" % place, done.stderr), "%s: %s" % (more, done.stderr))
    for text in ("5", "{", '{"name":"e2e"}'):
        equal(bench.stack.program("acpctl", "policy", "add", text).returncode, USAGE, "acpctl policy add %s" % text)
    equal(bench.db.fingerprints(without=("acp.audit_logs",)), before, "tables")
    tenant = bench.onboard()
    policy = bench.stack.ctl("policy", "add", "--tenant", tenant.agent_id, json.dumps(good)).stdout.strip()
    equal(bench.db.value("select tenant_id from acp.policies where policy_id = :'id'", id=policy), tenant.id, "its tenant")
    bench.stack.ctl("policy", "disable", policy)


def test_key_given_for_its_id(bench):
    """Contract 1: a key in place of its id is refused and not printed, because the output may go to a log."""
    tenant = bench.onboard()
    bench.watch.meant.add(tenant.key[:12])
    for arguments in (["key", "revoke"], ["tenant", "show"], ["key", "list", "--tenant"]):
        done = bench.stack.program("acpctl", *arguments, tenant.key)
        equal(done.returncode, USAGE, "acpctl %s KEY: exit status" % " ".join(arguments))
        check(tenant.key not in done.stderr + done.stdout, "acpctl %s KEY repeats the key" % " ".join(arguments))


def test_key_given_anywhere(bench):
    """Contract 2: an API key that was typed in a wrong place is in no output, and does not reach the log of
    PostgreSQL."""
    key = bench.onboard().key
    bench.watch.meant.add(key[:12])
    for words in ("outbox list --limit K", "outbox retry K", "outbox drop K", "webhook deliveries --limit K", "webhook retry K",
                  "report K", "usage K", "usage --period K", "price add --amount K --currency USD",
                  "price add --amount 1 --currency K", "price add --amount 1 --currency USD --action K.x",
                  "price add --amount 1 --currency USD --from K", "tenant update x --calls-limit K", "tenant list --K", "K", "tenant K",
                  "tenant create --agent-id e2e --email K", "tenant create --agent-id e2e --email a@b.co --product K",
                  "audit verify K", "audit export --from K", "audit export -o /nowhere/K", "audit erase --before K",
                  "audit archive --dir /nowhere --older-than K", "policy add K", "billing show --tenant K", "doctor --url K",
                  "--config K tenant list", "help K"):
        done = bench.stack.program("acpctl", *words.replace("K", key).split())
        check(done.returncode in (USAGE, CONFIG), "acpctl %s: exit status %d" % (words, done.returncode))
        check(key not in done.stderr + done.stdout, "acpctl %s repeats the key" % words)


def test_tenants(bench):
    """acpctl tenant create, show (by UUID and by agent_id, with usage) and list."""
    agent_id = bench.agent_id()
    made = bench.stack.ctl("tenant", "create", "--agent-id", agent_id, "--email", "a@b.co", "--organization", "O & P")
    tenant_id = made.stdout.strip()
    equal(str(uuid.UUID(tenant_id)), tenant_id, "the tenant's UUID")
    for name in (tenant_id, agent_id):
        shown = json.loads(bench.stack.ctl("--json", "tenant", "show", name).stdout)
        equal((shown["tenant_id"], shown["agent_id"], shown["billing_email"], shown["organization_name"],
               shown["tier"]),
              (tenant_id, agent_id, "a@b.co", "O & P", "free"), "tenant show")
        equal(shown["usage"]["calls_used"], 0, "usage")
    listed = json.loads(bench.stack.ctl("--json", "tenant", "list").stdout)
    check(any(row["tenant_id"] == tenant_id for row in listed), "tenant list does not have it")
    check(agent_id in bench.stack.ctl("tenant", "list").stdout, "the table does not have it")


def test_key_list(bench):
    """Contract 1: acpctl key list shows the first 12 characters and dates, never a key or a hash."""
    tenant = bench.onboard()
    key, key_id = bench.make_key(tenant, "manage.read")
    select = "select encode(key_hash, 'hex') as hash from acp.api_keys where tenant_id = :'id'"
    hashes = [row["hash"] for row in bench.db.rows(select, id=tenant.id)]
    equal(len(hashes), 2, "keys of the tenant")
    for done in (bench.stack.ctl("key", "list", "--tenant", tenant.id), bench.stack.ctl("--json", "key", "list")):
        check(key[:12] in done.stdout and key_id in done.stdout, "the key is not in the list")
        check(not any(text in done.stdout for text in hashes + [key[12:], tenant.key[12:]]), "shows a hash or a key")
        check(not re.search(r"[0-9a-f]{64}", done.stdout), "shows what looks like a hash")


def test_doctor(bench):
    """acpctl doctor finds no problem in a good installation, even through its URL. A wrong URL is a problem."""
    done = bench.stack.program("acpctl", "doctor", "--url", bench.stack.url)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    check(all("public_url" in line and "http" in line for line in wrong), "doctor: %s%s" % (done.stdout, done.stderr))
    equal(done.returncode, FAILED if wrong else OK, "exit status")
    done = bench.stack.program("acpctl", "doctor", "--url", "http://127.0.0.1:9")
    check(done.returncode == FAILED and "WRONG" in done.stdout, "doctor of a dead address: %s" % done.stdout)


LIGHTTPD = """server.modules = ( "mod_setenv", "mod_fastcgi" )
server.bind = "127.0.0.1"
server.port = %d
server.document-root = "%s"
server.errorlog = "%s/error.log"
server.upload-dirs = ( "%s" )
fastcgi.server = ( "/" => (( "socket" => "%s", "check-local" => "disable", "fix-root-scriptname" => "enable" )) )
%s
"""


@contextlib.contextmanager
def lighttpd(responder, lines):
    """Runs lighttpd in front of a responder, with the test's own configuration; yields its URL."""
    program = shutil.which("lighttpd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not program:
        raise Skip("lighttpd is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = responder.dir.name
    path = os.path.join(folder, "lighttpd.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(LIGHTTPD % (port, folder, folder, folder, responder.socket, lines))
    process = subprocess.Popen([program, "-D", "-f", path], stdin=subprocess.DEVNULL)
    try:
        until(10, "lighttpd listens", lambda: listens(port) or process.poll() is not None)
        equal(process.poll(), None, "lighttpd ended")
        yield "http://127.0.0.1:%d" % port
    finally:
        process.terminate()
        process.wait(20)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_doctor_names_the_line(bench):
    """acpctl doctor --url finds what a web server withholds, and names the line of its configuration that fixes it."""
    strips = 'setenv.set-request-header = ( "Authorization" => "", "X-Forwarded-For" => "198.51.100.9" )\n'
    small = "server.max-request-size = 100\n"
    cases = [("", [], 0),
             (strips, [r"Authorization +does not reach .*no setenv\.set-request-header",
                       r"client address +a proxy is in front, and all clients count as 127\.0\.0\.1"], 2),
             (small, [r"largest body +of 262144 bytes is answered 413 by the web server: server\.max-request-size = 8192"],
              1),
             (small + 'server.tag = "nginx/1.22"\n', [r"largest body .*: client_max_body_size 8m;"], 1),
             (small + 'server.tag = "Apache"\n', [r"largest body .*: LimitRequestBody 0, and .*FcgidMaxRequestLen 8388608"],
              1)]
    with Responder(bench.stack) as responder:
        for lines, wanted, count in cases:
            with lighttpd(responder, lines) as url:
                done = bench.stack.program("acpctl", "doctor", "--url", url, config=responder.config)
            wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
            equal(len(wrong), count, "problems with %r: %s%s" % (lines, done.stdout, done.stderr))
            for words in wanted:
                check(re.search("WRONG +" + words, done.stdout), "%s: %s" % (words, done.stdout))


def test_health_tells_what_it_received(bench):
    """GET /healthz?received shows which credential and address arrived, but no value of a header."""
    for headers, member in [({"Authorization": "Bearer hunter2hunter2"}, "authorization"),
                            ({"X-API-Key": "hunter2hunter2"}, "x_api_key")]:
        reply = bench.get("/healthz?received", headers=headers)
        got = reply.json["received"]
        check(got[member] and "hunter2" not in json.dumps(reply.json), "received: %s" % got)
        equal([name for name in ("authorization", "x_api_key") if got[name]], [member], "credentials")
    check("received" not in bench.get("/healthz").json, "received is shown without the parameter")


def test_doctor_of_a_dead_database(bench):
    """acpctl doctor reports that the database is not reachable, exits with 1, and shows no password."""
    url = "postgresql://someone:hunter2hunter2@127.0.0.1:9/acp"
    done = bench.stack.program("acpctl", "doctor", environment={"ACP_DATABASE_URL": url})
    check(done.returncode == FAILED and "not reachable" in done.stdout, "%s" % done)
    check("hunter2" not in done.stdout + done.stderr, "shows the password: %s" % done)


# Settings -------------------------------------------------------------------------------------------------------------

def test_settings_file_errors(bench):
    """An unknown or malformed setting prevents the start: exit status 78, with file, line and reason."""
    cases = [("nonsense = 1", "nonsense"), ("workers = many", "workers"), ("workers = 0", "workers"),
             ("workers = 99999999999999999999", "workers"), ("workers = 1x", "workers"),
             ("log_format = xml", "log_format"), ("onboarding = maybe", "onboarding"), ("just words", "name = value"),
             ("workers = 4\nworkers = 4", "second time"), ("key_pepper_file = /nonexistent", "key_pepper_file"),
             ("x" * 5000 + " = 1", "longer"), ("WORKERS = 4", "WORKERS")]
    for text, reason in cases:
        with settings_file("# a comment\n" + text + "\n") as path:
            where = "%s:%d: " % (path, 2 + text.count("\n"))
            for program, arguments in [("acp.fcgi", ["--check-config"]), ("acpctl", ["tenant", "list"])]:
                done = bench.stack.program(program, *arguments, config=path)
                equal(done.returncode, CONFIG, "%s with %s: exit status" % (program, text[:40]))
                check(where in done.stderr and reason in done.stderr, "reason: %s" % done.stderr)


def test_settings_that_do_not_fit(bench):
    """Conflicting or missing values prevent the start: exit status 78 and a message."""
    cases = [({"api_key_prefix": "OCK"}, "api_key_prefix"), ({"key_pepper": "short"}, "key_pepper"),
             ({"url_prefix": "x/"}, "url_prefix"), ({"public_url": "ftp://x"}, "public_url"),
             ({"workers": "2", "processes": "3"}, "processes"), ({"listen_mode": "668"}, "listen_mode"),
             ({"database_url": ""}, "database_url"), ({"key_pepper": ""}, "key_pepper")]
    for given, reason in cases:
        settings = {"key_pepper": "p" * 32, "database_url": "postgresql://x/y", **given}
        with settings_file("".join("%s = %s\n" % pair for pair in settings.items())) as path:
            done = bench.stack.program("acp.fcgi", "--check-config", config=path,
                                       environment={"ACP_DATABASE_URL": settings["database_url"]})
            equal(done.returncode, CONFIG, "exit status with %s; %s%s" % (given, done.stdout, done.stderr))
            check(reason in done.stderr, "reason: %s" % done.stderr)


def test_missing_settings_file(bench):
    """A settings file that is named but does not exist prevents the start: exit status 78."""
    for program, arguments in [("acp.fcgi", []), ("acpctl", ["tenant", "list"])]:
        done = bench.stack.program(program, *arguments, config="/nonexistent/acp.conf")
        check(done.returncode == CONFIG and "/nonexistent/acp.conf" in done.stderr, "%s: %s" % (program, done))


def test_environment(bench):
    """ACP_NAME overrides the file. An unknown or malformed variable prevents the start, with exit status 78 and
    its name."""
    for name, value in [("ACP_NONSENSE", "1"), ("ACP_WORKERS", "many"), ("ACP_LOG_LEVEL", "loud"),
                        ("ACP_" + "X" * 100, "1"), ("ACP_DATABASEURL", "x")]:
        done = bench.stack.program("acp.fcgi", "--check-config", environment={name: value})
        equal(done.returncode, CONFIG, "%s=%s: exit status" % (name, value))
        check(name.lower()[4:] in done.stderr.lower() and "environment" in done.stderr, "reason: %s" % done.stderr)
    done = bench.stack.program("acp.fcgi", "--print-config", environment={"ACP_WORKERS": "17", "ACP_PROCESSES": "3"})
    check(done.returncode == OK and "\nworkers = 17\n" in done.stdout and "\nprocesses = 3\n" in done.stdout,
          done.stdout)


def test_print_config_hides_secrets(bench):
    """--print-config shows every setting and no secret."""
    secrets = {"ACP_DATABASE_URL": "postgresql://u:hunter2hunter2@h/d", "ACP_KEY_PEPPER": "pepper" * 8,
               "ACP_KERNEL_KEY": "hunter2-" * 5}
    done = bench.stack.program("acp.fcgi", "--print-config", environment=secrets)
    equal(done.returncode, OK, "exit status; %s" % done.stderr)
    check("hunter2" not in done.stdout and "pepperpepper" not in done.stdout, "shows a secret")
    check("# database_url (set)" in done.stdout and "# key_pepper (set)" in done.stdout, "they are not shown as set")
    names = re.findall(r"^(\w+) = ", done.stdout, re.M)
    check(len(names) == len(set(names)) > 20, "settings %s" % names)
    with settings_file(done.stdout) as path:
        again = bench.stack.program("acp.fcgi", "--print-config", config=path, environment=secrets)
        equal(again.stdout, done.stdout, "the output is not a valid configuration")


def test_options(bench):
    """acp.fcgi(8): --version, --help and --check-config work. Wrong options exit with 64. Without a socket the exit
    status is 78, with a message."""
    for program in ("acp.fcgi", "acpctl"):
        check(re.match(r"acp-fcgi \d+\.\d+", bench.stack.program(program, "--version").stdout), program + " --version")
        check("usage: " + program in bench.stack.program(program, "--help").stdout, program + " --help")
    check("good" in bench.stack.program("acp.fcgi", "--check-config").stdout, "--check-config")
    for wrong in ["--nonsense", "word", "-x"]:
        equal(bench.stack.program("acp.fcgi", wrong).returncode, USAGE, "acp.fcgi " + wrong)
    done = bench.stack.program("acp.fcgi", environment={"ACP_LISTEN": "", "ACP_LOG_FILE": ""})
    check(done.returncode == CONFIG and "nothing to listen on" in done.stderr, "without a socket: %s" % done)


def test_socket_of_another(bench):
    """A socket that another program serves, and a path that is not a socket, are left alone: exit status 78 and a
    message."""
    with Responder(bench.stack) as responder:
        again = bench.stack.program("acp.fcgi", config=responder.config)
        check(again.returncode == CONFIG and "another program listens there" in again.stderr, "%s" % again)
        succeeded(responder.ask("GET", "/healthz"))
        plain = os.path.join(responder.dir.name, "file")
        with open(plain, "w", encoding="utf-8") as file:
            file.write("kept")
        done = bench.stack.program("acp.fcgi", config=responder.config, environment={"ACP_LISTEN": plain})
        check(done.returncode == CONFIG and "not a socket" in done.stderr and os.path.getsize(plain) == 4, "%s" % done)


def test_switched_off(bench):
    """Design: with usage_enforcement and onboarding off, the router has no limit and no onboarding, and still counts
    correctly."""
    tenant = bench.onboard()
    bench.stack.ctl("tenant", "update", tenant.id, "--calls-limit", "1")
    body = json.dumps({"action": "domain.leadscoring.questions.list"}).encode()
    with Responder(bench.stack, usage_enforcement="off", onboarding="off") as responder:
        for _ in range(3):
            check("warning" not in succeeded(responder.call(tenant.key, body)).json, "a warning without enforcement")
        reply = responder.ask("POST", "/api/onboard/leadscoring", b"{}", {"Content-Type": "application/json"})
        refused(reply, 404, "NOT_FOUND")
    equal(bench.usage(tenant.key)["calls_used"], 3, "calls_used")
    refused(bench.call(tenant.key, "domain.leadscoring.questions.list"), 402, "UPGRADE_REQUIRED")


def test_limits_are_settings(bench):
    """acp.conf(5): free_calls_limit, warn_at_percent and the limits of a body work as documented."""
    tenant = bench.onboard()
    settings = {"free_calls_limit": "2", "warn_at_percent": "50", "max_body_bytes": "1024", "max_json_depth": "4",
                "max_json_tokens": "16"}
    body = json.dumps({"action": "domain.leadscoring.questions.list"}).encode()
    deep, many = b'{"action":"x","params":{"a":[[[1]]]}}', b'{"action":"x","params":{"a":[' + b"1," * 20 + b"1]}}"
    with Responder(bench.stack, **settings) as responder:
        for used in (1, 2):
            warning = succeeded(responder.call(tenant.key, body)).json["warning"]
            equal((warning["usage"]["calls_used"], warning["usage"]["calls_limit"]), (used, 2), "the warning")
        reply = refused(responder.call(tenant.key, body), 402, "UPGRADE_REQUIRED")
        check("(2 calls)" in reply.json["error"], "message\n%s" % reply)
        for large in (b" " * 1025, deep, many):
            refused(responder.call(tenant.key, large), 413, "PAYLOAD_TOO_LARGE")


def test_url_prefix(bench):
    """acp.conf(5): with url_prefix all paths are below it and nowhere else. Links and examples have it too."""
    with Responder(bench.stack, url_prefix="/acp") as responder:
        succeeded(responder.ask("GET", "/acp/healthz"))
        refused(responder.ask("GET", "/healthz"), 404, "NOT_FOUND")
        refused(responder.ask("GET", "/acpx/healthz"), 404, "NOT_FOUND")
        body = json.dumps({"agent_id": bench.agent_id(), "email": "a@b.co"}).encode()
        reply = succeeded(responder.ask("POST", "/acp/api/onboard/leadscoring", body,
                                        {"Content-Type": "application/json"}),
                          201)
        bench.keys.add(reply.json["api_key"])
        for url in (reply.json["instructions"]["example_request"]["url"], reply.json["upgrade_info"]["upgrade_url"]):
            check("/acp/api/" in url, "url %s" % url)


def test_partitions_ahead(bench):
    """After acpctl migrate, audit partitions exist for the next year. No default partition hides a gap."""
    with scratch_database(bench) as database:
        migrated(bench, database)
        there = database.rows("select relname as name from pg_class c join pg_inherits i on inhrelid = c.oid "
                              "where inhparent = 'acp.audit_logs'::regclass order by 1")
        wanted = database.rows("select 'audit_logs_' || to_char(acp.period(acp.now()) + make_interval(months => n), "
                               "'YYYY_MM') as name from generate_series(0, 12) n order by 1")
        equal(there, wanted, "partitions")


def test_every_object_has_a_comment(bench):
    """Every object of the schema has a comment."""
    bare = bench.db.rows("""
        select oid::regclass::text as name from pg_class where relkind in ('r', 'p', 'v')
            and relnamespace in ('acp'::regnamespace, 'acp_report'::regnamespace)
            and obj_description(oid, 'pg_class') is null
        union all
        select oid::regprocedure::text from pg_proc
        where pronamespace = 'acp'::regnamespace and obj_description(oid, 'pg_proc') is null""")
    equal(bare, [], "objects without a comment")
