"""PostgreSQL through psql: rows of a statement, a session that holds locks, the SQLSTATE of a failed statement."""

import glob
import json
import os
import re
import subprocess

from checks import Failure, check


def find_psql():
    """The path of the real program. On Debian, psql on PATH is a wrapper script that takes longer than psql itself."""
    found = glob.glob("/usr/lib/postgresql/*/bin/psql")
    return max(found, key=lambda path: int(path.split("/")[4])) if found else "psql"


PSQL = find_psql()


def clean_environment(**more):
    """The environment without settings of PostgreSQL clients and of the programs under test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "ACP_"))}
    kept.update(PGCONNECT_TIMEOUT="10", LC_ALL="C.UTF-8", **more)
    return kept


def with_user(url, user):
    """The same database as another role."""
    return re.sub(r"^(postgres(?:ql)?://)(?:[^@/]*@)?", lambda m: m.group(1) + user + "@", url)


def with_database(url, name):
    return re.sub(r"^(postgres(?:ql)?://[^/]*/)[^?]*", lambda m: m.group(1) + name, url)


# The tables that every metered call changes.
METERED = ("acp.audit_logs", "acp.usage_counted")

# The usage that calls have counted, whether or not it has been added up.
ROLLED = ("acp.usage_counted", "acp.usage_pending", "acp.usage_rolled")
USAGE = ("(select tenant_id, day, action, status, billable, tier, billing_unit, sum(calls) as calls, "
         "sum(quantity) as quantity from acp.usage_counters group by 1, 2, 3, 4, 5, 6, 7)")


class Database:
    def __init__(self, url):
        self.url = url

    def as_role(self, role):
        return Database(with_user(self.url, role))

    @property
    def name(self):
        return re.match(r"postgres(?:ql)?://[^/]*/([^?]*)", self.url).group(1)

    def named(self, name):
        return Database(with_database(self.url, name))

    def _psql(self, sql, values=None, *options):
        variables = [part for name, value in (values or {}).items() for part in ("-v", "%s=%s" % (name, value))]
        return subprocess.run([PSQL, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *options, *variables,
                               "-d", self.url], input=sql.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=clean_environment(), timeout=60)

    def text(self, sql, **values):
        """The output of psql. :'name' in the statement becomes the value as a literal."""
        done = self._psql(sql, values)
        if done.returncode != 0:
            raise Failure("psql: %s\nstatement: %s" % (done.stderr.decode(errors="replace").strip(), sql))
        return done.stdout.decode()

    def rows(self, select, **values):
        """The rows of a SELECT as dicts."""
        return json.loads(self.text("select coalesce(json_agg(q), '[]') from (%s) q" % select, **values))

    def row(self, select, **values):
        rows = self.rows(select, **values)
        check(len(rows) == 1, "%d rows instead of 1: %s %r" % (len(rows), select, values))
        return rows[0]

    def value(self, select, **values):
        """The single value of the single row."""
        return next(iter(self.row(select, **values).values()))

    def execute(self, sql, **values):
        self.text(sql, **values)

    def sqlstates(self, statements):
        """The SQLSTATE of each statement, "00000" if it succeeded. All of them run, in one session."""
        script = "\n".join("%s;\n\\echo -- state :SQLSTATE" % statement for statement in statements)
        done = self._psql("\\set ON_ERROR_STOP 0\n\\o /dev/null\n%s\n" % script)
        found = re.findall(r"^-- state (\w{5})$", done.stdout.decode(errors="replace"), re.M)
        if len(found) != len(statements):
            raise Failure("psql: %s" % done.stderr.decode(errors="replace").strip())
        return found

    def sqlstate(self, statement):
        return self.sqlstates([statement])[0]

    def session(self):
        return Session(self.url)

    def tables(self):
        """The schema-qualified names of all tables that contain rows themselves (no partitioned parents)."""
        rows = self.rows("select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n "
                         "on n.oid = c.relnamespace where c.relkind = 'r' and n.nspname !~ '^(pg_|information_schema)' "
                         "order by 1")
        return [row["name"] for row in rows]

    def fingerprints(self, without=()):
        """Maps each table, except some, to (number of rows, hash of their content). A process moves rows between the
        usage tables once a second, so these are one entry: their sums."""
        if "acp.audit_logs" in without:
            without = (*without, "acp.audit_chains")  # each audit row changes the head of a chain
        relations = {name: name for name in self.tables() if name not in ROLLED}
        relations["acp.usage_counted"] = USAGE
        parts = ["select '%s' as name, count(*) as rows, md5(coalesce(string_agg(t::text, chr(10) order by t::text), "
                 "'')) as hash from %s t" % item for item in relations.items() if not item[0].startswith(tuple(without))]
        return {row["name"]: (row["rows"], row["hash"]) for row in self.rows(" union all ".join(parts))}

    def dump(self):
        """Everything in every table, as text."""
        copies = ["copy (select t::text from %s t) to stdout;" % name for name in self.tables()]
        return self.text("\n".join(copies))


class Session:
    """A psql that stays connected and keeps its locks. A context manager; the end of the block rolls back."""

    def __init__(self, url):
        self._psql = subprocess.Popen([PSQL, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      env=clean_environment(), text=True)

    def execute(self, sql):
        """Runs a statement to completion; returns its output lines."""
        self._psql.stdin.write("%s\n\\echo -- done --\n" % sql)
        self._psql.stdin.flush()
        lines = []
        for line in self._psql.stdout:
            if line == "-- done --\n":
                return lines
            lines.append(line.rstrip("\n"))
        raise Failure("psql ended: %s\nstatement: %s" % (" ".join(lines), sql))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._psql.stdin.close()
        self._psql.stdout.read()
        self._psql.stdout.close()
        self._psql.wait(30)
