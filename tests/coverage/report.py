#!/usr/bin/env python3
"""Reports which code of core/, fcgi/ and sql/*.c the tests ran, from the counters of a --coverage build (by gcovr).

  report.py --build DIR [--lines N] [--branches N]

Prints each file with its lines and branches, the lines that never ran, and two sums: of everything, and without lines
that were not fully run because no allocation failed (those with malloc, calloc, realloc, strdup, json_object_new_*,
acp_json_add*, acp_buf_ok or "out of memory"). Fails if the first sum is below the given percentages.
"""

import argparse
import json
import os
import re
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
MEMORY = re.compile(r"out of memory|acp_buf_ok\(|json_object_new_|\b[cm]alloc\(|\brealloc\(|\bstrdup\(|"
                    r"acp_json_add\w*\(")


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="build folder with objects and counters")
    parser.add_argument("--lines", type=float, default=90.0, help="required percentage")
    parser.add_argument("--branches", type=float, default=80.0, help="required percentage")
    return parser.parse_args()


def counters(build):
    out = os.path.join(build, "coverage.json")
    filters = [word for folder in ("core", "fcgi", "sql") for word in ("--filter", os.path.join(ROOT, folder, ""))]
    done = subprocess.run(["gcovr", "--root", ROOT, "--object-directory", build, *filters, "--json", out, build],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    if done.returncode:
        raise SystemExit("gcovr: exit %d: %s" % (done.returncode, done.stderr[-2000:]))
    with open(out, encoding="utf-8") as file:
        return json.load(file)["files"]


class Figures:
    """Numbers of lines and branches, and how many of them ran."""

    def __init__(self):
        self.lines = self.run = self.branches = self.taken = 0

    def add(self, line):
        self.lines += 1
        self.run += line["count"] > 0
        self.branches += len(line["branches"])
        self.taken += sum(branch["count"] > 0 for branch in line["branches"])

    def per_cent(self):
        return (100.0 * self.run / max(1, self.lines), 100.0 * self.taken / max(1, self.branches))

    def __str__(self):
        return "%5d lines %5.1f %%  %5d branches %5.1f %%" % (self.lines, self.per_cent()[0], self.branches,
                                                            self.per_cent()[1])


def only_memory(line, text):
    """True for a line that did not run fully because no allocation failed."""
    missed = line["count"] == 0 or any(branch["count"] == 0 for branch in line["branches"])
    return missed and MEMORY.search(text) is not None


def ranges(numbers):
    """[1, 2, 3, 7] -> "1-3 7"."""
    runs = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join("%d" % first if first == last else "%d-%d" % (first, last) for first, last in runs)


def add_file(file, everything, reachable):
    """Adds one file to both sums and prints its line."""
    own = Figures()
    with open(os.path.join(ROOT, file["file"]), encoding="utf-8") as source:
        text = source.read().split("\n")
    not_run = []
    for line in (line for line in file["lines"] if not line.get("gcovr/noncode")):
        own.add(line)
        everything.add(line)
        if not only_memory(line, text[line["line_number"] - 1]):
            reachable.add(line)
        if line["count"] == 0:
            not_run.append(line["line_number"])
    print("%-26s %s%s" % (file["file"], own, "  not run: " + ranges(not_run) if not_run else ""))


def main():
    options = read_options()
    everything, reachable = Figures(), Figures()
    files = [file for file in counters(os.path.abspath(options.build)) if file["file"].endswith(".c")]
    for file in sorted(files, key=lambda one: one["file"]):
        add_file(file, everything, reachable)
    print("%-26s %s" % ("everything", everything))
    print("%-26s %s" % ("without out-of-memory paths", reachable))
    failed = 0
    for what, got, wanted in zip(("lines", "branches"), everything.per_cent(), (options.lines, options.branches)):
        good = got >= wanted
        failed += not good
        print("%s %s: %.1f %% run, at least %g %% required" % ("ok" if good else "FAIL", what, got, wanted))
    print("suite coverage: %d passed, %d failed, 0 skipped" % (2 - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
