#!/usr/bin/env python3
"""Prepares an installation with tenants in every state, and runs browser.mjs on its console; see run."""

import argparse
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
sys.dont_write_bytecode = True

from client import Bench, SCORE, SCORE_PARAMS
from checks import Failure, check
from payments import payments
from stack import OwnStack, free_port
from test_usage import clock_shifted

# Mounted below a prefix: the page must find all its resources from there.
PREFIX = "/acp"
MANAGE = PREFIX + "/api/manage"
# No limit is reached, however often a step runs.
SETTINGS = {"url_prefix": PREFIX, "rate_limits": "off", "ceiling_keys": "100000", "webhook_allow_http": "on",
            "webhook_allow_private": "on"}
DAYS_AGO = (16, 13, 12, 9, 8, 7, 5, 2, 1)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--shots", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    options.server, options.workers = "lighttpd", None
    options.port = options.port or free_port()
    return options


def call(pay, tenant, action, params):
    return pay.send("POST", MANAGE, {"action": action, "params": params}, tenant["api_key"])


def onboard(pay, agent):
    status, reply = pay.send("POST", PREFIX + "/api/onboard/leadscoring",
                             {"agent_id": agent, "email": "ops@example.com"})
    check(status == 201, "onboarding: %d %s" % (status, reply))
    return reply


def score(pay, tenant, count):
    for _ in range(count):
        status, reply = call(pay, tenant, SCORE, SCORE_PARAMS)
        check(status in (200, 402), "a call: %d %s" % (status, reply))


def fail_and_be_refused(pay, tenant):
    """Makes one call of each kind that the console lists."""
    call(pay, tenant, "domain.leadscoring.models.create", {"name": "m", "model_type": "no such type"})
    call(pay, tenant, "domain.leadscoring.scores.compute", {"weights": {}, "leads": "none"})
    call(pay, tenant, "iam.keys.revoke", {"api_key_id": "00000000-0000-0000-0000-000000000001"})
    call(pay, tenant, "no.such.action", {})


def use_beyond_rights(pay, tenant):
    """A read-only second key tries calls beyond its scopes."""
    status, made = call(pay, tenant, "iam.keys.create", {"name": "dashboard", "scopes": ["manage.read"],
                                                          "expires_at": "2099-12-31T23:59:59Z"})
    check(status == 200, "a key: %d %s" % (status, made))
    for _ in range(2):
        call(pay, made["data"], SCORE, SCORE_PARAMS)


def make_paid(bench):
    """Creates a tenant with a history: paid calls on several days."""
    tenant = None
    for number, days in enumerate(DAYS_AGO):
        with clock_shifted(bench, "-%d days" % days), payments(bench, **SETTINGS) as pay:
            if not tenant:
                tenant = onboard(pay, "paid-agent")
                bench.stack.ctl("tenant", "update", tenant["tenant_uuid"], "--tier", "paid",
                                "--payment-method", "active")
            score(pay, tenant, 5 + 7 * (number % 4))
            call(pay, tenant, "domain.leadscoring.models.create", {"name": "m%d" % number, "model_type": "linear"})
            if number % 3 == 1:
                fail_and_be_refused(pay, tenant)
    return tenant


def prepare(bench, pay, paid):
    """Returns tenants by state."""
    tenants = {name: onboard(pay, name + "-agent") for name in ("free", "near", "refused")}
    tenants["paid"] = paid
    for tenant in tenants.values():
        fail_and_be_refused(pay, tenant)
        use_beyond_rights(pay, tenant)
    for name, count in (("free", 12), ("near", 93), ("refused", 103), ("paid", 40)):
        score(pay, tenants[name], count)
    key, _ = bench.make_key(type("", (), {"id": tenants["free"]["tenant_uuid"]}), "manage.read")
    tenants["reader"] = {"api_key": key, "tenant_uuid": tenants["free"]["tenant_uuid"]}
    key, _ = bench.make_key(type("", (), {"id": tenants["free"]["tenant_uuid"]}), "manage.domain")
    tenants["worker"] = {"api_key": key, "tenant_uuid": tenants["free"]["tenant_uuid"]}
    return tenants


def operator_link(bench):
    """Returns the link that acpctl console prints."""
    done = bench.stack.program("acpctl", "console")
    found = re.search(r"https?://\S+", done.stdout)
    check(found, "acpctl console: %s%s" % (done.stdout, done.stderr))
    return found.group(0)


def browse(options, bench, pay, tenants):
    """Returns the numbers of passed and failed steps."""
    counts = {"ok": 0, "FAIL": 0}
    task = {"console": pay.url + PREFIX + "/console", "shots": options.shots, "tenants": tenants,
            "only": options.only, "times": options.times,
            "operator": operator_link(bench).rpartition("#operator=")[2]}
    node = subprocess.Popen(["node", os.path.join(options.dir, "npm", "browser.mjs")], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    node.stdin.write(json.dumps(task))
    node.stdin.close()
    for line in node.stdout:
        print(line, end="", flush=True)
        word = line.split(" ", 1)[0].strip()
        if word in counts:
            counts[word] += 1
    if node.wait() != 0 and not counts["FAIL"]:
        counts["FAIL"] += 1
        print("FAIL browser.mjs ended with %d" % node.returncode)
    return counts["ok"], counts["FAIL"]


def main():
    options = read_options()
    stack = OwnStack(options)
    passed, failed = 0, 0
    try:
        stack.purge()
        # Any responder of the stack may send a webhook, so its own configuration must allow that, too.
        conf = os.path.join(options.dir, "webhooks.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write("webhook_allow_http = on\nwebhook_allow_private = on\n")
        stack.up(conf)
        bench = Bench(stack)
        paid = make_paid(bench)
        with payments(bench, **SETTINGS) as pay:
            passed, failed = browse(options, bench, pay, prepare(bench, pay, paid))
    except Failure as error:
        print("FAIL start\n%s" % error)
        failed += 1
    finally:
        stack.down()
    print("suite console: %d passed, %d failed, 0 skipped" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
