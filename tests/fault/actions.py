"""The operator's own actions in a run, and their upstream, which is the receiver of webhooks as well."""

import json
import time

import attacks
from workload import APPROVED, QUANTITY_HTTP, QUANTITY_SQL

MAX_QUANTITY = 1000
BUSY = 0.2  # seconds until an answer, so that a kill finds some that wait for it
PATIENCE = 30  # seconds for which bad receivers keep a delivery, longer than the program waits
TIMEOUT = 4500  # ms: less than a reservation lasts here

FUNCTIONS = attacks.FUNCTIONS + """
create schema if not exists fault;
create or replace function fault.quantity(t uuid, p jsonb, c jsonb) returns jsonb language plpgsql as
$$ begin perform acp.report('{}', (p->>'n')::bigint); return '{}'; end $$;
grant usage on schema fault to acp_app;
grant execute on function fault.quantity(uuid, jsonb, jsonb) to acp_app;
"""


class Upstream(attacks.Upstream):
    """Also notes what reaches it. A context manager."""

    def __init__(self):
        self.approved = []  # (request id, params.name, moment) of each request of APPROVED
        self.delivered = []  # (webhook-id, body, moment) of each delivery to /good
        self._paths = {"/approved": self._approve, "/quantity": self._quantity, "/good": self._good,
                       "/drip": self._drip, "/endless": self._endless, "/silent": self._silent,
                       "/refuse": self._refuse}

    def serve(self, handler, body):
        self._paths.get(handler.path, super().serve)(handler, body)

    def _approve(self, handler, body):
        self.approved.append((handler.headers["X-Request-Id"], json.loads(body)["params"]["name"],
                              time.monotonic()))
        time.sleep(BUSY)
        self.reply(handler, b'{"data":{}}')

    def _quantity(self, handler, body):
        self.reply(handler, json.dumps({"data": {}, "quantity": json.loads(body)["params"]["n"]}).encode())

    # Receivers of webhooks

    def _good(self, handler, body):
        self.delivered.append((handler.headers["webhook-id"], body.decode(), time.monotonic()))
        time.sleep(BUSY)
        self.reply(handler, b"")

    def _drip(self, handler, _):
        """The body comes a byte at a time."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(PATIENCE))
        handler.end_headers()
        for _ in range(PATIENCE):
            handler.wfile.write(b"x")
            time.sleep(1)

    def _endless(self, handler, _):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        for _ in range(PATIENCE * 20):
            handler.wfile.write(b"x" * 1000)
            time.sleep(0.05)

    def _silent(self, handler, _):
        time.sleep(PATIENCE)
        handler.close_connection = True

    def _refuse(self, handler, _):
        self.reply(handler, b"", 500)

    def write_actions(self, folder):
        attacks.write_actions(folder, self, TIMEOUT)
        http = {"kind": "http", "allow_private": True, "allow_http": True, "timeout_ms": TIMEOUT}
        attacks.write_action(folder, APPROVED, {**http, "url": self.url + "/approved"})
        attacks.write_action(folder, QUANTITY_HTTP, {**http, "url": self.url + "/quantity"}, billing_unit="row",
                             max_quantity=MAX_QUANTITY)
        attacks.write_action(folder, QUANTITY_SQL, {"kind": "sql", "function": "fault.quantity"}, billing_unit="row",
                             max_quantity=MAX_QUANTITY)
