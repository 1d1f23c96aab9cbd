"""Tenant isolation: no action or endpoint returns another tenant's data for another tenant's ids.

The reply to another tenant's id is the same as the reply to an id that does not exist.
"""

import contextlib
import json
import uuid

from client import CREATE, SCORE, SCORE_PARAMS, refused, succeeded
from checks import check, equal, spread

MODELS, QUESTIONS = "domain.leadscoring.models.list", "domain.leadscoring.questions.list"
UPSERT = "domain.leadscoring.questions.upsert_bulk"
# Every action with an id: its member, the victim's id that fits it, and the other params that it needs.
WITH_IDS = [
    (SCORE, "model_id", "model", {"leads": SCORE_PARAMS["leads"]}),
    (MODELS, "after", "model", {}),
    (QUESTIONS, "after", "question", {}),
    ("iam.keys.list", "after", "key", {}),
    ("iam.keys.update", "api_key_id", "key", {"name": "stolen"}),
    ("iam.keys.revoke", "api_key_id", "key", {}),
    ("iam.keys.rotate", "api_key_id", "key", {}),
    ("webhooks.list", "after", "webhook", {}),
    ("webhooks.update", "webhook_id", "webhook", {"status": "disabled"}),
    ("webhooks.update", "webhook_id", "webhook", {"rotate_secret": True}),
    ("webhooks.delete", "webhook_id", "webhook", {}),
    ("webhooks.test", "webhook_id", "webhook", {}),
    ("webhooks.deliveries", "webhook_id", "webhook", {}),
    ("webhooks.deliveries", "after", "delivery", {}),
]
# The params that the other actions need.
PLAIN = {CREATE: {"name": "m", "model_type": "ml"}, UPSERT: {"questions": [{"key": "q", "text": "t"}]},
         "iam.keys.create": {"name": "k", "scopes": ["manage.read"]}, "iam.team.list": {},
         "iam.team.invite": {"email": "thief@example.com", "role": "viewer"}, "settings.get": {},
         "settings.update": {"settings": {"locale": "de"}}, "meta.actions": {}, "meta.version": {},
         "meta.activity": {}, "webhooks.create": {"url": "https://example.com/", "events": ["key.created"]},
         "governance.propose_policy": {"policy": {"name": "p", "decision": "allow"}}}
BY_TENANT = "tenants agents api_keys team_members tenant_settings leadscoring_models leadscoring_questions webhooks " \
            "webhook_deliveries policy_proposals approvals idempotency usage_quota usage_reservations"


class Victim:
    """A tenant with one object of every kind, each of them marked."""

    def __init__(self, bench):
        self.mark = "mark%s" % uuid.uuid4().hex[:12]
        self.tenant = bench.onboard(organization_name=self.mark, email="%s@example.com" % self.mark)
        do = lambda name, params, **more: succeeded(bench.call(self.tenant.key, name, params, **more)).data
        self.model = {"name": self.mark, "model_type": "linear", "weights": {self.mark: 2}}
        model = do(CREATE, self.model, idempotency_key=self.mark)
        do(UPSERT, {"questions": [{"key": "k" + self.mark, "text": self.mark}]})
        key = do("iam.keys.create", {"name": self.mark, "scopes": ["manage.read"]})
        hook = do("webhooks.create", {"url": "https://%s.invalid/" % self.mark, "events": ["webhook.test"]})
        do("iam.team.invite", {"email": "team@%s.example" % self.mark, "role": "viewer"})
        do("settings.update", {"settings": {"metadata": {"m": self.mark}}})
        do("governance.propose_policy", {"policy": {"name": self.mark, "decision": "allow"}})
        self.ids = {"model": model["model_id"], "key": key["api_key_id"], "webhook": hook["webhook_id"],
                    "delivery": self._delivery(bench, hook["webhook_id"]), "question": "k" + self.mark}

    def _delivery(self, bench, webhook_id):
        """Inserts a finished delivery, so that no process changes it while the test compares tables."""
        delivery = str(uuid.uuid4())
        bench.db.execute("insert into acp.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, payload, "
                         "status, attempts, created_at) values (:'tenant', :'delivery', :'webhook', 'webhook.test', "
                         "jsonb_build_object('mark', :'mark'), 'failed', 1, acp.now())", tenant=self.tenant.id,
                         delivery=delivery, webhook=webhook_id, mark=self.mark)
        return delivery

    def rows(self, bench):
        """All rows of the tenant."""
        return bench.db.rows(" union all ".join(
            "select '%s' as t, to_jsonb(x) as r from acp.%s x where tenant_id = :'id'" % (name, name)
            for name in BY_TENANT.split()) + " order by 1, 2", id=self.tenant.id)

    @contextlib.contextmanager
    def untouched(self, bench):
        before = self.rows(bench)
        yield
        equal(self.rows(bench), before, "rows of the other tenant")

    def unseen(self, reply):
        """Checks that a reply to another tenant has nothing of this one; returns the reply."""
        text = reply.body.decode()
        own = [self.mark, self.tenant.id, self.tenant.key[:12]]
        check(not any(word in text for word in own), "another tenant's data\n%s" % reply)
        return reply


