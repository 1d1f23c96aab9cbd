"""The Bench, the argument of every test: raw requests, fresh tenants, audit rows."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.parse
import uuid

from database import Database
from checks import Failure, Skip, check, clipped, equal
from stack import command_line, processes

NIL = "00000000-0000-0000-0000-000000000000"
MANAGE = "/api/manage"
ONBOARD = "/api/onboard/leadscoring"
SCORE = "domain.leadscoring.scores.compute"
CREATE = "domain.leadscoring.models.create"
# The parameters of a billable call that depends on nothing else.
SCORE_PARAMS = {"weights": {"visits": 0.5}, "leads": [{"id": "lead-1", "features": {"visits": 4}}]}
CODES = {"VALIDATION_ERROR": 400, "INVALID_API_KEY": 401, "UPGRADE_REQUIRED": 402, "SCOPE_DENIED": 403,
         "CEILING_EXCEEDED": 403, "POLICY_DENIED": 403, "APPROVAL_REQUIRED": 403, "NOT_FOUND": 404,
         "METHOD_NOT_ALLOWED": 405, "IDEMPOTENCY_CONFLICT": 409, "ALREADY_ONBOARDED": 409, "CONFLICT": 409,
         "ALREADY_PAID": 409,
         "PAYLOAD_TOO_LARGE": 413,
         "UNSUPPORTED_MEDIA_TYPE": 415, "IDEMPOTENCY_MISMATCH": 422, "RATE_LIMITED": 429, "INTERNAL_ERROR": 500,
         "UPSTREAM_FAILED": 502, "UNAVAILABLE": 503,
         "OUTCOME_UNKNOWN": 503}
# SQL text, file paths and connection strings, which no reply may show (contract section 2).
LEAKS = re.compile(r"SQLSTATE|\bSELECT \w|\bINSERT INTO|\bacp\.\w+\(|postgres(ql)?://|/(usr|tmp|var|home)/|\.c:\d+")

# Credentials in any text: our keys, keys of Stripe, secrets of webhooks, headers, database passwords.
CREDENTIALS = re.compile(r"ock_[0-9A-Za-z]{24,}|whsec_[0-9A-Za-z+/=_-]{16,}|\b[rs]k_(test|live)_[0-9A-Za-z]{12,}|"
                         r"\bacpx_[0-9A-Za-z]{16,}|(?i:authorization: *[a-z]+ +[^\s\[])|"
                         r"(?i:\bbearer +[0-9A-Za-z._~+/-]{16,})|"
                         r"\bpostgres(?:ql)?://[^\s:/@]+:[^\s@/]+@|\bpassword=[^\s'\"]+")


class Watch:
    """Reads the arguments of the program's processes throughout the run, because every user of the host can see
    them."""

    def __init__(self, sbin):
        self._sbin = sbin  # only programs in this folder, if it is known
        self.shown = set()
        self.meant = set()  # the first characters of credentials that a test passes as an argument to see them refused
        self.looks = 0
        self._times = {}  # pid -> how often its arguments were read: a new process has them only after a moment

    def start(self):
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            self._times = {pid: self._times.get(pid, 0) + 1 for pid in processes()}
            for pid in [pid for pid, times in self._times.items() if times <= 3]:
                line = command_line(pid)
                if any(self._is_ours(word) for word in line):
                    self.looks += 1
                    found = CREDENTIALS.search(" ".join(line))
                    if found and found.group(0)[:12] not in self.meant:
                        self.shown.add((os.path.basename(line[0]), found.group(0)[:12]))
            time.sleep(0.2)

    def _is_ours(self, word):
        folder, name = os.path.split(word)
        if name in ("acp.fcgi.itself", "acpctl.itself"):
            return True  # an argument of valgrind, in a folder of deploy/check
        return name in ("acp.fcgi", "acpctl") and self._sbin in (None, folder)


class Reply:
    def __init__(self, request, status, headers, body):
        self.request = request  # as text, for messages
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        try:
            return json.loads(self.body.decode())
        except ValueError as error:
            raise Failure("the reply is not JSON (%s)\n%s" % (error, self))

    @property
    def request_id(self):
        return self.json.get("request_id")

    @property
    def code(self):
        return self.json.get("code")

    @property
    def data(self):
        return self.json["data"]

    def header(self, name):
        return self.headers.get(name)

    def is_ours(self):
        """True if the program sent the reply, not the web server in front of it."""
        return self.header("X-Request-Id") is not None

    def __str__(self):
        headers = "".join("\n    %s: %s" % pair for pair in self.headers.items())
        body = shortened(self.body.decode(errors="backslashreplace"), 800)
        return "request: %s\nreply: %d%s\n    %s" % (self.request, self.status, headers, body)


def refused(reply, status, code, field=None):
    """Checks an error reply of the contract: its status, its code and, for VALIDATION_ERROR, the invalid member."""
    check(reply.status == status, "status %d instead of %d\n%s" % (reply.status, status, reply))
    check(reply.code == code, "code %s instead of %s\n%s" % (reply.code, code, reply))
    if field is not None:
        check(reply.json.get("field") == field, "field %r instead of %r\n%s" % (reply.json.get("field"), field, reply))
    return reply


def succeeded(reply, status=200):
    check(reply.status == status and reply.json.get("ok") is True, "not a success\n%s" % reply)
    return reply


def shortened(text, limit=800):
    """A request or reply as messages show it, with keys truncated."""
    return re.sub(r"\b(ock_[0-9A-Za-z]{8})[0-9A-Za-z]{20,}", r"\1…", clipped(text, limit))


class Http:
    """Sends one request per connection, so that nothing is silently sent twice."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.prefix = parts.path.rstrip("/")

    def request(self, method, path, body, headers, timeout=70):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        shown = shortened("%s %s %s %r" % (method, path, headers, body))
        try:
            connection.putrequest(method, self.prefix + path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None and "transfer-encoding" not in {name.lower() for name, _ in headers}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(shown, answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise Failure("no reply: %r\nrequest: %s" % (error, shown))
        finally:
            connection.close()

    def raw(self, data, half_close=False):
        """Sends the bytes unchanged. Returns the Reply, or None if the server closed the connection without one."""
        with socket.create_connection((self.host, self.port), timeout=70) as connection:
            try:
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                return Reply(shortened(repr(data)), answer.status, answer.headers, answer.read())
            except (http.client.BadStatusLine, ConnectionError):
                return None


def encoded(body):
    if body is None or isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def header_list(headers):
    return list(headers.items()) if isinstance(headers, dict) else list(headers)


class Tenant:
    """An onboarded agent. Other members of the reply are in .reply."""

    def __init__(self, agent_id, reply):
        self.agent_id = agent_id
        self.reply = reply
        self.key = reply.json["api_key"]
        self.id = reply.json["tenant_uuid"]


class Bench:
    def __init__(self, stack):
        self.stack = stack
        self.http = Http(stack.url)
        self.db = Database(stack.database_url)
        self.keys = set()  # every key that was issued in this run
        self.templates = {}  # scratch.py: databases that tests copy
        self.at_end = contextlib.ExitStack()  # closed after the last test
        self.watch = Watch(stack.sbin)  # conftest.py starts it
        self._lock = threading.Lock()
        self._request_ids = set()
        self._wrong = []
        self._last = threading.local()

    # For conftest.py ------------------------------------------------------------------------------------------------

    def begin(self):
        self.outcome = None  # what the test observed, if more than one result is correct
        self._last.reply = None
        self._wrong.clear()

    def last_exchange(self):
        return "last exchange of the test's own thread: %s" % (getattr(self._last, "reply", None) or "none")

    def check_invariants(self):
        """Checks what must hold for every reply of every test."""
        if self._wrong:
            raise Failure(self._wrong[0])

    def _note(self, reply):
        self._last.reply = reply
        fault = self._fault(reply)
        if fault:
            self._wrong.append("%s\n%s" % (fault, reply))
        return reply

    def _fault(self, reply):
        """Contract section 2: the reply and its header have the same unique request_id; errors have the documented
        form."""
        if not reply.is_ours() or not reply.body or (reply.header("Content-Type") or "").startswith("text/html"):
            return None
        body = reply.json
        with self._lock:
            repeated = body.get("request_id") in self._request_ids
            self._request_ids.add(body.get("request_id"))
        if body.get("request_id") != reply.header("X-Request-Id") or repeated:
            return "request_id differs from X-Request-Id, or was used before"
        if body.get("ok") is not (reply.status < 400):
            return "ok does not match the status"
        if reply.status >= 400 and (CODES.get(body.get("code")) != reply.status or not body.get("error")):
            return "an error without a message, or with a code that does not match the status"
        if reply.status >= 400 and LEAKS.search(reply.body.decode()):
            return "an error that shows internals"
        if reply.status >= 400 and CREDENTIALS.search(reply.body.decode()):
            return "an error that shows a credential"
        return None

    def arrange(self, settings=None, mount="/"):
        """Starts the stack with only these settings (name: value), mounted at this path."""
        self.stack.arrange("".join("%s = %s\n" % pair for pair in (settings or {}).items()), mount)
        self.http = Http(self.stack.url)

    # Requests -------------------------------------------------------------------------------------------------------

    def send(self, method, path, body=None, headers=(), key=None, content_type="application/json", timeout=70):
        """Sends a request. Besides these headers (a dict, or pairs) it has Host, Content-Length and those of key and
        content_type."""
        pairs = header_list(headers)
        if body is not None and content_type:
            pairs.append(("Content-Type", content_type))
        if key:
            pairs.append(("X-API-Key", key))
        return self._note(self.http.request(method, path, encoded(body), pairs, timeout))

    def raw(self, data, half_close=False):
        reply = self.http.raw(data, half_close)
        return self._note(reply) if reply else None

    def get(self, path, key=None, headers=()):
        return self.send("GET", path, headers=headers, key=key)

    def call(self, key, action, params=None, headers=(), **members):
        """One call of the router."""
        envelope = {"action": action, **({} if params is None else {"params": params}), **members}
        return self.send("POST", MANAGE, envelope, headers, key)

    def score(self, key, headers=()):
        """A billable call that succeeds while the tenant has calls left."""
        return self.call(key, SCORE, SCORE_PARAMS, headers)

    def usage(self, key, period=None):
        return succeeded(self.get("/api/usage" + ("?period=" + period if period else ""), key)).json

    # Tenants and keys -----------------------------------------------------------------------------------------------

    def agent_id(self):
        return "e2e-%s" % uuid.uuid4()

    def onboard_reply(self, body, headers=(), path=ONBOARD):
        reply = self.send("POST", path, body, headers)
        if reply.status == 201:
            self.keys.add(reply.json["api_key"])
        return reply

    def onboard(self, **more):
        """A fresh free tenant."""
        agent_id = self.agent_id()
        reply = self.onboard_reply({"agent_id": agent_id, "email": "agent@example.com", **more})
        return Tenant(agent_id, succeeded(reply, 201))

    def paid_tenant(self):
        """A fresh tenant without limits."""
        tenant = self.onboard()
        self.stack.ctl("tenant", "update", tenant.id, "--tier", "paid", "--payment-method", "active")
        self.db.execute("update acp.api_keys set rate_limit = 1000000 where tenant_id = :'id'", id=tenant.id)
        return tenant

    def make_key(self, tenant, scopes, *options):
        """Creates another key of the tenant as the operator; returns (key, its id)."""
        done = self.stack.ctl("key", "create", "--tenant", tenant.id, "--name", "e2e", "--scopes", scopes, *options)
        key = done.stdout.strip()
        self.keys.add(key)
        return key, re.search(r"key ([0-9a-f-]{36})", done.stderr).group(1)

    # Audit ----------------------------------------------------------------------------------------------------------

    def audit_rows(self, request_ids):
        """Maps each request_id to its rows in acp.audit_logs."""
        wanted = sorted(set(request_ids))
        found = {request_id: [] for request_id in wanted}
        for start in range(0, len(wanted), 1000):
            ids = "{%s}" % ",".join(wanted[start:start + 1000])
            for row in self.db.rows("select * from acp.audit_logs where request_id = any (:'ids'::uuid[])", ids=ids):
                found[row["request_id"]].append(row)
        return found

    def audit(self, reply, **expected):
        """Returns the one audit row of a reply, after checking these columns."""
        check(reply.request_id, "no request_id\n%s" % reply)
        rows = self.audit_rows([reply.request_id])[reply.request_id]
        check(len(rows) == 1, "%d audit rows instead of 1\n%s" % (len(rows), reply))
        for column, value in expected.items():
            check(rows[0][column] == value, "audit row: %s = %r instead of %r\n%s\n%s" %
                  (column, rows[0][column], value, reply, rows[0]))
        return rows[0]

    def audit_each(self, replies, **expected):
        """Checks that every reply has exactly one audit row, with these columns; returns the rows."""
        found = self.audit_rows([reply.request_id for reply in replies])
        equal(len(found), len(replies), "different request ids")
        for reply in replies:
            rows = found[reply.request_id]
            check(len(rows) == 1, "%d audit rows instead of 1\n%s" % (len(rows), reply))
            for column, value in expected.items():
                check(rows[0][column] == value, "audit row: %s = %r instead of %r\n%s" %
                      (column, rows[0][column], value, reply))
        return [found[reply.request_id][0] for reply in replies]

    def audit_count(self, tenant=None):
        """The number of audit rows of unknown callers and of this tenant."""
        return self.db.value("select count(*) from acp.audit_logs where tenant_id in (:'nil', :'id')", nil=NIL,
                             id=tenant.id if tenant else NIL)

    def tenant_rows(self, tenant, where="true"):
        return self.db.value("select count(*) from acp.audit_logs where tenant_id = :'id' and %s" % where, id=tenant.id)

    def need_own_stack(self, why):
        if not self.stack.own:
            raise Skip("needs its own stack (--server): %s" % why)
