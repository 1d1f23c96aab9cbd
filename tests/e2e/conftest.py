"""End-to-end tests of acp-fcgi: real HTTP to a real web server, the real responder, a real PostgreSQL.

  pytest tests/e2e [-k NAME] [--server SERVER] [--prefix PREFIX] [--dir DIR] [--pooler]
  pytest tests/e2e [-k NAME] --url URL --database-url URL [--prefix PREFIX --config FILE]

The first form starts a stack (deploy/lib/stack), one for each worker of xdist (-n 2 --dist loadgroup), each with its
own PostgreSQL, folder and port. The second tests a stack that runs already; tests that restart or kill things are
skipped.

A test is a function test_NAME of a file test_AREA.py, known as AREA.NAME. It takes the Bench (client.py), states in its
docstring which promise it checks, and fails by raising. No test depends on another one. Each finds a running stack,
mounted at / and with the settings of deploy/lib/stack. The test's attribute "stack", or else its module's STACK,
changes that: it holds the arguments of Bench.arrange. A test creates everything else that it needs, and restores
whatever other tests would notice. After its last test, each worker runs the closing checks of its stack (account.py).
"""

import os
import random
import re
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import pytest

sys.dont_write_bytecode = True  # leave the source tree unchanged

import account
from checks import Failure, Skip, wait_for_midnight
from client import Bench
from stack import SERVERS, OutsideStack, OwnStack, free_port

BUILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build-check")


def pytest_addoption(parser):
    group = parser.getgroup("stack", "the stack under test")
    group.addoption("--server", choices=SERVERS, default="lighttpd", help="start it with this web server (lighttpd)")
    group.addoption("--prefix", help="where the programs are installed (default: build-check/stage, which "
                    "./deploy/check build creates)")
    group.addoption("--dir", help="scratch folder; logs stay there (default: build-check/run/e2e)")
    group.addoption("--workers", type=int, help="concurrent requests (default: as in deploy/lib/stack)")
    group.addoption("--pooler", action="store_true", help="put PgBouncer between the responder and PostgreSQL")
    group.addoption("--url", help="test the stack that answers at this URL")
    group.addoption("--database-url", help="its database, as superuser")
    group.addoption("--config", dest="acp_config", help="its acp.conf")
    group.addoption("--keep", action="store_true", help="leave the stack running")
    group.addoption("--order", default="", metavar="ORDER", help="order of the tests: reverse, or a number as the "
                    "seed of a random order")
    group.addoption("--results", metavar="FILE", help="also write a line for each test, and the totals, to this file")


def pytest_configure(config):
    check_options(config.option)
    signal.signal(signal.SIGTERM, stop)
    if not hasattr(config, "workerinput"):  # not in a worker of xdist: only the controller collects reports
        config.pluginmanager.register(Results(config), "acp-results")


def check_options(options):
    if options.url and not options.database_url:
        raise pytest.UsageError("--url needs --database-url")
    if options.url:
        return
    options.prefix = os.path.abspath(options.prefix or os.path.join(BUILD, "stage"))
    options.dir = os.path.abspath(options.dir or os.path.join(BUILD, "run", "e2e"))
    if not options.collectonly and not os.access(os.path.join(options.prefix, "sbin", "acp.fcgi"), os.X_OK):
        raise pytest.UsageError("%s: it has no sbin/acp.fcgi; run ./deploy/check build, or set --prefix" %
                                options.prefix)


def stop(number, _):
    """Raises, so that the stack is stopped before the process ends."""
    raise KeyboardInterrupt("ended by signal %d" % number)


# Selection, order and grouping of tests -------------------------------------------------------------------------------

NAME = re.compile(r"test_(\w+)\.py::test_(\w+)")


def name_of(nodeid):
    match = NAME.search(nodeid)
    return "%s.%s" % match.groups() if match else nodeid


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    for item in items:
        if not (item.function.__doc__ or "").strip():
            raise pytest.UsageError("%s has no docstring: which promise does it check?" % name_of(item.nodeid))
        item.extra_keyword_matches.add(name_of(item.nodeid))
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: LONG.index(area(item)) if area(item) in LONG else len(LONG))
    if config.option.order == "reverse":
        items.reverse()
    elif config.option.order:
        random.Random(config.option.order).shuffle(items)


