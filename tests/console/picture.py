#!/usr/bin/env python3
"""Makes the picture of the console that README.md shows: a paid tenant's month, with the traffic of deploy/lib/traffic.
See run. The time is always the same, so that a new picture differs only if the console does, and in its keys."""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TRAFFIC = os.path.join(HERE, "..", "..", "deploy", "lib", "traffic")
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
sys.dont_write_bytecode = True

from checks import Failure, check
from stack import OwnStack, free_port

NOW = "2026-11-30T16:40:00Z"
LARGEST = 200 * 1024  # bytes: limit of the download for readers of README.md


def read_options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--picture", required=True)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    options.server, options.workers, options.stripe, options.examples = "lighttpd", None, True, True
    options.port = options.port or free_port()
    return options


def seed(stack, state):
    """Returns the key of a tenant with two months of traffic; the program's clock then shows NOW."""
    subprocess.run([TRAFFIC, "--url", stack.url, "--database-url", stack.database_url, "--state", state,
                    "--until", NOW, "--keep-clock"], stdin=subprocess.DEVNULL, check=True)
    with open(state, encoding="utf-8") as file:
        return json.load(file)["api_key"]


def take(options, stack, key):
    task = {"console": stack.url + "/console", "key": key, "now": NOW, "file": options.picture}
    subprocess.run(["node", os.path.join(options.dir, "npm", "picture.mjs")], input=json.dumps(task), text=True, check=True)
    size = os.path.getsize(options.picture)
    check(size <= LARGEST, "%s: %d bytes are too many" % (options.picture, size))
    print("%s: %d bytes" % (options.picture, size))


def main():
    options = read_options()
    stack = OwnStack(options)
    state = os.path.join(options.dir, "showcase.json")
    try:
        stack.purge()
        if os.path.exists(state):
            os.remove(state)
        stack.up()
        take(options, stack, seed(stack, state))
    except (Failure, subprocess.CalledProcessError) as error:
        print("FAIL %s" % error)
        return 1
    finally:
        stack.purge()
    return 0


if __name__ == "__main__":
    sys.exit(main())
