#!/usr/bin/env python3
"""Writes the results of the end-to-end tests, for each web server and mount, into a document.

  servers.py RESULTS…           rewrites the table from the files of pytest --results, one for each web server
  servers.py --check RESULTS…   compares them with the table; exit status 1 if they differ

The document: docs/servers.md or README.md, whichever has the table.

Each cell is the result of one test. A test that failed or did not run is never shown as a success.
"""

import argparse
import os
import re
import sys

sys.dont_write_bytecode = True  # leave the source tree unchanged

import test_mounts
from stack import SERVERS

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
DOCUMENTS = ["docs/servers.md", "README.md"]
BEGIN, END = "<!-- table: tests/e2e/servers.py writes it -->\n", "<!-- end of the table -->\n"
LINE = re.compile(r"^(ok|FAIL|skip) mounts\.(\w+?)(?: \(setup\)| \(teardown\))?(?: \([\d.]+ s\))?(?:: (.*))?$")


def results_of(path):
    """(server, {test: (verdict, observed outcome)}) of one file."""
    found, server = {}, None
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = LINE.match(line.rstrip("\n"))
            if match:
                found[match.group(2)] = (match.group(1), match.group(3))
            match = re.match(r"^suite e2e-([a-z-]+): ", line)
            server = match.group(1) if match else server
    if server not in SERVERS:
        raise SystemExit("%s: not the results of tests/e2e with one of: %s" % (path, ", ".join(SERVERS)))
    return server, found


def shown(result):
    if result is None:
        return "not run"
    verdict, found = result
    if verdict != "ok":
        return "**failed**" if verdict == "FAIL" else "skipped"
    return "yes, %s" % found if found else "yes"


def cell(results, feature):
    """One result if all mounts agree, as they should; otherwise one for each mount."""
    found = {mount: shown(results.get("%s_%s" % (name, feature.__name__))) for name, mount in test_mounts.MOUNTS.items()}
    if len(set(found.values())) == 1:
        return found.popitem()[1]
    return "; ".join("%s: %s" % item for item in found.items())


def table(results):
    servers = [server for server in SERVERS if server in results]
    lines = ["| at %s | %s |" % (", ".join("`%s`" % m for m in test_mounts.MOUNTS.values()), " | ".join(servers)),
             "|---|%s" % ("---|" * len(servers))]
    for feature in test_mounts.FEATURES:
        cells = [cell(results[server], feature) for server in servers]
        lines.append("| %s | %s |" % (feature.__doc__, " | ".join(cells)))
    return "\n".join(lines) + "\n"


def document():
    """(name, text) of the document that has the table."""
    for name in DOCUMENTS:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            text = file.read()
        if BEGIN in text:
            return name, text
    raise SystemExit("none of %s has the line %s" % (", ".join(DOCUMENTS), BEGIN.strip()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    parser.add_argument("outputs", nargs="+", metavar="RESULTS")
    options = parser.parse_args()
    results = dict(results_of(path) for path in options.outputs)
    name, text = document()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    fresh = text[:start] + table(results) + text[end:]
    if not options.check:
        with open(os.path.join(ROOT, name), "w", encoding="utf-8") as file:
            file.write(fresh)
    elif fresh != text:
        print("%s differs from these results; update it with: tests/e2e/servers.py RESULTS…" % name)
        was = set(text.splitlines())
        print("\n".join("+ " + line for line in fresh.splitlines() if line not in was))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
