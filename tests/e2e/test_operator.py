"""What an operator does: acpctl, acp.fcgi's options and settings, migrations."""

import contextlib
import json
import os
import re
import shutil
import tempfile
import uuid

from client import refused, succeeded
from fcgi import Responder
from harness import check, equal, parallel, until

OK, FAILED, USAGE, CONFIG = 0, 1, 64, 78


@contextlib.contextmanager
def scratch_database(bench):
    """A database of the test's own, empty; dropped at the end."""
    name = "e2e_" + uuid.uuid4().hex[:12]
    bench.db.execute("create database %s template template0" % name)
    try:
        yield bench.db.named(name)
    finally:
        bench.db.execute("drop database %s with (force)" % name)


def migrate(bench, database, **environment):
    return bench.stack.program("acpctl", "migrate", environment={"ACP_DATABASE_URL": database.url, **environment})


def migrated(bench, database):
    done = migrate(bench, database)
    equal(done.returncode, OK, "acpctl migrate: %s" % done.stderr)
    return done


@contextlib.contextmanager
def settings_file(text):
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        path = os.path.join(folder, "acp.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        yield path


# acpctl ---------------------------------------------------------------------------------------------------------------

def test_migrate_twice(bench):
    """Issue: running acpctl migrate a second time changes nothing and says that the schema is up to date."""
    with scratch_database(bench) as database:
        first = migrated(bench, database)
        check("0001_foundation.sql" in first.stdout and "up to date" not in first.stdout, "first: %s" % first.stdout)
        before = database.rows("select * from acp.schema_migrations order by version")
        second = migrated(bench, database)
        check("up to date" in second.stdout and "migration 0" not in second.stdout, "second: %s" % second.stdout)
        equal(database.rows("select * from acp.schema_migrations order by version"), before, "schema_migrations")


def test_migrate_twenty_at_once(bench):
    """Issue: twenty at once on a fresh database all end well, and one of them has done the work."""
    with scratch_database(bench) as database:
        runs = parallel(20, lambda _: migrate(bench, database))
        equal([run.returncode for run in runs], [OK] * 20, "exit statuses; %s" % {run.stderr for run in runs})
        equal(sum("0001_foundation.sql" in run.stdout for run in runs), 1, "runs that applied the first migration")
        equal(database.value("select count(*) from acp.schema_migrations where version = 1"), 1, "rows of version 1")


def test_newer_schema_is_refused(bench):
    """Issue: a newer breaking schema is refused with a sentence, by acpctl migrate and by /readyz; calls go nowhere."""
    with scratch_database(bench) as database:
        migrated(bench, database)
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
            until(5, "the log's sentence", lambda: "breaking version 999" in responder.read_log())
            succeeded(responder.ask("GET", "/healthz"))
            database.execute("delete from acp.schema_migrations where version = 999")
            database.execute(insert % "false")
            succeeded(responder.ask("GET", "/readyz"))
        equal(migrate(bench, database).returncode, OK, "acpctl migrate with a newer schema that breaks nothing")


def test_no_schema(bench):
    """/readyz of a database without the schema is 503; after acpctl migrate the same responder is ready."""
    with scratch_database(bench) as database:
        with Responder(bench.stack, database_url=database.as_role("acp_app").url) as responder:
            refused(responder.ask("GET", "/readyz"), 503, "UNAVAILABLE")
            migrated(bench, database)
            succeeded(responder.ask("GET", "/readyz"))


def test_edited_migration_is_refused(bench):
    """Issue: migrations are immutable: an applied one that was edited is refused with its name; nothing changes."""
    with scratch_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        migrated(bench, database)
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
    """A migration that fails is undone as a whole, and the error names it."""
    with scratch_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        copy = os.path.join(folder, "sql")
        shutil.copytree(bench.stack.setting("sql_dir"), copy)
        with open(os.path.join(copy, "migrations", "0001_foundation.sql"), "a", encoding="utf-8") as file:
            file.write("SELECT 1 / 0;\n")
        done = migrate(bench, database, ACP_SQL_DIR=copy)
        check(done.returncode == FAILED and "0001_foundation.sql" in done.stderr, "%s" % done)
        equal(database.value("select to_regclass('acp.tenants') is null as x"), True, "the table is not there")
        migrated(bench, database)


def test_functions_are_rerunnable(bench):
    """Issue: functions that were changed are run again, and only then."""
    with scratch_database(bench) as database, tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        migrated(bench, database)
        copy = os.path.join(folder, "sql")
        shutil.copytree(bench.stack.setting("sql_dir"), copy)
        with open(os.path.join(copy, "functions", "10_clock.sql"), "a", encoding="utf-8") as file:
            file.write("COMMENT ON FUNCTION acp.now() IS 'changed';\n")
        check("functions and views" in migrate(bench, database, ACP_SQL_DIR=copy).stdout, "they are run again")
        equal(database.value("select obj_description('acp.now()'::regprocedure) as x"), "changed", "the comment")
        check("up to date" in migrate(bench, database, ACP_SQL_DIR=copy).stdout, "once is enough")


def test_usage_errors(bench):
    """acpctl(8): a wrong command or option exits 64 with a sentence and changes nothing."""
    for line in ["nonsense", "key", "key nonsense", "migrate --force", "migrate now", "key create",
                 "key create --tenant", "key revoke", "tenant show", "tenant update", "tenant list extra",
                 "key list --nope x", "doctor --url", "--nope", ""]:
        done = bench.stack.program("acpctl", *line.split())
        equal((done.returncode, done.stdout), (USAGE, ""), "acpctl %s: exit status and output" % line)
        check(done.stderr.strip(), "acpctl %s gives no reason" % line)


def test_wrong_values(bench):
    """acpctl(8): a value that cannot be is refused with a sentence, exit 1, and changes nothing."""
    tenant = bench.onboard()
    before = bench.db.fingerprints(without=("acp.audit_logs",))
    update = "tenant update %s " % tenant.id
    lines = [update + "--tier gold", update + "--status x", update + "--payment-method cash",
             update + "--calls-limit -1", update + "--calls-limit many", "tenant update nobody --tier paid",
             "tenant show %s" % uuid.uuid4(), "key revoke %s" % uuid.uuid4(), "key list --tenant nobody",
             "tenant create --agent-id a/b --email a@b.co",
             "tenant create --agent-id %s --email a@b.co" % tenant.agent_id]
    for line in lines:
        done = bench.stack.program("acpctl", *line.split())
        equal((done.returncode, done.stdout), (FAILED, ""), "acpctl %s: exit status and output" % line)
        check(done.stderr.strip(), "acpctl %s gives no reason" % line)
    equal(bench.db.fingerprints(without=("acp.audit_logs",)), before, "tables")


def test_key_given_for_its_id(bench):
    """Contract 1: a key that is given where its id belongs is refused and not written out: that may be a log."""
    tenant = bench.onboard()
    for arguments in (["key", "revoke"], ["tenant", "show"], ["key", "list", "--tenant"]):
        done = bench.stack.program("acpctl", *arguments, tenant.key)
        equal(done.returncode, FAILED, "acpctl %s KEY: exit status" % " ".join(arguments))
        check(tenant.key not in done.stderr + done.stdout, "acpctl %s KEY repeats the key" % " ".join(arguments))


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
    """acpctl doctor finds no problem in a good installation, also from outside; a wrong address is one."""
    done = bench.stack.program("acpctl", "doctor", "--url", bench.stack.url)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    check(all("public_url" in line and "http" in line for line in wrong), "doctor: %s%s" % (done.stdout, done.stderr))
    equal(done.returncode, FAILED if wrong else OK, "exit status")
    done = bench.stack.program("acpctl", "doctor", "--url", "http://127.0.0.1:9")
    check(done.returncode == FAILED and "WRONG" in done.stdout, "doctor of a dead address: %s" % done.stdout)


def test_doctor_of_a_dead_database(bench):
    """acpctl doctor says that the database cannot be reached, exits 1, and shows no password."""
    url = "postgresql://someone:hunter2hunter2@127.0.0.1:9/acp"
    done = bench.stack.program("acpctl", "doctor", environment={"ACP_DATABASE_URL": url})
    check(done.returncode == FAILED and "not reachable" in done.stdout, "%s" % done)
    check("hunter2" not in done.stdout + done.stderr, "shows the password: %s" % done)


# Settings -------------------------------------------------------------------------------------------------------------

def test_settings_file_errors(bench):
    """Issue: an unknown or malformed setting stops the start with 78, file, line and reason."""
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
    """Issue: values that are wrong together, or missing, stop the start with 78 and a sentence."""
    cases = [({"key_prefix": "OCK"}, "key_prefix"), ({"key_pepper": "short"}, "key_pepper"),
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
    """A settings file that was named and is not there stops the start with 78."""
    for program, arguments in [("acp.fcgi", []), ("acpctl", ["tenant", "list"])]:
        done = bench.stack.program(program, *arguments, config="/nonexistent/acp.conf")
        check(done.returncode == CONFIG and "/nonexistent/acp.conf" in done.stderr, "%s: %s" % (program, done))


def test_environment(bench):
    """Issue: ACP_NAME wins over the file; an unknown or malformed one stops the start with 78 and is named."""
    for name, value in [("ACP_NONSENSE", "1"), ("ACP_WORKERS", "many"), ("ACP_LOG_LEVEL", "loud"),
                        ("ACP_" + "X" * 100, "1"), ("ACP_DATABASEURL", "x")]:
        done = bench.stack.program("acp.fcgi", "--check-config", environment={name: value})
        equal(done.returncode, CONFIG, "%s=%s: exit status" % (name, value))
        check(name.lower()[4:] in done.stderr.lower() and "environment" in done.stderr, "reason: %s" % done.stderr)
    done = bench.stack.program("acp.fcgi", "--print-config", environment={"ACP_WORKERS": "17", "ACP_PROCESSES": "3"})
    check(done.returncode == OK and "\nworkers = 17\n" in done.stdout and "\nprocesses = 3\n" in done.stdout,
          done.stdout)


def test_print_config_hides_secrets(bench):
    """Issue: --print-config shows every setting and no secret."""
    secrets = {"ACP_DATABASE_URL": "postgresql://u:hunter2hunter2@h/d", "ACP_KEY_PEPPER": "pepper" * 8,
               "ACP_KERNEL_KEY": "hunter2-" * 5}
    done = bench.stack.program("acp.fcgi", "--print-config", environment=secrets)
    equal(done.returncode, OK, "exit status; %s" % done.stderr)
    check("hunter2" not in done.stdout and "pepperpepper" not in done.stdout, "shows a secret")
    check("# database_url (set)" in done.stdout and "# key_pepper (set)" in done.stdout, "says that they are set")
    names = re.findall(r"^(\w+) = ", done.stdout, re.M)
    check(len(names) == len(set(names)) > 20, "settings %s" % names)
    with settings_file(done.stdout) as path:
        again = bench.stack.program("acp.fcgi", "--print-config", config=path, environment=secrets)
        equal(again.stdout, done.stdout, "what is printed can be read again")


def test_options(bench):
    """acp.fcgi(8): --version, --help, --check-config; wrong options exit 64; without a socket 78 and a sentence."""
    for program in ("acp.fcgi", "acpctl"):
        check(re.match(r"acp-fcgi \d+\.\d+", bench.stack.program(program, "--version").stdout), program + " --version")
        check("usage: " + program in bench.stack.program(program, "--help").stdout, program + " --help")
    check("good" in bench.stack.program("acp.fcgi", "--check-config").stdout, "--check-config")
    for wrong in ["--nonsense", "word", "-x"]:
        equal(bench.stack.program("acp.fcgi", wrong).returncode, USAGE, "acp.fcgi " + wrong)
    done = bench.stack.program("acp.fcgi", environment={"ACP_LISTEN": "", "ACP_LOG_FILE": ""})
    check(done.returncode == CONFIG and "nothing to listen on" in done.stderr, "without a socket: %s" % done)


def test_socket_of_another(bench):
    """A socket that another program serves, and a path that is no socket, are left alone: 78 and a sentence."""
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
    """Design: with usage_enforcement and onboarding off the router works as without them; counting stays right."""
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
    """acp.conf(5): free_calls_limit, warn_at_percent and the limits of a body do what they say."""
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
        check("(2 calls)" in reply.json["error"], "sentence\n%s" % reply)
        for large in (b" " * 1025, deep, many):
            refused(responder.call(tenant.key, large), 413, "PAYLOAD_TOO_LARGE")


def test_url_prefix(bench):
    """acp.conf(5): with url_prefix the paths live below it, links and examples too, and nowhere else."""
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
    """Issue: audit partitions exist for a year ahead after acpctl migrate; no default partition hides a gap."""
    with scratch_database(bench) as database:
        migrated(bench, database)
        there = database.rows("select relname as name from pg_class c join pg_inherits i on inhrelid = c.oid "
                              "where inhparent = 'acp.audit_logs'::regclass order by 1")
        wanted = database.rows("select 'audit_logs_' || to_char(acp.period(acp.now()) + make_interval(months => n), "
                               "'YYYY_MM') as name from generate_series(0, 12) n order by 1")
        equal(there, wanted, "partitions")


def test_every_object_has_a_comment(bench):
    """Issue: comments on every object of the schema."""
    bare = bench.db.rows("""
        select oid::regclass::text as name from pg_class where relkind in ('r', 'p', 'v')
            and relnamespace in ('acp'::regnamespace, 'acp_report'::regnamespace)
            and obj_description(oid, 'pg_class') is null
        union all
        select oid::regprocedure::text from pg_proc
        where pronamespace = 'acp'::regnamespace and obj_description(oid, 'pg_proc') is null""")
    equal(bare, [], "objects without a comment")