# These run first, so that no worker is left with one of them after the others have finished.
LONG = ["failover", "billing", "proof", "late", "abuse", "mounts", "executor", "remote", "injection", "webhooks",
        "outbox", "durability", "pooler"]


def area(item):
    return item.module.__name__[len("test_"):]


def group_of(item):
    """The xdist group. Tests that share something slow to create (a mount, a template database) run on one worker."""
    wanted = arrangement(item)
    return item.module.__name__ + wanted.get("mount", "")


def arrangement(item):
    """The stack that the test needs: arguments of Bench.arrange."""
    return getattr(item.function, "stack", None) or getattr(item.module, "STACK", None) or {}


# The stack ------------------------------------------------------------------------------------------------------------

def own_stack(options, worker):
    place = os.path.join(options.dir, worker)
    stack = OwnStack(SimpleNamespace(server=options.server, prefix=options.prefix, dir=place, port=free_port(),
                                     workers=options.workers, pooler=options.pooler))
    if os.path.isdir(stack.dir):
        stack.purge()  # the files of an earlier run
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    return stack


def outside_stack(options):
    return OutsideStack(SimpleNamespace(url=options.url, database_url=options.database_url, prefix=options.prefix,
                                        config=options.acp_config))


@pytest.fixture(scope="session")
def worker_bench(request):
    """The Bench of this process. Its stack is stopped at the end of the session."""
    options = request.config.option
    worker = getattr(request.config, "workerinput", {}).get("workerid", "one")
    stack = outside_stack(options) if options.url else own_stack(options, worker)
    try:
        stack.up()
        bench = Bench(stack)
        bench.watch.start()
        yield bench
        bench.at_end.close()
        account.draw_up(bench)
    finally:
        if options.keep and stack.own:
            print("\nThe stack still runs at %s; to stop it: deploy/lib/stack down --purge --dir %s" %
                  (stack.url, stack.dir))
        else:
            stack.down()


@pytest.fixture
def bench(request, worker_bench):
    try:
        worker_bench.arrange(**arrangement(request.node))
    except Skip as reason:
        pytest.skip(str(reason))
    wait_for_midnight()
    worker_bench.begin()
    yield worker_bench
    if getattr(request.node, "has_failed", False) and worker_bench.stack.own:
        worker_bench.stack.disturbed()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs the test, then checks what must hold for every reply."""
    bench = pyfuncitem.funcargs["bench"]
    try:
        pyfuncitem.obj(bench)
        bench.check_invariants()
    except Skip as reason:
        pytest.skip(str(reason))
    if bench.outcome:
        pyfuncitem.user_properties.append(("outcome", bench.outcome))
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.has_failed = True
        bench = item.funcargs.get("bench")
        if bench and isinstance(call.excinfo.value, Failure) and "\nreply: " not in str(call.excinfo.value):
            report.sections.append(("last exchange", bench.last_exchange()))


# Results --------------------------------------------------------------------------------------------------------------

class Results:
    """Prints a line for each test, and the numbers of passed, failed and skipped tests."""

    def __init__(self, config):
        self._suite = "e2e-%s" % ("external" if config.option.url else config.option.server)
        self._counts = {"ok": 0, "FAIL": 0, "skip": 0}
        self._skipped = []
        self._began = time.monotonic()
        self._file = open(config.option.results, "w", encoding="utf-8") if config.option.results else None

    def _write(self, line):
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()

    def pytest_runtest_logreport(self, report):
        name, took = name_of(report.nodeid), " (%.2f s)" % report.duration
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            line = "skip %s: %s" % (name, re.sub("^Skipped: ", "", reason))
            self._skipped.append(line)
        elif report.failed:
            line = "FAIL %s%s%s" % (name, "" if report.when == "call" else " (%s)" % report.when, took)
        elif report.when == "call":
            found = dict(report.user_properties).get("outcome")
            line = "ok %s%s%s" % (name, took, ": %s" % found if found else "")
        else:
            return
        self._counts[line.split()[0]] += 1
        self._write(line)
        if report.failed:
            self._write("\n".join("     " + text for text in report.longreprtext.splitlines()))

    def pytest_terminal_summary(self, terminalreporter):
        line = "suite %s: %d passed, %d failed, %d skipped" % (self._suite, *self._counts.values())
        self._write(line)
        for text in (*self._skipped, "%.0f s" % (time.monotonic() - self._began), line):
            terminalreporter.write_line(text)
