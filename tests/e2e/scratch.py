"""Databases for a single test."""

import contextlib
import uuid

from checks import equal


@contextlib.contextmanager
def scratch_database(bench, template="template0"):
    """A database of the test's own, empty or a copy of another one; dropped at the end."""
    name = "e2e_" + uuid.uuid4().hex[:12]
    # Without jit, as deploy/lib/stack does it.
    bench.db.execute("create database %s template %s; alter database %s set jit = off" % (name, template, name))
    try:
        yield bench.db.named(name)
    finally:
        bench.db.execute("drop database %s with (force)" % name)


def migrate(bench, database, **environment):
    return bench.stack.program("acpctl", "migrate", environment={"ACP_DATABASE_URL": database.url, **environment})


def migrated(bench, database):
    done = migrate(bench, database)
    equal(done.returncode, 0, "acpctl migrate: %s" % done.stderr)
    return done


@contextlib.contextmanager
def copy_of(bench, fill):
    """scratch_database() that fill(bench, database) has filled; what that returned is its .made. It is called once for
    each stack: the database is kept as a template, and dropped when the last test has run."""
    if fill not in bench.templates:
        template = bench.at_end.enter_context(scratch_database(bench))
        bench.templates[fill] = template.name, fill(bench, template)
    name, made = bench.templates[fill]
    with scratch_database(bench, name) as database:
        # What acpctl migrate sets for roles in the database, and a copy of it does not have.
        bench.db.execute("alter role acp_report in database %s set search_path = acp_report, pg_catalog" % database.name)
        database.made = made
        yield database


def migrated_database(bench):
    """A database of the test's own with the schema in it."""
    return copy_of(bench, migrated)
