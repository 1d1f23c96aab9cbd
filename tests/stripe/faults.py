"""Faults on request: refused, slow and lost replies."""

import fnmatch
import threading


class Faults:
    """Each fault has: path (a pattern like /v1/invoices/*/pay), method (default all), after (number of requests that
    pass first), times (default 1; -1: always), and its parameter: status, seconds or nothing."""

    def __init__(self):
        self._faults = []
        self._lock = threading.Lock()

    def add(self, kind, fault):
        known = {"path", "method", "after", "times", "status", "seconds", "stored", "should_retry"}
        if set(fault) - known or "path" not in fault:
            raise ValueError("a fault has a path and any of: " + " ".join(sorted(known)))
        with self._lock:
            self._faults.append({"kind": kind, "after": 0, "times": 1, **fault})

    def clear(self):
        with self._lock:
            self._faults.clear()

    def take(self, method, path):
        """Returns the faults for this request: kind -> fault. Each counts as used once."""
        found = {}
        with self._lock:
            for fault in self._faults:
                if (not fnmatch.fnmatchcase(path, fault["path"]) or fault.get("method", method) != method or
                        fault["kind"] in found or fault["times"] == 0):
                    continue
                if fault["after"] > 0:
                    fault["after"] -= 1
                    continue
                fault["times"] -= 1 if fault["times"] > 0 else 0
                found[fault["kind"]] = fault
        return found
