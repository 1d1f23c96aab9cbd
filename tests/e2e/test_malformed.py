"""Requests that no honest client sends: contract 2 (codes, limits) and 3 (even these have one audit row each)."""

import contextlib
import gzip
import json
import random
import socket
import time

from client import MANAGE, NIL, ONBOARD, refused, succeeded
from checks import check, equal, only_on, parallel, spread
from stack import NOT_CHUNKED, SERVERS

MAX_BYTES, MAX_DEPTH, MAX_TOKENS = 262144, 32, 20000


def in_params(value):
    """A body that is valid except possibly for this text, in params."""
    return b'{"action":"no.such","params":{"v":' + (value if isinstance(value, bytes) else value.encode()) + b"}}"


def check_all(bench, tenant, bodies, status, code):
    """Checks that each body gets this answer and exactly one audit row of an unknown caller, and that calls still
    work."""
    before = bench.audit_count(tenant)
    replies = [refused(bench.send("POST", MANAGE, body, key=tenant.key), status, code) for body in bodies]
    bench.audit_each(replies, tenant_id=NIL, status="error", error_code=code, billable=False, action=None,
                     request_hash=None, actor_type="anonymous")
    equal(bench.audit_count(tenant), before + len(replies), "audit rows")
    succeeded(bench.call(tenant.key, "meta.version"))


def accepted(bench, tenant, body):
    """Checks that the body is parsed: its action is looked up (and not found)."""
    refused(bench.send("POST", MANAGE, body, key=tenant.key), 404, "NOT_FOUND")


def test_not_json(bench):
    """Contract 2: a body that is not strictly RFC 8259 gets 400 VALIDATION_ERROR."""
    good = '{"action":"meta.version"}'
    bodies = ["", " ", "{", "}", '{"action"', '{"action":', '{"action":"meta.version"', good + "x", good + good,
              good + ",", "[" + good, '{"action":"meta.version",}', '{,"action":"meta.version"}',
              '{"action" "meta.version"}', "{'action':'meta.version'}", "{action:1}", '{"action":"meta.version"}//c',
              "/*c*/" + good, '"', '"abc', "nul", "True", "undefined", "NaN", "Infinity", "-Infinity", "<xml/>",
              "action=meta.version", "\ufeff" + good, "[1,]", "[,1]", "[1 2]", "\x0b{}", "\xa0{}"]
    check_all(bench, bench.onboard(), bodies, 400, "VALIDATION_ERROR")


def test_not_json_values(bench):
    """Contract 2: numbers, words, strings and escapes outside of RFC 8259 get 400."""
    values = ["01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "1_000", "--1", "NaN", "Infinity", "-Infinity", "nan",
              "TRUE", "nulL", "tru", '"\n"', '"\t"', '"\x01"', r'"\x41"', r'"\a"', r'"\u12"', r'"\u12g4"', r'"\U0041"',
              '"\\', "[1,]", "[,]", "{1:2}", '{"a":1,}', '{"a"}', "'a'", r'"\ud800"', r'"\udc00"', r'"\ud800\u0041"',
              r'"\udc00\ud800"']
    check_all(bench, bench.onboard(), [in_params(value) for value in values], 400, "VALIDATION_ERROR")


def test_not_an_object(bench):
    """Contract 3: arrays and scalars are JSON but not calls: 400. The row has the hash of the body."""
    key = bench.onboard().key
    replies = [refused(bench.send("POST", MANAGE, body, key=key), 400, "VALIDATION_ERROR") for body in
               ["[]", '[{"action":"meta.version"}]', '"meta.version"', "5", "-0.5", "true", "false", "null", '""']]
    bench.audit_each(replies, tenant_id=NIL, status="error", error_code="VALIDATION_ERROR", action=None)


