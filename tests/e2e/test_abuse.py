"""External abuse: idle connections, floods, forged headers, guessed keys, altered links, private addresses."""

import contextlib
import http.server
import json
import os
import re
import resource
import secrets
import socket
import tempfile
import threading
import time
import urllib.parse
import uuid

from client import MANAGE, NIL, ONBOARD, refused, succeeded
from fcgi import Responder, begin, can_stand_apart, finish
from checks import Skip, check, equal, only_on, parallel, spread, until
from test_malformed import post
from test_webhooks import Receiver

WAITING = 10000
APACHE = ("apache-fcgid", "apache-proxy")


# Connections --------------------------------------------------------------------------------------------------------

def allow_files(count):
    """Raises this process's limit on open files to count, or as far as allowed; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        soft = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def max_connections(bench):
    """The web server's maximum number of connections, from its configuration, which depends on the limit of the
    host."""
    server = bench.stack.server.partition("-")[0]
    patterns = {"lighttpd": r"^server\.max-connections = (\d+)", "nginx": r"^\s*worker_connections (\d+)"}
    if server in patterns:
        with open(os.path.join(os.path.dirname(bench.stack.config), bench.stack.server + ".conf"), encoding="utf-8") as file:
            return int(re.search(patterns[server], file.read(), re.M).group(1))
    return WAITING * 2


def stalled_connections(bench, count, stack):
    """Opens count connections: a third send nothing, a third half a header, a third half a body."""
    whole = post(MANAGE, "x")
    sent = [b"", whole[:60], whole[:-5]]
    for number in range(count):
        connection = stack.enter_context(socket.create_connection((bench.http.host, bench.http.port), timeout=60))
        connection.sendall(sent[number % 3])
        yield connection


@only_on([server for server in ("lighttpd", "lighttpd-spawn", "nginx", "caddy")],
         "Apache uses a thread for each connection with an unfinished request; see the next test")
def test_ten_thousand_wait(bench):
    """Calls are still answered while 10,000 connections have sent nothing, half a header or half a body."""
    bench.need_own_stack("depends on the web server's settings")
    allowed = min(allow_files(WAITING + 500) - 500, max_connections(bench) - 200)
    count = min(WAITING, allowed)
    if count < 1000:
        raise Skip("this host allows only %d open files (ulimit -Hn)" % resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    tenant = bench.onboard()
    with contextlib.ExitStack() as stack:
        for number, _ in enumerate(stalled_connections(bench, count, stack)):
            if number % 1000 == 999:
                succeeded(bench.call(tenant.key, "meta.version"))
        begun = time.monotonic()
        for reply in parallel(16, lambda _: bench.call(tenant.key, "meta.version")):
            succeeded(reply)
        took = time.monotonic() - begun
        # A web server with no free connection makes others wait until the first ones time out, after 10 s or more.
        check(took < 8, "16 calls took %.1f s" % took)
    # When they all close at once, Caddy passes on their partial bodies. These are more requests than the socket's queue
    # holds, so a call may get a 502 from Caddy until they are refused.
    until(30, "a call is answered after they have closed", lambda: bench.call(tenant.key, "meta.version").status == 200)
    bench.outcome = "%d connections" % count
    if count < WAITING:
        bench.outcome += ": this host's limit on open files allows the web server no more than that"


@only_on(APACHE, "the others keep ten thousand connections")
def test_apache_lets_go(bench):
    """RequestReadTimeout of acp's Apache configuration: connections that occupy all threads lose them within 30 s."""
    bench.need_own_stack("depends on the web server's settings")
    tenant = bench.onboard()
    half = post(MANAGE, tenant.key)[:60]
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            connection = stack.enter_context(socket.socket())
            connection.settimeout(60)
            connection.connect((bench.http.host, bench.http.port))
            connection.sendall(half)
        begun = time.monotonic()
        succeeded(bench.call(tenant.key, "meta.version"))
        took = time.monotonic() - begun
        check(took < 30, "a call took %.1f s" % took)
        bench.outcome = "600 connections, a call after %.0f s" % took


def test_slow_senders(bench):
    """200 clients that send header and body a byte at a time delay nobody else."""
    tenant = bench.onboard()
    data = post(MANAGE, tenant.key)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((bench.http.host, bench.http.port), timeout=60))
                   for _ in range(200)]
        for step in range(6):
            for number, client in enumerate(clients):
                with contextlib.suppress(ConnectionError):  # the web server may have closed it
                    at = step if number % 2 else len(data) - 10 + step
                    client.sendall(data[:at + 1] if not step else data[at:at + 1])
            for reply in parallel(4, lambda _: bench.call(tenant.key, "meta.version")):
                succeeded(reply)


