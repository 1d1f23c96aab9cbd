#!/usr/bin/env python3
"""Recomputes each text and hash of vectors.json: an independent implementation of docs/internals.md, "The chain's text"."""
import hashlib, ipaddress, json, os, struct, sys
from datetime import datetime, timedelta
FIELDS = """event_id request_id ts tenant_id integration pack action actor_type actor_id api_key_id request_hash status
    error_code error_message_redacted result_meta latency_ms ip_address idempotency_key dry_run policy_decision_id
    trace_id billable billing_unit billing_quantity tier""".split()
PERSONAL = ("actor_id", "error_message_redacted", "ip_address", "idempotency_key")
FORMS = {"ts": lambda v: str((datetime.fromisoformat(v[:-1]) - datetime(1970, 1, 1)) // timedelta(microseconds=1)),
         "ip_address": lambda v: "/".join([ipaddress.ip_address(v.split("/")[0]).packed.hex()] + v.split("/")[1:]),
         "latency_ms": lambda v: struct.pack(">f", v).hex()}
def ordered(value):
    if isinstance(value, dict):
        return {k: ordered(value[k]) for k in sorted(value, key=lambda k: (len(k.encode()), k.encode()))}
    return [ordered(v) for v in value] if isinstance(value, list) else value
def line(name, text):
    return (name + (" -\n" if text is None else " %d:%s\n" % (len(text.encode()), text))).encode()
def entry(row, name):
    value, text = row["columns"].get(name), row["erased"].get(name)
    if value is not None:
        text = value if isinstance(value, str) else json.dumps(ordered(value), ensure_ascii=False)
        text = FORMS[name](value) if name in FORMS else text
        if name in PERSONAL:
            text = hashlib.sha256(bytes.fromhex(row["salt"]) + line(name, text)).hexdigest()
    return line(name, text)
rows = json.load(open(os.path.join(sys.path[0], "vectors.json"), encoding="utf-8"))
texts = [b"acp audit row 2\n" + b"".join(entry(row, name) for name in FIELDS) for row in rows]
bad = [row["name"] for row, text in zip(rows, texts) if row["text"] != text.decode()
       or row["hash"] != hashlib.sha256(bytes.fromhex(row["before"]) + text).hexdigest()]
sys.exit(print("suite chain: %d passed, %d failed, 0 skipped %s" % (len(rows) - len(bad), len(bad), bad)) or bool(bad))
