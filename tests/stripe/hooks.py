"""Webhooks like Stripe's: signed over the raw body, retried until a 2xx, in no guaranteed order."""

import hashlib
import hmac
import random
import threading
import time
import urllib.error
import urllib.request

from account import encoded

TRIES = 12


def signature(secrets, body, at):
    """Builds the header Stripe-Signature: one v1 for each secret; secrets are separated by spaces."""
    signed = b"%d.%s" % (at, body)
    macs = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets.split()]
    return ",".join(["t=%d" % at] + ["v1=" + mac for mac in macs])


class Hooks:
    def __init__(self, url, secret):
        self.url, self.secret = url, secret
        self.hold = False  # events wait until release()
        self.duplicate = 0  # number of additional deliveries of each event
        self.shuffle = False
        self.skew = 0  # shift of the signature timestamp, in seconds
        self.delivered = {}  # event id -> number of 2xx answers
        self.failed = {}  # event id -> the last failure
        self._waiting = []
        self._open = 0  # deliveries in progress or to be retried
        self._lock = threading.Lock()

    def put(self, events):
        if not self.url:
            return
        with self._lock:
            self._waiting += [event for event in events for _ in range(1 + self.duplicate)]
        if not self.hold:
            self.release()

    def release(self):
        with self._lock:
            batch, self._waiting = self._waiting, []
            self._open += len(batch)
        if self.shuffle:
            random.shuffle(batch)
        if batch:
            threading.Thread(target=self._send_all, args=(batch,), daemon=True).start()

    def state(self):
        with self._lock:
            return {"waiting": len(self._waiting), "under_way": self._open, "delivered": dict(self.delivered),
                    "failed": dict(self.failed)}

    def _send_all(self, batch):
        for event in batch:
            if self._send(event):
                self._end()
            else:
                threading.Thread(target=self._again, args=(event,), daemon=True).start()

    def _again(self, event):
        """Retries a delivery. Stripe retries for days at growing intervals; here the intervals are short."""
        for number in range(TRIES):
            time.sleep(min(0.1 * 2 ** number, 5))
            if self._send(event):
                break
        self._end()

    def _end(self):
        with self._lock:
            self._open -= 1

    def _send(self, event):
        body = encoded(event)
        request = urllib.request.Request(self.url, body, {
            "Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0 (stand-in)",
            "Stripe-Signature": signature(self.secret, body, int(time.time()) + self.skew)})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                answer.read()
        except (OSError, ValueError) as error:
            with self._lock:
                self.failed[event["id"]] = str(error)
            return False
        with self._lock:
            self.delivered[event["id"]] = self.delivered.get(event["id"], 0) + 1
            self.failed.pop(event["id"], None)
        return True
