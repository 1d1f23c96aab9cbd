"""Controls the stand-in for Stripe (tests/stripe): starts it on a free port, sends it commands, reads its objects."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

from checks import Failure, check

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "stripe", "stand_in.py")
KEY = "sk_test_" + "e2eStandInKey0123456789"
SECRET = "whsec_" + "e2eStandInSecret0123456789"


class StandIn:
    """A stand-in for one test; a context manager that stops it."""

    def __init__(self, key=KEY, webhook_url="", webhook_secret=SECRET, state=None, port=0):
        self.key, self.secret = key, webhook_secret
        self._command = [sys.executable, "-B", PROGRAM, "--port", str(port)]
        self._command += ["--webhook-url", webhook_url] if webhook_url else []
        self._command += ["--state", state] if state else []
        self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        environment = {**os.environ, "STAND_IN_KEY": self.key, "STAND_IN_WEBHOOK_SECRET": self.secret}
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                         env=environment)
        line = self._process.stdout.readline()
        if "http://" not in line:
            self.stop()
            raise Failure("the stand-in for Stripe did not start")
        self.url = line.split()[-1]
        # After a restart, clients find it at the same port.
        self._command[self._command.index("--port") + 1] = self.url.rpartition(":")[2]

    def stop(self):
        """Stops it. Its objects are lost, unless it has a state file."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()

    def settings(self):
        """Settings for acp.conf."""
        return {"stripe_url": self.url, "stripe_key": self.key, "stripe_webhook_secret": self.secret}

    # Requests -------------------------------------------------------------------------------------------------------

    def request(self, method, path, params=None, headers=None, key=None):
        """Sends a request like Stripe's own library; returns (status, body). params: the fields of the form."""
        form = urllib.parse.urlencode(params or {})
        request = urllib.request.Request(self.url + path, form.encode() if method == "POST" else None, method=method,
                                         headers=dict(headers or {}))
        if method != "POST" and form:
            request.full_url += "?" + form
        shown = base64.b64encode((key or self.key).encode() + b":").decode()
        request.add_header("Authorization", "Basic " + shown)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, method, path, params=None, headers=None):
        """Sends a request that must succeed; returns the body."""
        status, body = self.request(method, path, params, headers)
        check(status == 200, "stand-in: %s %s: %d %s" % (method, path, status, body))
        return body

    def all(self, path, **params):
        """Every object of a list, newest first."""
        found = []
        while True:
            page = self.ask("GET", path, {"limit": 100, **params})
            found += page["data"]
            if not page["has_more"]:
                return found
            params["starting_after"] = page["data"][-1]["id"]

    def complete(self, url, card="4242424242424242"):
        """Completes a checkout page as the human; returns the URL of the redirect."""
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None
        try:
            urllib.request.build_opener(Stay).open(url, urllib.parse.urlencode({"card": card}).encode(), timeout=30)
        except urllib.error.HTTPError as error:
            with error:
                check(error.code == 303, "the checkout page answered %d" % error.code)
                return error.headers["Location"]
        raise Failure("the checkout page did not redirect the human")

    # Commands -------------------------------------------------------------------------------------------------------

    def control(self, **orders):
        """Sends commands (see stand_in.py); returns the report."""
        request = urllib.request.Request(self.url + "/_control", json.dumps(orders).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise Failure("stand-in: command refused: %s" % error.read().decode())

    def report(self):
        return self.control()

    def requests(self, method=None, path=None):
        """The requests so far, optionally of one method and path."""
        return [r for r in self.report()["requests"] if method in (None, r["method"]) and path in (None, r["path"])]