def answer(reply, sent):
    """A reply without the parts that vary between calls, and without the id that was sent."""
    members = {name: value for name, value in reply.json.items() if name not in ("request_id", "constraints_applied")}
    return reply.status, json.dumps(members, sort_keys=True).replace(sent, "ID")


def absent(kind):
    return "kabsent" if kind == "question" else str(uuid.uuid4())


def test_every_action_is_tried(bench):
    """The tables of this file list each action and each of its members that is an id."""
    actions = succeeded(bench.call(bench.onboard().key, "meta.actions")).data["actions"]
    tried = {(name, member) for name, member, _, _ in WITH_IDS}
    equal({entry["name"] for entry in actions}, {name for name, _ in tried} | set(PLAIN), "actions")
    ids = {(entry["name"], member) for entry in actions
           for member, schema in entry["params_schema"].get("properties", {}).items() if schema.get("format") == "uuid"}
    equal(ids - tried, set(), "members that are ids and are not tested")


def test_ids_of_another_tenant(bench):
    """Another tenant's id gets NOT_FOUND or an empty result, in a dry run or not, exactly like an absent id."""
    victim, thief = Victim(bench), bench.onboard()
    with victim.untouched(bench):
        for name, member, kind, more in WITH_IDS:
            dry = [False] if name.endswith(("list", "deliveries")) else [False, True]
            for dry_run in dry:
                try_with = lambda sent: bench.call(thief.key, name, {**more, member: sent}, dry_run=dry_run)
                theirs, nobodys = victim.ids[kind], absent(kind)
                reply = try_with(theirs)
                if kind != "question":
                    victim.unseen(reply)
                equal(answer(reply, theirs), answer(try_with(nobodys), nobodys), "%s with %s" % (name, member))
                if reply.status == 200:
                    equal(reply.data, [], "data of %s" % name)
                else:
                    refused(reply, 404, "NOT_FOUND")
                bench.audit(reply, tenant_id=thief.id, billable=reply.status == 200 and name.startswith("domain."))


def test_ids_work_for_their_owner(bench):
    """The counterpart: with the owner's key the same calls succeed. Otherwise the test above would prove nothing."""
    victim = Victim(bench)
    for name, member, kind, more in WITH_IDS:
        if name.endswith(".delete") or member == "after":
            continue
        succeeded(bench.call(victim.tenant.key, name, {**more, member: victim.ids[kind]},
                             **({} if name == "webhooks.deliveries" else {"dry_run": True})))
    for name in (MODELS, QUESTIONS, "iam.keys.list", "iam.team.list", "settings.get", "webhooks.list",
                 "webhooks.deliveries"):
        data = succeeded(bench.call(victim.tenant.key, name)).data
        check(victim.mark in json.dumps(data), "the mark is not in " + name)


def test_lists_and_writes(bench):
    """Every other action, called by another tenant, shows and changes nothing of the first one."""
    victim, thief = Victim(bench), bench.onboard()
    with victim.untouched(bench):
        for name in (MODELS, QUESTIONS, "webhooks.list", "webhooks.deliveries", "iam.team.list"):
            equal(victim.unseen(succeeded(bench.call(thief.key, name))).data, [], "data of " + name)
        for name, params in PLAIN.items():
            victim.unseen(succeeded(bench.call(thief.key, name, params)))
        # Names belong to a tenant, so equal names of two tenants do not collide.
        victim.unseen(succeeded(bench.call(thief.key, UPSERT, {"questions": [{"key": "q", "text": "mine"}]})))
        succeeded(bench.call(thief.key, "iam.team.invite", {"email": "team@%s.example" % victim.mark, "role": "owner"}))
        key_of = {"questions": [{"key": "k" + victim.mark, "text": "mine"}]}
        succeeded(bench.call(thief.key, UPSERT, key_of))