def test_utf8(bench):
    """Contract 2: invalid UTF-8 gets 400: overlong forms, surrogates, cut sequences, bytes beyond U+10FFFF."""
    broken = [b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf",
              b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98",
              b"\xc3x", b"\xe2x\x82", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80",
              b"\xfc\x84\x80\x80\x80\x80", b"\x80", b"\xbf", b"\xfe", b"\xff", b"\xff\xfe", "ü".encode("latin-1")]
    tenant = bench.onboard()
    bodies = [in_params(b'"' + text + b'"') for text in broken] + [in_params(b'{"' + text + b'":1}') for text in broken]
    check_all(bench, tenant, bodies + [b'{"action":"' + text + b'"}' for text in broken], 400, "VALIDATION_ERROR")
    for text in ["\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]:
        accepted(bench, tenant, in_params(json.dumps(text, ensure_ascii=False)))
        accepted(bench, tenant, in_params(json.dumps(text)))


def test_nul(bench):
    """Contract 2: a NUL byte or \\u0000 anywhere gets 400."""
    bodies = [b"\0", b'{"action":"meta.version"}\0', b'\0{"action":"meta.version"}', b'{"action":"meta.version\0"}',
              b'{"action":"meta.version\\u0000"}', b'{"action":"meta.\\u0000version"}', in_params('"\\u0000"'),
              in_params('{"a\\u0000b":1}'), in_params(b"\0"), in_params(b'"\0"'), b'{"action\\u0000":"meta.version"}',
              b"{\0}"]
    check_all(bench, bench.onboard(), bodies, 400, "VALIDATION_ERROR")


def test_duplicate_names(bench):
    """Contract 2: the same name twice in one object gets 400, even if written with escapes. In two objects it is
    fine."""
    tenant = bench.onboard()
    bodies = ['{"action":"meta.version","action":"meta.version"}', '{"action":"no.such","action":"meta.version"}',
              '{"action":"meta.version","params":{},"params":{}}',
              '{"action":"meta.version","\\u0061ction":"meta.version"}', in_params('{"a":1,"b":2,"a":1}'),
              in_params('[{"a":{"b":1,"b":2}}]'), in_params('{"":1,"":2}'), in_params('{"\\ud83d\\ude00":1,"😀":2}'),
              in_params('{"a\\/b":1,"a/b":2}')]
    check_all(bench, tenant, bodies, 400, "VALIDATION_ERROR")
    accepted(bench, tenant, in_params('[{"a":1},{"a":1,"A":{"a":1}}]'))


def test_field_of_a_parse_error(bench):
    """Contract 2: field is the JSON Pointer of the invalid value."""
    key = bench.onboard().key
    for value, field in [('[1,{"x":01}]', "/params/v/1/x"), ('{"a/b":tru}', "/params/v/a~1b")]:
        refused(bench.send("POST", MANAGE, in_params(value), key=key), 400, "VALIDATION_ERROR", field)


def test_numbers(bench):
    """Contract 2: integers beyond 2^53 are refused if they would be rounded. Numbers that overflow a double are
    refused."""
    tenant = bench.onboard()
    bodies = [in_params(n) for n in ["9007199254740993", "-9007199254740993", "[9007199254740995]",
                                     "18446744073709551615", "9223372036854775807", "1" + "2" * 400, "1e400", "-1e400",
                                     "1e99999999999", "1" + "0" * 400 + ".5", "0.2e309"]]
    check_all(bench, tenant, bodies, 400, "VALIDATION_ERROR")
    for number in ["9007199254740992", "-9007199254740992", "9007199254740994", "1e308", "1e-400", "0." + "1" * 400,
                   "-0", "123456789012345678e0"]:
        accepted(bench, tenant, in_params(number))


def test_depth(bench):
    """Contract 2: depth 32 is accepted; 33, 1,000 and 100,000 get 413, even if the brackets never close."""
    tenant = bench.onboard()
    inner = MAX_DEPTH - 2
    accepted(bench, tenant, in_params("[" * inner + "]" * inner))
    accepted(bench, tenant, in_params('{"a":' * inner + "1" + "}" * inner))
    bodies = [in_params("[" * n + "]" * n) for n in (inner + 1, 1000, 100000)]
    bodies += [in_params('{"a":' * n + "1" + "}" * n) for n in (inner + 1, 1000)]
    bodies += ["[" * 1000 + "]" * 1000, "[" * 1000, "[" * 200000, '{"a":' * 40000]
    check_all(bench, tenant, bodies, 413, "PAYLOAD_TOO_LARGE")


def test_tokens(bench):
    """Contract 2: 20,000 values and names are accepted, 20,001 get 413."""
    tenant = bench.onboard()
    # The envelope uses 7: two objects, their three names, the action, the array.
    room = MAX_TOKENS - 7
    accepted(bench, tenant, in_params("[" + ",".join(["0"] * room) + "]"))
    check_all(bench, tenant, [in_params("[" + ",".join(["0"] * (room + 1)) + "]"), "[" + ",".join(["0"] * 100000) + "]",
                           in_params("{" + ",".join('"%d":0' % n for n in range(MAX_TOKENS // 2)) + "}")],
              413, "PAYLOAD_TOO_LARGE")


def test_body_size(bench):
    """Contract 2: 256 KiB is accepted; one byte more, 2 MiB and 7 MiB get 413, whatever the content."""
    tenant = bench.onboard()
    exact = b'{"action":"no.such"}'.ljust(MAX_BYTES)
    accepted(bench, tenant, exact)
    text = in_params(b'"' + b"x" * (MAX_BYTES - len(in_params('""'))) + b'"')
    accepted(bench, tenant, text)
    bodies = [exact + b" ", in_params('"' + "x" * 2 * 1024 * 1024 + '"'), b"x" * 2 * 1024 * 1024,
              b"\0" * 7 * 1024 * 1024]
    check_all(bench, tenant, bodies, 413, "PAYLOAD_TOO_LARGE")


def test_far_too_large(bench):
    """A body of 16 MiB gets 413 from the web server or the program, and both continue to work."""
    key = bench.onboard().key
    head = "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reply = bench.raw((head % (MANAGE, 16 << 20)).encode() + b" " * 65536)
    check(reply and reply.status == 413, "not 413\n%s" % reply)
    succeeded(bench.call(key, "meta.version"))


def test_content_type(bench):
    """Contract 2: another or no content type gets 415. application/json is accepted with parameters and in any case."""
    key = bench.onboard().key
    body = {"action": "meta.version"}
    bad = ["text/plain", "text/json", "application/xml", "application/json5", "application/jsonlines", "json", "*/*",
           "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application",
           "text/plain, application/json", None]
    replies = [refused(bench.send("POST", MANAGE, body, key=key, content_type=kind), 415, "UNSUPPORTED_MEDIA_TYPE")
               for kind in bad]
    bench.audit_each(replies, tenant_id=NIL, status="error", error_code="UNSUPPORTED_MEDIA_TYPE", request_hash=None)
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON",
                 "application/json;charset=UTF-8", "application/json ; x=y"]:
        succeeded(bench.send("POST", MANAGE, body, key=key, content_type=kind))


def test_content_encoding(bench):
    """Contract 2: a body that is, or claims to be, compressed gets 415; identity is accepted."""
    key = bench.onboard().key
    body = b'{"action":"meta.version"}'
    replies = [refused(bench.send("POST", MANAGE, sent, {"Content-Encoding": name}, key), 415, "UNSUPPORTED_MEDIA_TYPE")
               for name, sent in [("gzip", gzip.compress(body)), ("gzip", body), ("br", body), ("deflate, gzip", body)]]
    bench.audit_each(replies, status="error", error_code="UNSUPPORTED_MEDIA_TYPE")
    succeeded(bench.send("POST", MANAGE, body, {"Content-Encoding": "identity"}, key))


def test_methods(bench):
    """Contract 2: methods other than POST get 405 with Allow: POST and have one audit row each, with or without a
    body."""
    tenant = bench.onboard()
    before = bench.audit_count(tenant)
    replies = [refused(bench.send(method, MANAGE, body, key=tenant.key), 405, "METHOD_NOT_ALLOWED")
               for method, body in [("GET", None), ("PUT", "{}"), ("DELETE", None), ("OPTIONS", None), ("PATCH", "{}"),
                                    ("PUT", "not json"), ("DELETE", "")]]
    for reply in replies:
        equal(reply.header("Allow"), "POST", "Allow")
    bench.audit_each(replies, tenant_id=NIL, status="error", error_code="METHOD_NOT_ALLOWED", billable=False,
                     action=None)
    head = bench.send("HEAD", MANAGE, key=tenant.key)
    equal((head.status, head.body), (405, b""), "HEAD")
    equal(bench.audit_count(tenant), before + len(replies) + 1, "audit rows")


def test_unknown_method(bench):
    """An unknown method is refused by the web server (501) or by us (405, with its audit row)."""
    tenant = bench.onboard()
    before = bench.audit_count(tenant)
    reply = bench.send("FOO", MANAGE, "{}")
    check(reply.status in (405, 501), "status\n%s" % reply)
    equal(bench.audit_count(tenant), before + reply.is_ours(), "audit rows")
    for method in ["post", "P\u00d6ST", "POST\x01", "A" * 300]:
        raw = bench.raw(("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % (method, MANAGE)).encode())
        check(raw is None or 400 <= raw.status <= 501, "%r\n%s" % (method, raw))
    succeeded(bench.call(bench.onboard().key, "meta.version"))


@only_on([server for server in SERVERS if server not in NOT_CHUNKED], "the others refuse chunked bodies")
def test_chunked(bench):
    """README: a chunked body works like one with a length; broken chunks do not reach the program."""
    tenant = bench.onboard()
    chunked = {"Transfer-Encoding": "chunked"}
    body = b"7\r\n{\"actio\r\n12\r\nn\":\"meta.version\"}\r\n0\r\n\r\n"
    succeeded(bench.send("POST", MANAGE, body, chunked, tenant.key))
    big = b'{"action":"no.such","params":{"v":"' + b"x" * 300000 + b'"}}'
    reply = bench.send("POST", MANAGE, b"%x\r\n%s\r\n0\r\n\r\n" % (len(big), big), chunked, tenant.key)
    refused(reply, 413, "PAYLOAD_TOO_LARGE")
    before = bench.audit_count(tenant)
    head = "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: %s\r\n" % (MANAGE, tenant.key)
    reply = bench.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")
    check(reply and reply.status == 400, "broken chunks\n%s" % reply)
    equal(bench.audit_count(tenant), before + reply.is_ours(), "audit rows")


@only_on(NOT_CHUNKED, "the others pass on chunked bodies")
def test_chunked_is_refused(bench):
    """README: mod_fcgid and Caddy would cut a chunked body short, so it gets 411 and does not reach the program."""
    tenant = bench.onboard()
    before = bench.audit_count(tenant)
    body = b"19\r\n{\"action\":\"meta.version\"}\r\n0\r\n\r\n"
    reply = bench.send("POST", MANAGE, body, {"Transfer-Encoding": "chunked"}, tenant.key)
    equal((reply.status, reply.header("Content-Type"), reply.json["ok"]), (411, "application/json", False), "the reply")
    equal(bench.audit_count(tenant), before, "audit rows")


def test_path_tricks(bench):
    """Contract 2: paths are routed on REQUEST_URI alone. An ambiguous path is never a call and never a 5xx."""
    tenant = bench.onboard()
    succeeded(bench.send("POST", MANAGE + "?x=1", {"action": "meta.version"}, key=tenant.key))
    before = bench.audit_count(tenant)
    tricks = ["//api/manage", "/api//manage", "/api/../api/manage", "/api/%2e%2e/api/manage", "/api/./manage",
              "/api%2Fmanage", "/api%2fmanage", "/api/manage/", "/api/manage/.", "/api/manage/..", "/api/manage%00",
              "/api/manage;x", "/API/manage", "/api/manage%20", "/api/manage%0d%0aX: y", "/api/manage%zz",
              "/api/manag\xe9", "/%2e/api/manage", "/api/manage%", "/..%2f..%2fetc/passwd",
              "/api/onboard/%2e%2e/manage", "/api\\manage", "/" + "a" * 4000, "/api/manage#x"]
    for path in tricks:
        reply = bench.raw(post(path, tenant.key))
        check(reply is None or 400 <= reply.status < 500, "%r\n%s" % (path, reply))
    equal(bench.audit_count(tenant), before, "audit rows")
    succeeded(bench.call(tenant.key, "meta.version"))


def post(path, key, more=""):
    body = '{"action":"meta.version"}'
    head = ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: %s\r\n"
            "Content-Length: %d\r\n%s\r\n")
    return (head % (path, key, len(body), more) + body).encode("latin-1")


def test_percent_encoded_letters(bench):
    """RFC 3986: %61 is the letter a, so /%61pi/manage is /api/manage or refused; never a 5xx."""
    reply = bench.raw(post("/%61pi/manage", bench.onboard().key))
    check(reply.status in (200, 400, 404), "status\n%s" % reply)


def test_absolute_form(bench):
    """RFC 9112: the absolute form of the request target is the same path."""
    key = bench.onboard().key
    reply = bench.raw(post("http://x/api/manage", key))
    check(reply and reply.status in (200, 400, 404), "status\n%s" % reply)
    if reply.status == 200:
        bench.audit(reply, status="success")
    for target in ["http://x", "http://", "http:///api/manage", "https://x//api/manage", "x:y", "*", "api/manage",
                   "://api/manage"]:
        reply = bench.raw(post(target, key))
        check(reply is None or reply.status < 500, "%r\n%s" % (target, reply))
    succeeded(bench.call(key, "meta.version"))


def test_lengths_that_lie(bench):
    """A body shorter than its length, two lengths, a negative or huge length: no success, no 5xx, and calls still
    work."""
    key = bench.onboard().key
    start = "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: %s\r\n" % (MANAGE, key)
    body = '{"action":"meta.version"}'
    cases = ["Content-Length: 1000\r\n\r\n" + body, "Content-Length: -1\r\n\r\n" + body,
             "Content-Length: 25\r\nContent-Length: 20\r\n\r\n" + body,
             "Content-Length: 99999999999999999999\r\n\r\n" + body, "Content-Length: 2x\r\n\r\n" + body,
             "Content-Length: 25\r\nTransfer-Encoding: chunked\r\n\r\n" + body, "Content-Length: 0x19\r\n\r\n" + body,
             "Transfer-Encoding: gzip\r\n\r\n" + body]
    for case in cases:
        reply = bench.raw((start + case).encode(), half_close=True)
        # mod_fcgid answers 500 to a client that closed before its body was complete.
        allowed = (500, 501) if bench.stack.server == "apache-fcgid" else (501,)
        check(reply is None or 400 <= reply.status < 500 or reply.status in allowed, "%r\n%s" % (case, reply))
    succeeded(bench.call(key, "meta.version"))


def test_header_tricks(bench):
    """Unusual headers are ignored or refused. They never cause a 5xx and never change the caller."""
    tenant, other = bench.onboard(), bench.onboard()
    cases = ["X_API_Key: %s\r\n" % other.key, "X-Api-Key : %s\r\n" % other.key, "X-API-Key: \r\n",
             "Authorization: \x01\r\n", "Proxy: http://127.0.0.1:1/\r\n",
             "X-Request-Id: 00000000-0000-0000-0000-000000000000\r\n", "traceparent: %s\r\n" % ("\xff" * 55),
             "Accept: %s\r\n" % ("a" * 3000), "X-Forwarded-For: 1.2.3.4\r\n", "Expect: 100-continue\r\n",
             "Connection: upgrade\r\nUpgrade: h2c\r\n", "X-HTTP-Method-Override: DELETE\r\n",
             "Content-Location: x\r\n folded\r\n", "%s: x\r\n" % ("h" * 2000), "X-Many: 1\r\n" * 80]
    for more in cases:
        reply = bench.raw(post(MANAGE, tenant.key, more))
        check(reply is None or reply.status in (100, 200, 400, 401, 417, 431), "%r\n%s" % (more, reply))
        if reply is not None and reply.status == 200:
            bench.audit(reply, tenant_id=tenant.id, ip_address="127.0.0.1")


def test_nonsense_protocols(bench):
    """Bytes that are not HTTP get 400 or a closed connection, and the server continues to work."""
    for data in [b"\0" * 100, b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST /api/manage\r\n\r\n",
                 b"\r\n" * 50, b"POST /api/manage HTTP/9.9\r\nHost: x\r\n\r\n", b"POST /api/manage HTTP/1.1\r\n\r\n"]:
        reply = bench.raw(data, half_close=True)
        check(reply is None or 400 <= reply.status <= 505, "%r\n%s" % (data, reply))
    succeeded(bench.call(bench.onboard().key, "meta.version"))


def test_client_that_leaves(bench):
    """A client that closes before its answer arrives affects only its own call."""
    tenant = bench.onboard()
    for _ in range(20):
        with socket.create_connection((bench.http.host, bench.http.port)) as connection:
            connection.sendall(post(MANAGE, tenant.key))
    for reply in parallel(16, lambda _: bench.call(tenant.key, "meta.version")):
        succeeded(reply)


def test_clients_that_stall(bench):
    """100 clients that stop in the middle of their request delay nobody else."""
    key = bench.onboard().key
    half = post(MANAGE, key)[:-5]
    with contextlib.ExitStack() as stalled:
        for _ in range(100):
            connection = stalled.enter_context(socket.create_connection((bench.http.host, bench.http.port)))
            connection.sendall(half)
        start = time.monotonic()
        for reply in parallel(16, lambda _: bench.call(key, "meta.version")):
            succeeded(reply)
        check(time.monotonic() - start < 4, "16 calls took %.1f s" % (time.monotonic() - start))


def test_onboarding_takes_the_same_care(bench):
    """Contract 2: the same limits apply to the other endpoint with a body, onboarding."""
    cases = [(b"\xff", 400), (b'{"agent_id":"a","agent_id":"b"}', 400), (b"[" * 1000, 413),
             (b'{"agent_id":"\\u0000"}', 400), (b"x" * 300000, 413), (b'{"agent_id":1e400}', 400)]
    replies = [bench.send("POST", ONBOARD, body) for body, _ in cases]
    equal([reply.status for reply in replies], [status for _, status in cases], "statuses")
    bench.audit_each(replies, tenant_id=NIL, status="error", action="onboard.leadscoring", request_hash=None)


def test_random_bytes(bench):
    """500 randomly altered calls from a fixed seed get 4xx or a success and one audit row each, and the process
    survives."""
    dice = random.Random(20261122)
    tenant = bench.onboard()
    good = json.dumps({"action": "domain.leadscoring.scores.compute", "dry_run": True, "idempotency_key": "x",
                       "params": {"weights": {"ü": 1.5}, "leads": [{"id": "a", "features": {"ü": 2}}]}}).encode()
    bodies = [altered(dice, good) for _ in range(500)]
    before = bench.audit_count(tenant)
    replies = spread(8, bodies, lambda body: bench.send("POST", MANAGE, body, key=tenant.key))
    for body, reply in zip(bodies, replies):
        check(reply.status in (200, 400, 404, 413), "%r\n%s" % (body, reply))
    bench.audit_each(replies)
    equal(bench.audit_count(tenant), before + len(bodies), "audit rows")


def altered(dice, text):
    """The text with one to four changes: a byte replaced, removed or inserted, or a piece repeated."""
    out = bytearray(text)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out))
        kind = dice.randrange(4)
        if kind == 0:
            out[at] = dice.randrange(256)
        elif kind == 1:
            del out[at]
        elif kind == 2:
            out.insert(at, dice.choice(b'{}[]",:\\0e-\xff\0'))
        else:
            out[at:at] = out[at:at + dice.randint(1, 20)]
    return bytes(out)
