"""Secrets do not stay in memory longer than needed, and a crash leaves no core file."""

import json
import os
import signal
import time
import uuid

from client import CREATE, MANAGE, SCORE, SCORE_PARAMS
from fcgi import Responder
from checks import Skip, check, equal, until
from stack import children
from stripe import StandIn

EXECUTOR_KEY = "e2e-secrets-key-" + "fedcba9876543210" * 2
LARGEST = 256 << 20  # skips the shadow memory of a sanitizer, which has no keys


def memory_of(pid):
    """Yields the writable memory of a process as (name of the mapping, its bytes)."""
    with open("/proc/%d/maps" % pid, encoding="ascii", errors="replace") as maps, \
            open("/proc/%d/mem" % pid, "rb", buffering=0) as memory:
        for line in maps:
            fields = line.split(None, 5)
            first, end = (int(part, 16) for part in fields[0].split("-"))
            name = fields[5].strip() if len(fields) > 5 else "anonymous"
            if "w" in fields[1] and end - first <= LARGEST and not name.startswith(("[vvar", "/dev/")):
                try:
                    memory.seek(first)
                    yield name, memory.read(end - first)
                except OSError:
                    continue  # unmapped meanwhile, or only reserved


def places(responder, text):
    """The occurrences of the text in the responder's processes, as (process, mapping)."""
    found = []
    for pid in [responder.process.pid] + children(responder.process.pid):
        for name, data in memory_of(pid):
            found += [(pid, name)] * data.count(text.encode())
    return found


def need_memory(responder):
    if os.geteuid() != 0:
        raise Skip("only root may read the private memory of a process")
    with open("/proc/%d/maps" % responder.process.pid, encoding="ascii", errors="replace") as maps:
        if "libasan" in maps.read():
            raise Skip("the address sanitizer keeps freed memory and has separate stacks")


def ask(responder, action, params, headers):
    body = json.dumps({"action": action, "params": params}).encode()
    return responder.ask("POST", MANAGE, body, {"Content-Type": "application/json", **headers})


def onboarded(responder):
    body = {"agent_id": "secret-%s" % uuid.uuid4(), "email": "agent@example.com"}
    reply = responder.ask("POST", "/api/onboard/leadscoring", json.dumps(body).encode(),
                          {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())})
    equal(reply.status, 201, "onboarding: %s" % reply)
    return reply.json["api_key"]


def test_keys_leave_memory(bench):
    """After a call is answered, the memory of the responder's processes contains neither the key of the call nor
    a key or webhook secret that it created, nor a key from onboarding. (It does contain the pepper, which is
    needed.)"""
    with Responder(bench.stack) as responder:
        need_memory(responder)
        key = onboarded(responder)
        shown = [key]
        for headers in ({"X-API-Key": key}, {"Authorization": "Bearer " + key}):
            for action, params in ((SCORE, SCORE_PARAMS), (CREATE, {"name": "m", "model_type": "linear"}),
                                   ("no.such.action", {}), ("iam.keys.list", {})):
                ask(responder, action, params, headers)
            made = ask(responder, "iam.keys.create", {"name": "k", "scopes": ["manage.read"]}, headers)
            hook = ask(responder, "webhooks.create", {"url": "https://example.com/", "events": ["key.*"]}, headers)
            shown += [made.json["data"]["api_key"], hook.json["data"]["secret"]]
        bench.keys.update(text for text in shown if text.startswith("ock_"))
        wrong = key[:-1] + ("x" if key[-1] != "x" else "y")
        equal(ask(responder, SCORE, SCORE_PARAMS, {"X-API-Key": wrong}).status, 401, "a key with a wrong last character")
        with open(bench.stack.setting("key_pepper_file"), encoding="utf-8") as file:
            pepper = file.read().strip()
        check(len(set(places(responder, pepper))) >= 3, "the search does not find the pepper, which is there")
        # The answer is sent before its memory is overwritten.
        for text in shown:
            until(5, "the secret %s… left the memory" % text[:10], lambda: not places(responder, text[12:]), 0.2)


