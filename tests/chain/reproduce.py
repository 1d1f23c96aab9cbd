#!/usr/bin/env python3
"""Makes each text and hash of vectors.json anew: docs/internals.md, "The chain's text", as a program of its own."""
import hashlib, ipaddress, json, os, struct, sys
from datetime import datetime, timedelta
FIELDS = """event_id request_id ts tenant_id integration pack action actor_type actor_id api_key_id request_hash status
    error_code error_message_redacted result_meta latency_ms ip_address idempotency_key dry_run policy_decision_id
    trace_id billable billing_unit billing_quantity tier""".split()
def ordered(value):
    if isinstance(value, dict):
        return {k: ordered(value[k]) for k in sorted(value, key=lambda k: (len(k.encode()), k.encode()))}
    return [ordered(v) for v in value] if isinstance(value, list) else value
def line(name, value):
    if name == "ts":
        value = (datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ") - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    elif name == "ip_address":
        value = ipaddress.ip_address(value.split("/")[0]).packed.hex() + "".join("/" + n for n in value.split("/")[1:])
    elif name == "latency_ms":
        value = struct.pack(">f", value).hex()
    return put(name, value if isinstance(value, str) else json.dumps(ordered(value), ensure_ascii=False))
def put(name, text):
    return ("%s %d:%s\n" % (name, len(text.encode()), text)).encode()
def entry(row, name):
    if row["columns"].get(name) is None:
        return put(name, row["erased"][name]) if name in row["erased"] else name.encode() + b" -\n"
    if name not in ("actor_id", "error_message_redacted", "ip_address", "idempotency_key"):
        return line(name, row["columns"][name])
    return put(name, hashlib.sha256(bytes.fromhex(row["salt"]) + line(name, row["columns"][name])).hexdigest())
def good(row):
    text = b"acp audit row 2\n" + b"".join(entry(row, name) for name in FIELDS)
    digest = hashlib.sha256(bytes.fromhex(row["before"]) + text).hexdigest()
    return (row["text"], row["hash"]) == (text.decode(), digest)
rows = json.load(open(os.path.join(sys.path[0], "vectors.json"), encoding="utf-8"))
bad = [row["name"] for row in rows if not good(row)]
print("suite chain: %d passed, %d failed, 0 skipped %s" % (len(rows) - len(bad), len(bad), " ".join(bad)))
sys.exit(bool(bad))
