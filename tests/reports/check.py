#!/usr/bin/env python3
"""Tests the documented queries: those of docs/reporting.md must give the output shown there over the rows of data.sql,
and those of the Grafana dashboard must run. All run as acp_report, which can only read the views.

  check.py --database-url URL [--write]

URL: a migrated, otherwise unused database, as superuser; data.sql is loaded into it. --write writes the actual output
into docs/reporting.md instead of comparing. The last line is "suite reports: P passed, F failed, S skipped".
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.join(HERE, "..", "..")
DOCUMENT = os.path.join(TOP, "docs", "reporting.md")
DASHBOARD = os.path.join(TOP, "deploy", "grafana", "acp-dashboard.json")
BLOCK = re.compile(r"```sql\n(.*?)```\n\n```text\n(.*?)```\n", re.S)
# Replacements for Grafana's macros and variables: the days of data.sql.
GRAFANA = [(r"\$__timeFilter\(([^)]*)\)", r"\1 BETWEEN '2026-02-01T00:00:00Z' AND '2026-03-31T23:59:59Z'"),
           (r"\$__timeFrom\(\)", "'2026-02-01T00:00:00Z'"), (r"\$__timeTo\(\)", "'2026-03-31T23:59:59Z'"),
           (r"\$\{?agent(:sqlstring)?\}?", "'crm-bot'")]


def psql(url, statements, *options):
    """Output and error text of psql."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment["PGTZ"] = "UTC"
    done = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, "-d", url], input=statements,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=120)
    return done.stdout if done.returncode == 0 else None, done.stderr


def output_of(url, query):
    """Returns the output of psql for a login as acp_report; on failure None and the message."""
    login = "SET SESSION AUTHORIZATION acp_report;\nSET search_path = acp_report, pg_catalog;\n"
    shown, error = psql(url, login + query)
    if shown is None:
        return None, error
    return "\n".join(line.rstrip() for line in shown.strip("\n").splitlines()) + "\n", ""


def document_queries():
    with open(DOCUMENT, encoding="utf-8") as file:
        text = file.read()
    blocks = [(match.group(1), match.group(2)) for match in BLOCK.finditer(text)]
    count = text.count("```sql\n")
    if len(blocks) != count:
        raise SystemExit("docs/reporting.md: %d queries, but only %d are followed by a block of text" %
                         (count, len(blocks)))
    return blocks


def check_document(url):
    failed = 0
    blocks = document_queries()
    for query, wanted in blocks:
        found, error = output_of(url, query)
        if found == wanted:
            continue
        failed += 1
        print("FAIL docs/reporting.md: %s" % query.strip())
        print(error or "".join(difflib.unified_diff(wanted.splitlines(True), found.splitlines(True), "shown", "found")))
    return len(blocks) - failed, failed


def write_document(url):
    with open(DOCUMENT, encoding="utf-8") as file:
        text = file.read()

    def filled(match):
        found, error = output_of(url, match.group(1))
        if found is None:
            raise SystemExit("%s\n%s" % (match.group(1), error))
        return "```sql\n%s```\n\n```text\n%s```\n" % (match.group(1), found)
    with open(DOCUMENT, "w", encoding="utf-8") as file:
        file.write(BLOCK.sub(filled, text))


def dashboard_queries():
    """(title of the panel, query)."""
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["rawSql"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield "variable " + variable["name"], variable["query"]


def check_dashboard(url):
    passed = failed = 0
    for title, query in dashboard_queries():
        for macro, text in GRAFANA:
            query = re.sub(macro, text, query)
        found, error = output_of(url, query)
        # Every panel of the dashboard shows something for these rows, except panels where no rows is the good result.
        rows = found is not None and not found.rstrip().endswith("(0 rows)")
        if "$" in query or found is None or not (rows or "drift" in query):
            failed += 1
            print("FAIL dashboard, %s: %s\n%s" % (title, query, error or found))
        else:
            passed += 1
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with open(os.path.join(HERE, "data.sql"), encoding="utf-8") as file:
        shown, error = psql(options.database_url, "BEGIN;\n%s\nCOMMIT;\n" % file.read())
    if shown is None:
        raise SystemExit("data.sql: %s" % error)
    if options.write:
        write_document(options.database_url)
    results = [check_document(options.database_url), check_dashboard(options.database_url)]
    print("suite reports: %d passed, %d failed, 0 skipped" % tuple(sum(column) for column in zip(*results)))
    return 1 if any(failed for _, failed in results) else 0


if __name__ == "__main__":
    sys.exit(main())
