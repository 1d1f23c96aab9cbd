#!/usr/bin/env python3
"""Example of an upstream behind an action of kind http (actions.d/wordcount.json): counts words.

  upstream.py [PORT]      listens on 127.0.0.1, by default on port 8765

A request has {action, params, dry_run, tenant_id, request_id, idempotency_key}. A reply has {data, quantity,
result_meta}; the quantity is billed. An upstream that changes something should store its replies by tenant_id, action
and idempotency_key for a day, and answer a repeated call with the stored reply.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 1 << 20


def count_words(call):
    words = call["params"]["text"].split()
    if call["dry_run"]:
        impact = {"creates": [], "updates": [], "deletes": [], "side_effects": [], "risk": "low", "warnings": []}
        return {"data": impact, "quantity": len(words)}
    return {"data": {"words": len(words), "distinct": len(set(words))}, "quantity": len(words),
            "result_meta": {"resource_type": "text", "count": len(words)}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between calls

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        if length > LIMIT:
            self.close_connection = True
            self.answer(413, {"error": "the request is too large"})
            return
        body = self.rfile.read(length)
        if self.path != "/wordcount":
            self.answer(404, {"error": "no such path"})
            return
        try:
            result = count_words(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.answer(400, {"error": "text must be a string", "field": "/params/text"})
        else:
            self.answer(200, result)

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
    with Server(("127.0.0.1", port), Handler) as server:
        print("listening on http://127.0.0.1:%d" % server.server_port, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
