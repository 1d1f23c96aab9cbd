"""Databases for a single test."""

import contextlib
import uuid

from checks import equal


@contextlib.contextmanager
def scratch_database(bench, template="template0"):
    """A database for one test, empty or a copy of another one; dropped at the end."""
    name = "e2e_" + uuid.uuid4().hex[:12]
    # Without jit, as in deploy/lib/stack.
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
    """A scratch_database() with the content that fill(bench, database) created; its .made is the result of fill. fill
    runs once for each stack: its database is kept as a template, and dropped after the last test."""
    if fill not in bench.templates:
        template = bench.at_end.enter_context(scratch_database(bench))
        bench.templates[fill] = template.name, fill(bench, template)
    name, made = bench.templates[fill]
    with scratch_database(bench, name) as database:
        # acpctl migrate sets this for the role in the database; a copy of the database lacks it.
        bench.db.execute("alter role acp_report in database %s set search_path = acp_report, pg_catalog" % database.name)
        database.made = made
        yield database


def migrated_database(bench):
    """A database for one test, with the schema in it."""
    return copy_of(bench, migrated)
