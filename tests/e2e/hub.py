"""The hub's endpoints as another kernel calls them."""

import os
import tempfile
import uuid

from harness import Skip

BASE = "/functions/v1/"
KEY = "e2e-kernel-key-" + "0123456789abcdef" * 3


def ready(bench):
    """The stack with a kernel key, and that key. A stack of our own is started again with one where it has none."""
    if getattr(bench, "kernel_key", None):
        return bench.kernel_key
    given = os.environ.get("ACP_KERNEL_KEY") or bench.stack.config and configured(bench.stack)
    if not given and not bench.stack.own:
        raise Skip("needs the kernel key (ACP_KERNEL_KEY)")
    if not given:
        with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="acp-e2e-") as file:
            file.write("kernel_key = %s\n" % KEY)
            file.flush()
            bench.stack.up(conf=file.name)
    bench.kernel_key = given or KEY
    return bench.kernel_key


def configured(stack):
    path = stack.setting("kernel_key_file")
    if not path:
        return stack.setting("kernel_key")
    with open(path, encoding="utf-8") as file:
        return file.readline().strip()


class Hub:
    def __init__(self, bench):
        self.bench = bench
        self.key = ready(bench)

    def post(self, name, body, headers=(), key=None):
        pairs = [("Authorization", "Bearer " + (key or self.key)), *dict(headers).items()]
        return self.bench.send("POST", BASE + name, body, pairs)

    def get(self, name, key=None):
        return self.bench.send("GET", BASE + name, headers=[("Authorization", "Bearer " + (key or self.key))])

    def authorize(self, tenant, action="domain.leadscoring.models.create", **more):
        body = {"tenant_id": tenant, "action": action, "request_hash": "0" * 64,
                "actor": {"type": "api_key", "id": str(uuid.uuid4())}, **more}
        return self.post("authorize", body)


def event(tenant, ts, **more):
    """A billable success of a free tenant, in some other kernel."""
    return {"event_id": str(uuid.uuid4()), "request_id": str(uuid.uuid4()), "ts": ts, "tenant_id": tenant,
            "integration": "e2e-kernel", "pack": "domain.leadscoring", "action": "domain.leadscoring.scores.compute",
            "actor": {"type": "api_key", "id": "ock_0123abcd", "api_key_id": str(uuid.uuid4())},
            "request_hash": "a" * 64, "status": "success", "latency_ms": 1.5, "ip_address": "192.0.2.7",
            "dry_run": False, "billable": True, "billing_unit": "row", "billing_quantity": 3, "tier": "free",
            "result_meta": {"resource_type": "score", "count": 3}, **more}
