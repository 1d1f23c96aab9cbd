"""Database roles: contract 3 (append-only log), 4 (roles, report views)."""

from client import refused, succeeded
from checks import check, equal

DENIED = "42501"
SECRET_TABLES = ["acp.api_keys", "acp.key_lookup", "acp.tenants", "acp.idempotency", "acp.usage_quota", "acp.agents",
                 "acp.usage_reservations"]
COUNT = "select billable, count(*) from audit_logs group by 1"


def partitions(bench):
    rows = bench.db.rows("select 'acp.' || relname as name from pg_class c join pg_inherits on inhrelid = c.oid "
                         "where inhparent = 'acp.audit_logs'::regclass")
    check(rows, "audit_logs has no partition")
    return [row["name"] for row in rows]


def all_refused(database, statements):
    """Checks that every statement is refused for lack of privileges."""
    for statement, state in zip(statements, database.sqlstates(statements)):
        equal(state, DENIED, statement)


def made_calls(bench):
    """Makes calls for a billable and a non-billable row."""
    tenant = bench.onboard()
    succeeded(bench.score(tenant.key))
    refused(bench.call(None, "meta.version"), 401, "INVALID_API_KEY")


def test_report_login_counts(bench):
    """Contract 4: a login as acp_report can query audit_logs without a schema name."""
    made_calls(bench)
    rows = bench.db.as_role("acp_report").rows(COUNT)
    equal(sorted(row["billable"] for row in rows), [False, True], "groups")
    equal(sum(row["count"] for row in rows), bench.db.value("select count(*) from acp.audit_logs"), "total rows")


def test_report_set_role_counts(bench):
    """Contract 4: the same after SET ROLE, with schema acp_report or, if the search_path has it, without a schema."""
    made_calls(bench)
    select = "select billable, count(*) > 0 from acp_report.audit_logs group by 1 order by 1"
    equal(bench.db.text("set role acp_report; %s;" % select).split(), ["f|t", "t|t"], "groups")
    if bench.stack.own:
        equal(bench.db.text("set role acp_report; %s;" % COUNT).count("|"), 2, "groups without a schema name")


def test_report_reads_every_view(bench):
    """Contract 4: acp_report can read every view of schema acp_report."""
    report = bench.db.as_role("acp_report")
    views = [row["viewname"] for row in bench.db.rows("select viewname from pg_views where schemaname = 'acp_report'")]
    check({"audit_logs", "usage_drift", "usage_by_tenant_month"} <= set(views), "views %s" % views)
    states = report.sqlstates(["select * from acp_report.%s limit 5" % view for view in views])
    equal([view for view, state in zip(views, states) if state != "00000"], [], "views that cannot be read")


def test_report_reads_no_secrets(bench):
    """Contract 4: acp_report can read neither key hashes nor the tables behind the views. No view shows a
    hash."""
    selects = ["select * from %s limit 1" % table for table in SECRET_TABLES + ["acp.audit_logs"]]
    all_refused(bench.db.as_role("acp_report"), selects)
    equal(bench.db.sqlstates(["set role acp_report"] + selects), ["00000"] + [DENIED] * len(selects), "after SET ROLE")
    shown = bench.db.rows("""
        select table_name, column_name from information_schema.columns where table_schema = 'acp_report'
        and (column_name ~ 'hash|salt|pepper' and column_name <> 'request_hash' or data_type = 'bytea')""")
    equal(shown, [], "columns")


def test_report_writes_nothing(bench):
    """Contract 4: acp_report is read-only: it can neither write through a view nor call a function that writes."""
    statements = ["delete from acp.audit_logs", "delete from acp_report.tenants",
                  "update acp_report.tenants set status = 'closed'",
                  "insert into acp_report.tenants (agent_id) values ('x')", "create table acp_report.x ()",
                  "create table public.x ()", "create schema x", "select acp.key_revoke(gen_random_uuid())",
                  "select acp.maintain()", "select acp.audit_append('{}')",
                  "select acp.tenant_update(gen_random_uuid(), 'paid', 'active', null, null)"]
    all_refused(bench.db.as_role("acp_report"), statements)
    # This view is not updatable, for any role.
    state = bench.db.as_role("acp_report").sqlstate("delete from acp_report.audit_logs")
    equal(state, "55000", "delete through audit_logs")