# Floods -------------------------------------------------------------------------------------------------------------

def test_refusals_are_small(bench):
    """Any request of a stranger costs one row and one log line, both small, without its body and headers."""
    long_text = "long%s" % ("x" * 6000)
    responder_settings = {"processes": "1", "log_level": "debug"}
    with Responder(bench.stack, **responder_settings) as responder:
        before = bench.audit_count()
        replies = []
        for action in (long_text, "meta.version"):
            body = {"action": action, "params": {"a": long_text * 30}, "idempotency_key": "k" * 255}
            headers = {"Content-Type": "application/json", "X-API-Key": long_text, "User-Agent": long_text,
                       "traceparent": long_text, "X-Forwarded-For": long_text, "Cookie": long_text}
            replies += [responder.ask("POST", MANAGE + "?" + long_text, json.dumps(body).encode(), headers),
                        responder.ask("POST", "/" + long_text, json.dumps(body).encode(), headers),
                        responder.ask("POST", ONBOARD, json.dumps({"agent_id": long_text, "email": long_text}).encode(),
                                      headers)]
        replies.append(responder.ask("POST", "/" + "y" * 2000, b"{}", headers))
        for reply in replies:
            check(400 <= reply.status < 500, "status\n%s" % reply)
        rows = [row for found in bench.audit_rows([reply.request_id for reply in replies]).values() for row in found]
        equal(len(rows), 4, "rows; requests to unknown paths have none")
        check(bench.audit_count() - before <= 4, "there are more rows")
        size = bench.db.value("select max(pg_column_size(a.*)) from acp.audit_logs a where request_id = any(:'ids')",
                              ids="{%s}" % ",".join(reply.request_id for reply in replies))
        check(size <= 1600, "a row of %d bytes" % size)
        lines = [line for line in responder.log_of(replies, 10).splitlines()
                 if any(reply.request_id in line for reply in replies)]
        requests = [line for line in lines if " status=" in line]
        equal(len(requests), len(replies), "log lines of requests")
        check(max(map(len, lines)) <= 8192, "a line of %d characters" % max(map(len, lines)))
        check("ip=" in requests[0] and "xxxx" not in requests[0], "a line shows what was sent: %s" % requests[0][:300])
        bench.outcome = "a row has at most %d bytes, a line %d" % (size, max(map(len, requests)))


def test_onboarding_flood(bench):
    """Contract 2.1: 400 onboardings at once, with forged addresses, create only the allowed number of tenants; each has
    one row with the real address."""
    settings = {"onboard_per_ip": "20", "onboard_total": "1000", "key_pepper_file": None, "processes": "2",
                "key_pepper": secrets.token_hex(32)}
    with Responder(bench.stack, **settings) as responder:
        count = lambda: bench.db.value("select count(*) from acp.tenants")
        before, rows = count(), bench.audit_count()

        def flood(number):
            body = {"agent_id": "flood-%s" % uuid.uuid4(), "email": "a@example.com"}
            forged = {"Content-Type": "application/json", "X-Forwarded-For": "203.0.113.%d" % (number % 250),
                      "Forwarded": "for=203.0.113.%d" % (number % 250), "X-Real-IP": "203.0.113.9",
                      "True-Client-IP": "203.0.113.9", "Client-IP": "203.0.113.9"}
            return responder.ask("POST", ONBOARD, json.dumps(body).encode(), forged)

        replies = spread(8, range(400), flood)
        equal(sorted({reply.status for reply in replies}), [201, 429], "statuses")
        equal(sum(reply.status == 201 for reply in replies), 20, "tenants")
        equal(count() - before, 20, "tenants")
        equal(bench.audit_count() - rows, 400, "rows")
        equal({row["ip_address"] for row in bench.audit_each(replies)}, {"127.0.0.1"}, "addresses")
        succeeded(responder.ask("GET", "/healthz"))


# Logs ---------------------------------------------------------------------------------------------------------------

HOSTILE = ["a\nb", "a\r\nb", "\x1b[2J\x1b]0;x\x07", "\x01\x02\x7f", 'a" b="c', "a b=c", "\\", "%0a%1b[31m",
           "\x85\x9b31m", "\u202edrow", "\ud7ff\ue000"]


