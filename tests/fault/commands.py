"""Code shared by the commands: options, and a private stack."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile

from checks import Failure
from stack import OwnStack, free_port, stop_on_signal

REPO = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
STAGE = os.path.join(REPO, "build-check", "stage")


def parser(description):
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=1, help="same seed, same choices (default 1)")
    made.add_argument("--prefix", default=STAGE, help="prefix of make install (default: the build of deploy/check)")
    made.add_argument("--dir", help="scratch folder, kept after the run (default: a new one, removed on success)")
    made.add_argument("--port", type=int, help="on 127.0.0.1 (default: a free one)")
    made.add_argument("--workers", type=int, help="concurrent requests (default: that of deploy/lib/stack)")
    return made


def parsed(made):
    options = made.parse_args()
    if not os.access(os.path.join(options.prefix, "sbin", "acp.fcgi"), os.X_OK):
        made.error("%s has no sbin/acp.fcgi; give --prefix, or run deploy/check build" % options.prefix)
    options.port = options.port or free_port()
    options.failed = True  # until there is a verdict
    options.own_dir = not options.dir
    options.dir = options.dir or tempfile.mkdtemp(prefix="acp-fault-")
    return options


@contextlib.contextmanager
def bare_stack(options):
    """Yields a stack that is down; the caller starts it. A temporary folder is removed unless something failed."""
    signal.signal(signal.SIGTERM, stop_on_signal)
    stack = OwnStack(options)
    try:
        yield stack
    finally:
        stack.down()
        tidy(stack, options)


@contextlib.contextmanager
def own_stack(options, settings=None):
    """Yields a running stack."""
    with bare_stack(options) as stack:
        stack.up(conf=settings.name if settings else None)
        yield stack


def tidy(stack, options):
    if options.failed or not options.own_dir:
        print("logs and database: %s" % stack.dir)
        return
    stack.purge()
    shutil.rmtree(options.dir, ignore_errors=True)


def main(work):
    """Runs the command. Exit status 0, or 1 for violations or an aborted run."""
    sys.stdout.reconfigure(line_buffering=True)
    try:
        sys.exit(work())
    except Failure as error:
        sys.exit("FAIL %s" % error)