def test_idempotency_key_of_another_tenant(bench):
    """Contract 3: an idempotency key that another tenant used returns nothing of that tenant's reply."""
    victim, thief = Victim(bench), bench.onboard()
    with victim.untouched(bench):
        reply = succeeded(bench.call(thief.key, CREATE, victim.model, idempotency_key=victim.mark))
        check("code" not in reply.json, "a replay of another tenant's call\n%s" % reply)
        check(victim.ids["model"] not in reply.body.decode(), "another tenant's model\n%s" % reply)


def test_naming_the_tenant(bench):
    """Contract 1, 2.1: the key determines the tenant. Naming another one in params, headers or query changes
    nothing."""
    victim, thief = Victim(bench), bench.onboard()
    headers = {"X-Tenant-Id": victim.tenant.id, "Tenant": victim.tenant.id}
    with victim.untouched(bench):
        for name, params in list(PLAIN.items()) + [(MODELS, {}), ("iam.keys.list", {})]:
            for member in ("tenant_id", "tenant_uuid"):
                reply = bench.call(thief.key, name, {**params, member: victim.tenant.id})
                if reply.status != 200 or not name.startswith("meta."):
                    refused(reply, 400, "VALIDATION_ERROR", "/params/" + member)
        refused(bench.call(thief.key, MODELS, tenant_id=victim.tenant.id), 400, "VALIDATION_ERROR", "/tenant_id")
        equal(victim.unseen(succeeded(bench.call(thief.key, MODELS, {}, headers))).data, [], "models")
        for query in ("tenant", "tenant_id", "tenant_uuid"):
            path = "/api/usage?%s=%s" % (query, victim.tenant.id)
            reply = bench.send("GET", path, headers=headers, key=thief.key)
            if reply.status == 200:
                equal((victim.unseen(reply).json["tenant_id"], reply.json["calls_used"]), (thief.id, 1), "usage")
            else:
                refused(reply, 400, "VALIDATION_ERROR")


def test_onboarding_as_another(bench):
    """Contract 2.1: a stranger who knows an agent_id and its e-mail gets no credential and no id."""
    victim = Victim(bench)
    agent = {"agent_id": victim.tenant.agent_id, "email": "%s@example.com" % victim.mark,
             "organization_name": victim.mark}
    with victim.untouched(bench):
        for headers in ({}, {"Idempotency-Key": str(uuid.uuid4())}):
            reply = refused(bench.onboard_reply(agent, headers), 409, "ALREADY_ONBOARDED")
            shown = victim.tenant.id in reply.body.decode() or "api_key" in reply.json
            check(not shown, "a credential, or an id\n%s" % reply)


def test_keys_of_two_tenants_are_counted_apart(bench):
    """Quota, ceilings and limits are per tenant: the usage of one does not affect another."""
    one, two = bench.onboard(), bench.onboard()
    bench.stack.ctl("tenant", "update", one.id, "--calls-limit", "2")
    equal([bench.score(one.key).status for _ in range(3)], [200, 200, 402], "statuses")
    succeeded(bench.score(two.key))
    equal((bench.usage(one.key)["calls_used"], bench.usage(two.key)["calls_used"]), (2, 1), "calls_used")
    equal(bench.tenant_rows(two), 1, "audit rows of the second")


def test_reads_at_once(bench):
    """Simultaneous reads may share a statement. Each tenant still reads only its own data, each refusal belongs to its
    call, and each audit row describes its own call."""
    tenants = [bench.paid_tenant() for _ in range(6)]
    for number, tenant in enumerate(tenants):
        for model in range(number + 1):
            succeeded(bench.call(tenant.key, CREATE, {"name": "of %d, %d" % (number, model), "model_type": "linear"}))

    def read(turn):
        number = turn % len(tenants)
        if turn % 31 == 0:
            refused(bench.call(tenants[number].key, SCORE, {"model_id": str(uuid.uuid4()), "leads": SCORE_PARAMS["leads"]}),
                    404, "NOT_FOUND")
            return
        reply = succeeded(bench.call(tenants[number].key, MODELS))
        equal(sorted(model["name"] for model in reply.data), ["of %d, %d" % (number, model) for model in range(number + 1)],
              "models of tenant %d" % number)

    spread(32, range(600), read)
    for number, tenant in enumerate(tenants):
        rows = bench.db.rows("select distinct result_meta->>'count' as count from acp.audit_logs where tenant_id = :'id' "
                             "and action = :'action' and status = 'success'", id=tenant.id, action=MODELS)
        equal([row["count"] for row in rows], [str(number + 1)], "counts in the rows of tenant %d" % number)
