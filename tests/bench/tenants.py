"""Tenants for the load: onboarded like agents, half of them paid, with their keys in files for the load generator."""

import http.client
import json
import os

from checks import check, spread

TENANTS = 1000  # per tier


def ask(url, method, path, body=None, key=None):
    """Makes one request; returns status and JSON of the reply."""
    connection = http.client.HTTPConnection(url.partition("//")[2], timeout=30)
    headers = {"Content-Type": "application/json"} if body else {}
    if key:
        headers["X-API-Key"] = key
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


class Tenants:
    """The tenants of one installation. Writes GROUP.keys in the folder: paid and free, one-paid and one-free (only the
    first)."""

    def __init__(self, url, database, folder):
        self._url = url
        self.folder = folder
        keys = spread(8, range(2 * TENANTS), self._onboard)
        # A limit that no benchmark reaches.
        database.execute("select acp.tenant_update(tenant_id, 'paid', 'active', null, null) from acp.tenants "
                         "where agent_id like 'bench-paid-%'; "
                         "select acp.tenant_update(tenant_id, null, null, null, 1000000000) from acp.tenants "
                         "where agent_id like 'bench-free-%'")
        groups = {"paid": keys[:TENANTS], "free": keys[TENANTS:]}
        groups.update({"one-" + tier: members[:1] for tier, members in list(groups.items())})
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for group, members in groups.items():
            with open(os.path.join(folder, group + ".keys"), "w", encoding="ascii") as file:
                file.writelines(key + "\n" for key in members)
        self.first = {group: members[0] for group, members in groups.items()}

    def _onboard(self, number):
        agent = "bench-%s-%04d" % ("paid" if number < TENANTS else "free", number)
        status, reply = ask(self._url, "POST", "/api/onboard/leadscoring",
                            json.dumps({"agent_id": agent, "email": "bench@example.com"}))
        check(status == 201, "onboarding %s: status %d: %s" % (agent, status, reply))
        return reply["api_key"]

    def try_call(self, call, url):
        """Makes one call of this kind; returns status and reply."""
        return ask(url, call.method, call.path, call.body, self.first[call.keys])

    def check_call(self, call, url):
        """Checks that one call of this kind succeeds before thousands are measured."""
        status, reply = self.try_call(call, url)
        check(status == 200, "%s: status %d instead of 200: %s" % (call.title, status, reply))
