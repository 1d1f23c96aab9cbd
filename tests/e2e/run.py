#!/usr/bin/env python3
"""End-to-end tests of acp-fcgi: real HTTP to a real web server, the real responder, a real PostgreSQL.

  run.py --server SERVER --prefix PREFIX --dir DIR [--port N] [--workers N] [--pooler]
  run.py --url URL --database-url URL [--prefix PREFIX --config FILE]

PREFIX is where make install put the programs. The second form tests a stack that runs already; tests that restart
or kill things are skipped there. Exit status 0: nothing failed.
"""

import argparse
import importlib
import signal
import socket
import sys
import time

sys.dont_write_bytecode = True  # the sources stay as they are

from client import Bench
from harness import Failure, run_one, tests_of
from stack import SERVERS, OutsideStack, OwnStack

# What disturbs the others stands last; the account is drawn up at the very end.
AREAS = ["onboarding", "router", "authentication", "usage", "idempotency", "limits", "iam", "policy", "isolation",
         "malformed", "records", "injection", "abuse", "openapi", "agents", "console", "metrics", "hub", "actions_dir",
         "webhooks", "executor", "outbox", "billing", "upgrade", "stripe_events", "remote",
         "roles", "operator", "journal", "proof", "erase", "late", "instant",
         "hosts", "mounts", "rolling", "life", "durability", "pooler", "failover",
         "secrets", "account"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=SERVERS, help="start a stack with this web server")
    parser.add_argument("--prefix", help="where the programs are installed")
    parser.add_argument("--dir", help="scratch folder; logs stay there")
    parser.add_argument("--port", type=int, help="on 127.0.0.1; default: one that is free")
    parser.add_argument("--workers", type=int, help="requests at a time; default: that of deploy/lib/stack")
    parser.add_argument("--pooler", action="store_true", help="with PgBouncer between the responder and PostgreSQL")
    parser.add_argument("--url", help="test the stack that answers there")
    parser.add_argument("--database-url", help="its database, as superuser")
    parser.add_argument("--config", help="its acp.conf")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="only tests whose name begins so")
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    parser.add_argument("--list", action="store_true", help="list the tests and what they check")
    options = parser.parse_args()
    if not options.list:
        check_options(parser, options)
    return options


def check_options(parser, options):
    if bool(options.server) == bool(options.url):
        parser.error("give either --server or --url")
    if options.server and not (options.prefix and options.dir):
        parser.error("--server needs --prefix and --dir")
    if options.url and not options.database_url:
        parser.error("--url needs --database-url")
    options.port = options.port or free_port()


def wanted_tests(only):
    every = [test for area in AREAS for test in tests_of(importlib.import_module("test_" + area))]
    for prefix in only:
        if not any(name.startswith(prefix) for name, _ in every):
            raise SystemExit("--only %s: there is no such test; --list shows them" % prefix)
    return [(name, function) for name, function in every if not only or name.startswith(tuple(only))]


def list_tests(tests):
    for name, function in tests:
        print("%s\n    %s" % (name, " ".join(function.__doc__.split())))


def stop_on_signal(number, _):
    raise SystemExit("ended by signal %d" % number)


def run_all(tests, stack, keep):
    """Returns how many passed, failed and were skipped."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    try:
        stack.up()
        bench = Bench(stack)
        for name, function in tests:
            counts[run_one(name, function, bench)] += 1
    except Failure as error:
        print("FAIL start\n%s" % error)
        counts["failed"] += 1
    finally:
        if not keep:
            stack.down()
    return counts


def main():
    options = read_options()
    tests = wanted_tests(options.only)
    if options.list:
        list_tests(tests)
        return 0
    signal.signal(signal.SIGTERM, stop_on_signal)
    stack = OutsideStack(options) if options.url else OwnStack(options)
    start = time.monotonic()
    counts = run_all(tests, stack, options.keep)
    print("%.0f s; logs: %s" % (time.monotonic() - start, getattr(stack, "logs", "of the stack given")))
    print("suite e2e-%s: %d passed, %d failed, %d skipped" %
          (stack.server, counts["passed"], counts["failed"], counts["skipped"]))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
