"""The console without a browser (tests/console has one): the page, its policy, and requests that only it makes."""

import re

from client import SCORE, refused, succeeded
from checks import check, equal


def test_page(bench):
    """The page and its parts have the right types and load nothing from elsewhere. The parts may be cached, the page
    must be revalidated."""
    page = bench.http.request("GET", "/console", None, [])
    equal((page.status, page.header("Content-Type"), page.header("Cache-Control")),
          (200, "text/html; charset=utf-8", "no-cache"), "the page")
    policy = page.header("Content-Security-Policy")
    check(policy.startswith("default-src 'none';") and "unsafe" not in policy, policy)
    text = page.body.decode()
    check("@VERSION@" not in text and "style=" not in text and not re.search(r"<script(?! defer src)", text), text)
    parts = re.findall(r'(?:src|href)="(console/[a-z]+\.(?:js|css)\?v=\d+)"', text)
    equal(len(parts), 4, "parts")
    for part in parts:
        reply = bench.http.request("GET", "/" + part, None, [])
        kind = "text/css" if ".css" in part else "text/javascript"
        equal((reply.status, reply.header("Content-Type")), (200, kind + "; charset=utf-8"), part)
        check("immutable" in reply.header("Cache-Control"), reply.header("Cache-Control"))
    refused(bench.get("/console/"), 404, "NOT_FOUND")
    refused(bench.send("POST", "/console", "{}"), 405, "METHOD_NOT_ALLOWED")


def test_activity(bench):
    """meta.activity returns only the tenant's own data: its calls by outcome, its failures, when its keys were used."""
    tenant, other = bench.onboard(), bench.onboard()
    succeeded(bench.score(tenant.key))
    wrong = refused(bench.call(tenant.key, SCORE, {"weights": 1}), 400, "VALIDATION_ERROR")
    refused(bench.call(other.key, "no.such.action"), 404, "NOT_FOUND")
    data = succeeded(bench.call(tenant.key, "meta.activity")).data
    equal([(day["success"], day["error"], day["denied"]) for day in data["by_day"]], [(1, 1, 0)], "by day")
    equal([(row["action"], row["success"], row["error"]) for row in data["by_action"]], [(SCORE, 1, 1)], "by action")
    equal([row["request_id"] for row in data["failures"]], [wrong.request_id], "failures")
    equal([row["api_key_id"] for row in data["keys"]], [tenant.reply.json["api_key_id"]], "keys used")
    equal(data["looked_at"]["all"], True, "all")
    before = bench.usage(tenant.key)["calls_used"]
    succeeded(bench.call(tenant.key, "meta.activity", {"period": "2001-01", "limit": 1}))
    equal(bench.usage(tenant.key)["calls_used"], before, "it is not billed")
    for wrong in ("2001-13", "2001-1", "2001-01-01", "0000-01", "last"):
        reply = bench.call(tenant.key, "meta.activity", {"period": wrong})
        refused(reply, 400, "VALIDATION_ERROR", "/params/period")
        check("a month such as" in reply.json["error"], reply.json["error"])


def test_scopes(bench):
    """GET /api/usage returns the key's scopes, so that the console sends no request whose refusal would be audited."""
    tenant = bench.onboard()
    for scopes in ("manage.read", "manage.domain manage.webhooks"):
        key, _ = bench.make_key(tenant, scopes)
        equal(sorted(bench.usage(key)["scopes"]), scopes.split(), "scopes")


def test_no_invoice(bench):
    """A month before the tenant existed has no invoice, even if there are no prices for it. This month has a
    preview."""
    tenant = bench.onboard()
    for period in ("1999-01", "2001-12"):
        invoice = succeeded(bench.get("/api/billing/invoice?period=" + period, tenant.key)).json
        charges = invoice["charges"]
        equal((invoice["status"], charges["lines"], charges["total_charge"]), ("none", [], 0), period)
    equal(succeeded(bench.get("/api/billing/invoice", tenant.key)).json["status"], "open", "this month")


def test_operator(bench):
    """acpctl console prints a link that opens one session. Without a session the operator's view shows nothing."""
    bench.stack.need_programs()
    bench.onboard()  # so that there is something to see
    link = bench.stack.ctl("console").stdout.strip()
    check(re.fullmatch(r"https?://\S+/console#operator=[0-9a-f]{64}", link), link)
    token = link.rpartition("=")[2]
    path, data = "/console/operator/session", "/console/operator/data"

    def open_it(credential):
        return bench.send("POST", path, "", {"Authorization": "Bearer " + credential})

    refused(bench.get(data, headers={"Authorization": "Bearer " + token}), 401, "INVALID_API_KEY")
    refused(open_it("0" * 64), 401, "INVALID_API_KEY")
    refused(open_it("x"), 401, "INVALID_API_KEY")
    session = succeeded(open_it(token)).json["session"]
    refused(open_it(token), 401, "INVALID_API_KEY")
    head = {"Authorization": "Bearer " + session}
    seen = succeeded(bench.get(data, headers=head)).json
    check(seen["funnel"]["tenants"] > 0 and seen["journal"]["bad_files"] == 0, seen)
    refused(bench.get(data + "?period=2026-13", headers=head), 400, "VALIDATION_ERROR", "/period")
    refused(bench.get(data), 401, "INVALID_API_KEY")
    refused(bench.get(data, bench.onboard().key), 401, "INVALID_API_KEY")
    stored = bench.db.value("select count(*) from acp.console_access where encode(hash, 'hex') in (:'a', :'b')",
                            a=token, b=session)
    equal(stored, 0, "tokens stored in clear")
    if bench.stack.log:
        with open(bench.stack.log, encoding="utf-8") as file:
            text = file.read()
        check(token not in text and session not in text, "a token is in the log")