def test_log_injection(bench):
    """Newlines, escape sequences and quotes in logged values: each request is one line, without control
    characters for a terminal."""
    for form in ("text", "json"):
        with Responder(bench.stack, processes="1", log_format=form, log_level="debug",
                       trusted_proxies="127.0.0.1") as responder:
            replies = []
            for text in HOSTILE:
                # A web server decodes and passes on SCRIPT_NAME and PATH_INFO, which are logged for unknown paths.
                headers = {"X-Forwarded-For": text, "User-Agent": text, "X-API-Key": text, "Idempotency-Key": text,
                           "Content-Type": "application/json"}
                body = json.dumps({"action": text, "params": {}, "idempotency_key": text}).encode()
                replies += [responder.ask("POST", MANAGE, body, headers),
                            responder.ask("POST", "/nothing/" + text, body, headers),
                            responder.ask("POST", "/api/onboard/" + text, body, headers),
                            responder.ask(text, "/api/manage?" + text, body, headers),
                            ask_with(responder, text)]
            responder.log_of(replies, 10)
            with open(responder.log, "rb") as file:
                data = file.read()
        text = data.decode()  # fails if it is not UTF-8
        for line in text.split("\n")[:-1]:
            check(not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line), "control characters: %r" % line)
            if form == "json":
                check(isinstance(json.loads(line), dict), "not an object: %r" % line)
            else:
                check(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \w+ \[\d+\] \w+=", line), "not a line of our log: %r" % line)


def ask_with(responder, text):
    """Sends a request to an unknown path with the text in SCRIPT_NAME and PATH_INFO."""
    headers = {"X-A": "1"}
    connection = begin(responder.socket, "GET", "/nowhere", b"", headers, more={"SCRIPT_NAME": text, "PATH_INFO": text})
    return finish(connection, "GET /nowhere with %r" % text)


# Keys and links -----------------------------------------------------------------------------------------------------

def test_guessing_stops_nobody(bench):
    """Contract 2: 300 guesses at once all get the same refusal. They do not affect the tenant with the similar key."""
    tenant = bench.onboard()
    from test_authentication import other_digit
    from test_onboarding import check_digits

    def guess(number):
        at = 12 + number % 22
        front = tenant.key[:at] + other_digit(tenant.key[at]) + tenant.key[at + 1:-6]
        return bench.call(front + check_digits(front), "meta.version")

    replies = spread(8, range(300), guess)
    equal({json.dumps({**reply.json, "request_id": ""}) for reply in replies},
          {json.dumps({**refused(replies[0], 401, "INVALID_API_KEY").json, "request_id": ""})}, "refusals")
    rows = bench.audit_each(replies, tenant_id=NIL, status="denied", api_key_id=None, actor_id=None)
    check(not any(tenant.key[:12] in json.dumps(row) for row in rows), "a row contains the prefix of the tenant's key")
    succeeded(bench.call(tenant.key, "meta.version"))


def test_upgrade_link_changed_anywhere(bench):
    """Contract 2.1: a link with one changed character, cut off, with a repeated parameter or with another tenant's id
    gets 404."""
    tenant, other = bench.onboard(), bench.onboard()
    link = tenant.reply.json["upgrade_info"]["upgrade_url"]
    path = link[link.index("/api/"):]
    good = bench.get(path).status
    check(good != 404, "the link itself: %d" % good)
    at = path.index("?") + 1
    query = path[at:]
    wrong = [query[:n] + other_character(query[n]) + query[n + 1:] for n in range(len(query))]
    wrong += [query[:n] for n in range(0, len(query), 7)]
    parts = dict(urllib.parse.parse_qsl(query))
    wrong += [query + "&" + urllib.parse.urlencode({name: parts[name]}) for name in parts]
    wrong += [urllib.parse.urlencode({**parts, **change}) for change in
              ({"tenant": other.id}, {"exp": "99999999999"}, {"exp": "0"}, {"exp": "-1"}, {"exp": parts["exp"] + "0"},
               {"exp": " " + parts["exp"]}, {"exp": "+" + parts["exp"]}, {"sig": ""}, {"sig": parts["sig"].upper()},
               {"sig": parts["sig"] + "0"}, {"tenant": parts["tenant"].upper()}, {"tenant": NIL})]
    statuses = spread(4, wrong, lambda text: (bench.get(path[:at] + text).status, text))
    equal([text for status, text in statuses if status != 404], [], "links that are accepted")
    bench.outcome = "%d links" % len(wrong)


def other_character(c):
    return "0" if c != "0" else "1"


# Paths --------------------------------------------------------------------------------------------------------------

def spellings(path):
    """Other spellings of a path that another parser could take for the same path."""
    first, _, rest = path[1:].partition("/")
    return ["/" + path, "//x" + path, path.replace("/", "//"), "/." + path, "/x/.." + path, "/%2e" + path,
            "/x%2f.." + path, "/..%2f" + path[1:], path + "/.", path + "/..", path + "%00", path + "%00.json",
            path + ";a=b", "/" + first + ";x/" + rest, path + "%20", path + "%09", path + "%0a",
            path.replace("/", "%2f"), path.replace("/", "\\"), path.upper(), path + "%", path + "%zz", path + "%c0%ae",
            path + "\xff", path + "#x", path + ".", path + "~", "/%252e%252e" + path]


def test_path_tricks_everywhere(bench):
    """Contract 2: any other spelling of a documented path gets 4xx and runs no action."""
    tenant = bench.onboard()
    document = bench.http.request("GET", "/api/openapi.json", None, []).json
    paths = [path.replace("{product}", "leadscoring") for path in document["paths"]]
    before = bench.audit_count(tenant)
    # Caddy itself refuses a NUL, but only after lb_try_duration = 5 s. So test it at one path only.
    slow = bench.stack.server == "caddy"
    asked = [(path, trick) for path in paths for trick in spellings(path)
             if trick not in paths and not (slow and "%00" in trick and path != MANAGE)]

    def ask(pair):
        head = "GET %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nConnection: close\r\n\r\n" % (pair[1], tenant.key)
        return bench.raw(head.encode("latin-1"))

    for (path, trick), reply in zip(asked, spread(4, asked, ask)):
        # A server that cuts off the fragment correctly answers /console and /llms.txt.
        harmless = reply is None or 400 <= reply.status < 500 or (reply.status in (200, 403) and "#" in trick)
        check(harmless, "%s for %s\n%s" % (trick, path, reply))
    # Any name below /api/onboard/ is a product, usually an unknown one. There a GET (405) has a row.
    wrong = bench.db.rows("select action from acp.audit_logs where tenant_id in (:'nil', :'id') and ts > acp.now() - "
                          "interval '5 min' and action is not null and action not like 'onboard.%' and "
                          "status = 'success' and tenant_id = :'id'", nil=NIL, id=tenant.id)
    equal(wrong, [], "actions that ran")
    check(bench.audit_count(tenant) - before <= len(asked), "rows")
    bench.outcome = "%d requests" % len(asked)


# Targets of webhooks ------------------------------------------------------------------------------------------------

def private_urls(port):
    """Spellings of an address of this host or of a private network."""
    hosts = ["127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
             "0177.0x0.1", "127.000.000.001", "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
             "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]",
             "[2002:7f00:1::]", "[fe80::1]", "[fc00::1]", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.",
             "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "①②⑦.0.0.1", "127。0。0。1", "10.0.0.1", "172.16.0.1", "192.168.0.1",
             "169.254.169.254", "100.64.0.1", "[::ffff:169.254.169.254]", "2852039166", "0xa9fea9fe", "[fd00:ec2::254]",
             "user@127.0.0.1", "example.com@127.0.0.1", "127.0.0.1#@example.com", "127.0.0.1\\@example.com",
             "[::1%25lo]"]
    return ["http://%s:%d/hook" % (host, port) for host in hosts] + \
        ["http://127.0.0.1:%d" % port, "http:127.0.0.1:%d/" % port, "//127.0.0.1:%d/" % port,
         "gopher://127.0.0.1:%d/" % port, "file:///etc/passwd", "HTTP://127.0.0.1:%d/" % port,
         "http:///127.0.0.1:%d/" % port, " http://127.0.0.1:%d/" % port]


def delivered(bench, tenant, responder, url):
    """Tries a test delivery to the address. Returns (status, code) if the webhook is refused, otherwise (status, error)
    of the delivery."""
    post_ = lambda action, params: responder.call(tenant.key, json.dumps(
        {"action": "webhooks." + action, "params": params}).encode())
    made = post_("create", {"url": url, "events": ["webhook.test"]})
    if made.status != 200:
        return made.status, made.code
    hook = made.data["webhook_id"]
    succeeded(post_("test", {"webhook_id": hook}))
    tried = "select last_error, last_status, attempts from acp.webhook_deliveries where tenant_id = :'id' and " \
            "webhook_id = :'hook' and (attempts > 0 and last_error is not null or status = 'delivered')"
    row = until(30, "an attempt to reach " + url, lambda: bench.db.rows(tried, id=tenant.id, hook=hook))[0]
    succeeded(post_("delete", {"webhook_id": hook}))
    return row["last_status"], row["last_error"]


WEBHOOKS = {"webhook_allow_http": "on", "webhook_poll_ms": "100", "processes": "1"}


def test_webhooks_inside(bench):
    """No spelling of a private address makes a webhook reach it. It is refused on creation or on delivery."""
    tenant = bench.onboard()
    with Receiver() as receiver, Responder(bench.stack, **WEBHOOKS) as responder:
        port = int(receiver.url.rsplit(":", 1)[1].split("/")[0])
        found = {url: delivered(bench, tenant, responder, url) for url in private_urls(port)}
        equal(receiver.requests, [], "requests that arrived")
        reached = {url: got for url, got in found.items() if got != (400, "VALIDATION_ERROR") and got[0] is not None}
        equal(reached, {}, "addresses that answered")
        refused_at_once = sum(got == (400, "VALIDATION_ERROR") for got in found.values())
        bench.outcome = "%d refused on creation, %d on delivery" % (refused_at_once, len(found) - refused_at_once)


class Redirector(http.server.BaseHTTPRequestHandler):
    target = ""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", self.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_name_that_changes(bench):
    """DNS rebinding: a name with a public address when the webhook is created and a private one on delivery is
    refused."""
    if not can_stand_apart():
        raise Skip("needs to mount a file over /etc/hosts for one process (root, or user namespaces)")
    tenant = bench.onboard()
    name = "rebind-%s.example" % secrets.token_hex(4)
    with tempfile.NamedTemporaryFile("w", prefix="acp-e2e-hosts-") as hosts, Receiver() as receiver:
        os.chmod(hosts.name, 0o644)
        url = receiver.url.replace("127.0.0.1", name)

        def resolve_to(address):
            hosts.seek(0)
            hosts.write("127.0.0.1 localhost\n%s %s\n" % (address, name))
            hosts.truncate()
            hosts.flush()

        for allowed, wanted in (("on", 204), ("off", None)):
            responder = Responder(bench.stack, **WEBHOOKS, webhook_allow_private=allowed)
            responder.stand_under(["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount",
                                   "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts.name])
            with responder:
                resolve_to("192.88.99.1")
                made = responder.call(tenant.key, json.dumps({"action": "webhooks.create", "params": {
                    "url": url, "events": ["webhook.test"]}}).encode())
                hook = {"webhook_id": succeeded(made).data["webhook_id"]}
                resolve_to("127.0.0.1")
                test = json.dumps({"action": "webhooks.test", "params": hook}).encode()
                errors = "select last_error, last_status from acp.webhook_deliveries where tenant_id = :'id' and " \
                         "webhook_id = :'hook' and attempts > 0"

                def seen():
                    succeeded(responder.call(tenant.key, test))
                    time.sleep(0.3)
                    rows = bench.db.rows(errors, id=tenant.id, hook=hook["webhook_id"])
                    return any(row["last_status"] == wanted and
                               (wanted or "public internet" in (row["last_error"] or "")) for row in rows)

                # Another process of the installation may take the delivery first. It cannot resolve the name.
                until(60, "delivery to a private address is %s" % ("allowed" if wanted else "refused"), seen)
                if wanted:
                    check(receiver.requests, "no request arrived though private addresses are allowed")
                    receiver.requests.clear()
                gone = json.dumps({"action": "webhooks.delete", "params": hook}).encode()
                succeeded(responder.call(tenant.key, gone))
        time.sleep(0.5)
        equal(receiver.requests, [], "requests that arrived though private addresses are refused")


def test_redirects_inside(bench):
    """A redirect from an allowed address to a private one is not followed."""
    tenant = bench.onboard()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirector)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        with Receiver() as receiver, Responder(bench.stack, **WEBHOOKS, webhook_allow_private="on") as responder:
            Redirector.target = receiver.url
            url = "http://127.0.0.1:%d/" % server.server_port
            status, error = delivered(bench, tenant, responder, url)
            check(status in (307, None) and error, "delivery: %s %s" % (status, error))
            equal(receiver.requests, [], "requests to the redirect's target")
    finally:
        server.shutdown()
        server.server_close()
