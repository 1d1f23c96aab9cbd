"""Sends the documents of a published JSON parser suite as bodies of POST /api/manage.

  parser.py DOCUMENTS.json URL KEY-FILE

DOCUMENTS.json: [[name, text], …]. The prefix of a name tells the expected result: y_ must be accepted as JSON (the call
may still fail for another reason), n_ must be refused as malformed, i_ may be either. The service must survive all of
them. Documents that were not UTF-8 have U+FFFD for the lost bytes in the npm package. They are sent as they are, and
with FF bytes in those places.
"""

import http.client
import json
import sys
import urllib.parse

# Valid by RFC 8259, but refused (core/json/json.h gives the reasons).
STRICTER = {
    "y_object_duplicated_key.json": "two members of the same name",
    "y_object_duplicated_key_and_value.json": "two members of the same name",
    "y_object_escaped_null_in_key.json": "U+0000",
    "y_string_null_escape.json": "U+0000",
}
# Malformed, but refused earlier because they are nested deeper than 32.
TOO_DEEP = {"n_structure_100000_opening_arrays.json", "n_structure_open_array_object.json"}

passed = failed = skipped = 0


def send(connection, key, body):
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    connection.request("POST", "/api/manage", body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text)


def verdict(name, status, reply):
    """Returns what is wrong with an answer, or None."""
    malformed = status == 400 and reply.get("error", "").startswith("malformed JSON at byte ")
    if status >= 500 or status == 429:
        return "was answered with {}".format(status)
    if name in TOO_DEEP:
        return None if status == 413 and reply["code"] == "PAYLOAD_TOO_LARGE" else "must be refused as too deep"
    if name[0] == "n" and not malformed:
        return "must be refused as malformed JSON"
    if name[0] == "y" and malformed:
        return "must be accepted"
    return None


def check(connection, key, name, body):
    global passed, failed, skipped
    status, reply = send(connection, key, body)
    if name in STRICTER and status == 400 and STRICTER[name] in reply["error"]:
        skipped += 1
        print("skip: {}: this reader is stricter than RFC 8259, on purpose: {}".format(name, STRICTER[name]))
        return
    wrong = verdict(name, status, reply)
    if wrong:
        failed += 1
        print("FAIL {}: {}: {} {}".format(name, wrong, status, json.dumps(reply)[:300]))
    else:
        passed += 1


def main():
    path, url, key_file = sys.argv[1:]
    with open(key_file, encoding="ascii") as file:
        key = file.read().strip()
    with open(path, encoding="utf-8") as file:
        documents = json.load(file)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)
    for name, text in documents:
        body = text.encode("utf-8", "surrogatepass")
        check(connection, key, name, body)
        if "\ufffd" in text:
            check(connection, key, name, body.replace(b"\xef\xbf\xbd", b"\xff"))
    kinds = {kind: sum(name[0] == kind for name, _ in documents) for kind in "yni"}
    print("{y} documents that must be accepted, {n} that must be refused, {i} that may be either".format(**kinds))
    print("suite json-parser: {} passed, {} failed, {} skipped".format(passed, failed, skipped))
    return 0 if passed and not failed else 1


sys.exit(main())