def test_app_cannot_change_the_log(bench):
    """Contract 3: the program's role cannot UPDATE, DELETE or TRUNCATE the audit log or any of its partitions."""
    made_calls(bench)
    app = bench.db.as_role("acp_app")
    before = bench.db.value("select count(*) from acp.audit_logs")
    changes = ["update %s set billable = false", "update %s set billable = false where false", "delete from %s",
               "truncate %s", "drop table %s", "select * from %s for update", "alter table %s disable trigger all",
               "alter table %s owner to acp_app",
               "merge into %s a using (select 1) s on true when matched then delete"]
    all_refused(app, [change % table for table in ["acp.audit_logs"] + partitions(bench) for change in changes])
    equal(app.sqlstate("select count(*) from acp.audit_logs"), "00000", "reading it")
    equal(bench.db.value("select count(*) from acp.audit_logs"), before, "rows")


def test_app_cannot_define(bench):
    """Contract 4: the program's role has only the privileges it needs: no DDL, no other role, no clock offset."""
    app = bench.db.as_role("acp_app")
    statements = ["create table acp.x ()", "create table acp_report.x ()", "create table public.x ()",
                  "create schema x", "create function acp.x() returns int language sql as 'select 1'",
                  "create index on acp.tenants (status)", "create role x", "create extension pgcrypto",
                  "create trigger x before insert on acp.tenants execute function acp.maintain()",
                  "alter table acp.tenants add column x int", "alter role acp_app superuser",
                  "drop table acp.tenants", "drop function acp.now()", "truncate acp.tenants",
                  "delete from acp.tenants", "delete from acp.api_keys", "delete from acp.key_lookup",
                  "delete from acp.schema_migrations", "update acp.schema_migrations set version = 5",
                  "update acp.key_lookup set tenant_id = gen_random_uuid()", "update acp.prices set unit_amount = 0",
                  "insert into acp.prices values ('call', '*', 0, 'USD', now())",
                  "set role acp_owner", "set role acp_report", "copy acp.tenants to program 'true'",
                  "select format('alter database %I set acp.clock_offset = %L', current_database(), '1 day') \\gexec"]
    all_refused(app, statements)
    app.sqlstate("grant select on acp.tenants to public")  # only a warning
    granted = bench.db.value("select has_table_privilege('public', 'acp.tenants', 'select') as x")
    equal(granted, False, "a grant to PUBLIC")


def test_app_is_an_ordinary_role(bench):
    """Contract 4: none of the three roles has an attribute beyond LOGIN. acp_app and acp_report are members of no other
    role."""
    rows = bench.db.rows("""
        select rolname from pg_roles where rolname in ('acp_owner', 'acp_app', 'acp_report')
        and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)""")
    equal(rows, [], "roles with attributes")
    rows = bench.db.rows("select member::regrole::text from pg_auth_members "
                         "where member::regrole::text in ('acp_app', 'acp_report')")
    equal(rows, [], "memberships")


def test_public_has_nothing(bench):
    """Contract 4: PUBLIC can execute no function and access no table of acp and acp_report."""
    functions = bench.db.rows("""
        select oid::regprocedure::text as name from pg_proc
        where pronamespace in ('acp'::regnamespace, 'acp_report'::regnamespace)
        and has_function_privilege('public', oid, 'execute')""")
    equal(functions, [], "functions")
    tables = bench.db.rows("""
        select oid::regclass::text as name from pg_class
        where relnamespace in ('acp'::regnamespace, 'acp_report'::regnamespace) and relkind in ('r', 'p', 'v', 'm')
        and has_table_privilege('public', oid, 'select, insert, update, delete, truncate')""")
    equal(tables, [], "tables")
    total = bench.db.value("select count(*) from pg_proc where pronamespace = 'acp'::regnamespace")
    check(total > 10, "only %s functions in acp" % total)


def test_functions_pin_their_search_path(bench):
    """Contract 4: every function sets search_path = pg_catalog, pg_temp, so that it never uses a caller's object."""
    loose = bench.db.rows("""
        select oid::regprocedure::text as name, proconfig from pg_proc
        where pronamespace in ('acp'::regnamespace, 'acp_report'::regnamespace)
        and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)""")
    equal(loose, [], "functions without it")


def test_duplicate_event_is_refused(bench):
    """Contract 4: the primary key (tenant_id, ts, event_id) refuses the same event a second time."""
    tenant = bench.onboard()
    reply = succeeded(bench.call(tenant.key, "meta.version"))
    again = ("select acp.audit_append_rows(array(select l from acp.audit_logs l where request_id = '%s'))"
             % reply.request_id)
    equal(bench.db.as_role("acp_app").sqlstate(again), "23505", "the same row again")
    key = bench.db.value("select pg_get_constraintdef(oid) from pg_constraint where conrelid = "
                         "'acp.audit_logs'::regclass "
                         "and contype = 'p'")
    equal(key, "PRIMARY KEY (tenant_id, ts, event_id)", "primary key")
