"""What one tenant, or strangers, do to the others: each attack is a list of requests that many connections repeat."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_UPSTREAM, SLOW_SQL, SLOW_RECEIVER = 4, 2.5, 14  # seconds
LARGE = {"/large": 1 << 20, "/larger": 8 << 20}  # bytes of replies

FUNCTIONS = """
create schema if not exists fair;
create or replace function fair.sleep(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as
$$ begin perform pg_sleep(%g); return '{}'; end $$;
grant usage on schema fair to acp_app;
grant execute on function fair.sleep(uuid, jsonb, jsonb) to acp_app;
""" % SLOW_SQL


class Upstream:
    """The upstream of the http actions, and the receiver of webhooks; a context manager. /slow answers late, /large and
    /larger with much, /late after the time limit of a delivery; /webhook/N notes when a delivery arrived."""

    def __enter__(self):
        upstream = self
        self.arrived = {}  # by the path: times

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                try:
                    upstream.serve(self, self.rfile.read(int(self.headers["Content-Length"])))
                except OSError:
                    pass  # the client did not wait

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler, _):
        """Answers one request, with this body."""
        self.arrived.setdefault(handler.path, []).append(time.monotonic())
        time.sleep({"/slow": SLOW_UPSTREAM, "/late": SLOW_RECEIVER}.get(handler.path, 0))
        self.reply(handler, b'{"data":"%s"}' % (b"x" * LARGE.get(handler.path, 1)))

    def reply(self, handler, body, status=200):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def write_actions(folder, upstream, timeout_ms=8000):
    """The operator's actions that the attacks call."""
    http = {"kind": "http", "allow_private": True, "allow_http": True, "timeout_ms": timeout_ms}
    handlers = {"fair.slow": {**http, "url": upstream.url + "/slow"},
                "fair.large": {**http, "url": upstream.url + "/large", "max_reply_bytes": 16777216},
                "fair.larger": {**http, "url": upstream.url + "/larger", "max_reply_bytes": 16777216},
                "fair.sleep": {"kind": "sql", "function": "fair.sleep"}}
    for name, handler in handlers.items():
        write_action(folder, name, handler, billable=False)


def write_action(folder, name, handler, **members):
    document = {"name": name, "scope": "manage.domain", "description": "For tests.",
                "params_schema": {"type": "object"}, "handler": handler, **members}
    with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
        json.dump(document, file)


def program(name, plan):
    """Starts a program of this folder."""
    process = subprocess.Popen([sys.executable, "-B", os.path.join(os.path.dirname(os.path.abspath(__file__)), name)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps(plan) + "\n")
    process.stdin.flush()
    return process


def call(key, action, params=None, **members):
    return {"method": "POST", "path": "/api/manage", "key": key,
            "body": {"action": action, "params": params or {}, **members}}


SCORE = ("domain.leadscoring.scores.compute", {"weights": {"v": 1}, "leads": [{"id": "a", "features": {"v": 1}}]})
LARGE_SCORE = ("domain.leadscoring.scores.compute", {"weights": {"v": 1}, "leads": [
    {"id": "lead-%d" % n, "features": {"feature-%d" % m: 0.125 for m in range(90)}} for n in range(100)]})


class Attack:
    """requests: made from the Setting of the run. prepare: called before, with it. whole: why only the whole run has
    it."""

    def __init__(self, name, connections, requests, prepare=None, pause=0.05, whole=None):
        self.name, self.connections, self.requests, self.prepare, self.pause = name, connections, requests, prepare, pause
        self.whole = whole


def slow_webhooks(setting):
    hook = setting.webhook(setting.attacker, "/late")
    return [call(setting.attacker, "webhooks.test", {"webhook_id": hook})]


def require_approval(setting):
    policy = {"name": "fair", "action": "settings.update", "decision": "require_approval", "priority": 10}
    setting.stack.ctl("policy", "add", json.dumps(policy), "--tenant", setting.attacker_id)


def fill_team(setting):
    """As many members as one page of requests makes; what is beyond the ceiling is refused."""
    for n in range(200):
        setting.client.call(setting.attacker, "iam.team.invite", {"email": "m%d@example.com" % n, "role": "viewer"})


def onboarding(setting):
    return [{"method": "POST", "path": "/api/onboard/leadscoring",
             "body": {"agent_id": "fair-%d-%%UNIQUE%%" % time.time_ns(), "email": "fair@example.com"}}]


def slow_stripe(setting):
    setting.stripe({"slow": {"path": "/v1/customers", "seconds": 3, "times": -1}})


SIMILAR = "%s show the kind"

ATTACKS = [
    Attack("slow upstream", 160, lambda s: [call(s.attacker, "fair.slow")]),
    Attack("slow upstream, few", 48, lambda s: [call(s.attacker, "fair.slow")], whole=SIMILAR % "more connections"),
    Attack("slow SQL", 24, lambda s: [call(s.attacker, "fair.sleep")], whole=SIMILAR % "more connections"),
    Attack("slow SQL, many", 160, lambda s: [call(s.attacker, "fair.sleep")]),
    Attack("slow receiver", 4, slow_webhooks),
    Attack("slow Stripe", 48, onboarding, slow_stripe),
    Attack("usage and invoice", 32, lambda s: [
        {"method": "GET", "path": path, "key": s.attacker} for path in ("/api/usage", "/api/billing/invoice")]),
    Attack("large replies", 96, lambda s: [call(s.attacker, "fair.large")]),
    Attack("larger replies", 96, lambda s: [call(s.attacker, "fair.larger")], whole=SIMILAR % "large replies"),
    Attack("large bodies", 64, lambda s: [call(s.attacker, *LARGE_SCORE)]),
    Attack("large bodies of strangers", 64, lambda s: [call("ock_" + "0" * 36, *LARGE_SCORE)],
           whole=SIMILAR % "large bodies"),
    Attack("refused by the quota", 64, lambda s: [call(s.exhausted, *SCORE)],
           whole=SIMILAR % "calls refused by an approval"),
    Attack("refused by an approval", 64, lambda s: [
        call(s.attacker, "settings.update", {"settings": {"metadata": {"n": "%UNIQUE%"}}})], require_approval),
    Attack("stored replies", 16, lambda s: [
        call(s.attacker, "iam.team.list", idempotency_key="fair-%d-%%UNIQUE%%" % time.time_ns())], fill_team),
    Attack("wrong keys", 64, lambda s: [call("ock_" + "0" * 36, "meta.version")]),
    Attack("flood", 64, lambda s: [call(s.attacker, "meta.version")], pause=0, whole=SIMILAR % "paid calls"),
    Attack("flood of paid calls", 64, lambda s: [call(s.paying, *SCORE)], pause=0),
]
