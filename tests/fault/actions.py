"""The operator's own actions in a run, and their upstream, which is the receiver of webhooks as well."""

import json
import time

import attacks
from workload import APPROVED, QUANTITY_HTTP, QUANTITY_SQL

MAX_QUANTITY = 1000
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
        self.approved = []  # (request id, params.name) of each request of APPROVED
        self._paths = {"/approved": self._approve, "/quantity": self._quantity}

    def serve(self, handler, body):
        self._paths.get(handler.path, super().serve)(handler, body)

    def _approve(self, handler, body):
        self.approved.append((handler.headers["X-Request-Id"], json.loads(body)["params"]["name"]))
        time.sleep(0.2)  # so that a kill finds calls that wait for it
        self.reply(handler, b'{"data":{}}')

    def _quantity(self, handler, body):
        self.reply(handler, json.dumps({"data": {}, "quantity": json.loads(body)["params"]["n"]}).encode())

    def write_actions(self, folder):
        attacks.write_actions(folder, self, TIMEOUT)
        http = {"kind": "http", "allow_private": True, "allow_http": True, "timeout_ms": TIMEOUT}
        attacks.write_action(folder, APPROVED, {**http, "url": self.url + "/approved"})
        attacks.write_action(folder, QUANTITY_HTTP, {**http, "url": self.url + "/quantity"}, billing_unit="row",
                             max_quantity=MAX_QUANTITY)
        attacks.write_action(folder, QUANTITY_SQL, {"kind": "sql", "function": "fault.quantity"}, billing_unit="row",
                             max_quantity=MAX_QUANTITY)