def test_vendor_key_has_one_place(bench):
    """The memory of a process contains Stripe's key and the executor's key only once, in its settings, even
    after many calls of Stripe."""
    with StandIn(key="sk_test_" + uuid.uuid4().hex) as stand_in, \
            Responder(bench.stack, executor_key=EXECUTOR_KEY, **stand_in.settings()) as responder:
        need_memory(responder)
        for _ in range(10):
            params = {"tenant_uuid": str(uuid.uuid4()), "agent_id": "a", "email": "a@example.com"}
            body = {"tenant_id": params["tenant_uuid"], "integration": "stripe", "action": "stripe.customers.create",
                    "params": params, "request_hash": "0" * 64, "idempotency_key": str(uuid.uuid4())}
            reply = responder.ask("POST", "/functions/v1/execute", json.dumps(body).encode(),
                                  {"Content-Type": "application/json", "Authorization": "Bearer " + EXECUTOR_KEY})
            check(reply.status == 200 and reply.json["ok"], "the customer was not created: %s" % reply)
        for text in (stand_in.key, EXECUTOR_KEY):
            for pid in [responder.process.pid] + children(responder.process.pid):
                until(5, "%s… is in process %d once" % (text[:8], pid), lambda: [
                    place for place in places(responder, text) if place[0] == pid] == [(pid, "[heap]")], 0.2)


def test_memory_is_private(bench):
    """No process of the program leaves a core file or lets other processes of its user read its memory. The
    limit is 0, and the process is not dumpable, so root owns its files in /proc."""
    bench.need_own_stack("its processes")
    pids = bench.stack.responders()
    check(pids, "no responder runs")
    for pid in pids:
        with open("/proc/%d/limits" % pid, encoding="ascii") as file:
            core = next(line for line in file if line.startswith("Max core file size"))
        equal(core.split()[4:6], ["0", "0"], "core file size of process %d" % pid)
        equal(os.stat("/proc/%d/environ" % pid).st_uid, 0, "owner of the environment of process %d" % pid)
        if os.geteuid() != 0:
            check(not os.access("/proc/%d/mem" % pid, os.R_OK), "the memory of process %d can be read" % pid)


def test_no_core_file(bench):
    """A process that crashes leaves no core file, whatever limit it was started with."""
    with Responder(bench.stack) as responder:
        worker = until(10, "a worker", lambda: children(responder.process.pid))[0]
        os.kill(worker, signal.SIGABRT)
        until(10, "the supervisor logs it", lambda: "killed by signal %d" % signal.SIGABRT in responder.read_log())
        os.kill(responder.process.pid, signal.SIGABRT)
        deadline = time.monotonic() + 10
        pid = 0
        while not pid and time.monotonic() < deadline:
            pid, status = os.waitpid(responder.process.pid, os.WNOHANG)
            time.sleep(0.05)
        equal(pid, responder.process.pid, "pid of the ended process")
        responder.process.returncode = -signal.SIGABRT  # Popen must not wait again
        check(os.WIFSIGNALED(status) and not os.WCOREDUMP(status), "status %d: a core file" % status)


def test_password_of_the_database(bench):
    """A password in database_url is in no log and no reply, even while the database is not reachable."""
    password = "pw-%s" % uuid.uuid4().hex
    for url in ("postgresql://acp_nobody:%s@127.0.0.1:1/acp" % password,
                "host=127.0.0.1 port=1 user=acp_nobody password=%s" % password):
        with Responder(bench.stack, database_url=url) as responder:
            reply = ask(responder, SCORE, SCORE_PARAMS, {"X-API-Key": bench.onboard().key})
            equal(reply.status, 503, "status of %s" % reply)
            ready = responder.ask("GET", "/readyz")
            until(10, "the log has the reason", lambda: "database" in responder.read_log())
            for text in (reply.body.decode(), ready.body.decode(), responder.read_log()):
                check(password not in text, "the password is in: %s" % text)
        done = bench.stack.program("acpctl", "doctor", environment={"ACP_DATABASE_URL": url})
        check(done.returncode != 0 and password not in done.stdout + done.stderr, "acpctl doctor shows the password")
