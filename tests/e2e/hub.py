"""The hub's endpoints as another kernel calls them."""

import os
import uuid

from checks import Skip

BASE = "/functions/v1/"


def kernel_key(bench):
    """The kernel key of the stack, which deploy/lib/stack creates."""
    given = os.environ.get("ACP_KERNEL_KEY") or bench.stack.config and configured(bench.stack)
    if not given:
        raise Skip("needs the kernel key (ACP_KERNEL_KEY)")
    return given


def configured(stack):
    path = stack.setting("kernel_key_file")
    if not path:
        return stack.setting("kernel_key")
    with open(path, encoding="utf-8") as file:
        return file.readline().strip()


class Hub:
    def __init__(self, bench):
        self.bench = bench
        self.key = kernel_key(bench)

    def post(self, name, body, headers=(), key=None):
        pairs = [("Authorization", "Bearer " + (key or self.key)), *dict(headers).items()]
        return self.bench.send("POST", BASE + name, body, pairs)

    def get(self, name, key=None):
        return self.bench.send("GET", BASE + name, headers=[("Authorization", "Bearer " + (key or self.key))])

    def authorize(self, tenant, action="domain.leadscoring.models.create", **more):
        return self.post("authorize", authorization(tenant, action, **more))


def authorization(tenant, action="domain.leadscoring.models.create", **more):
    """The body of a request for the decision about a call."""
    return {"tenant_id": tenant, "action": action, "request_hash": "0" * 64,
            "actor": {"type": "api_key", "id": str(uuid.uuid4())}, **more}


def event(tenant, ts, **more):
    """The event of a successful billable call of a free tenant in another kernel."""
    return {"event_id": str(uuid.uuid4()), "request_id": str(uuid.uuid4()), "ts": ts, "tenant_id": tenant,
            "integration": "e2e-kernel", "pack": "domain.leadscoring", "action": "domain.leadscoring.scores.compute",
            "actor": {"type": "api_key", "id": "ock_0123abcd", "api_key_id": str(uuid.uuid4())},
            "request_hash": "a" * 64, "status": "success", "latency_ms": 1.5, "ip_address": "192.0.2.7",
            "dry_run": False, "billable": True, "billing_unit": "row", "billing_quantity": 3, "tier": "free",
            "result_meta": {"resource_type": "score", "count": 3}, **more}
