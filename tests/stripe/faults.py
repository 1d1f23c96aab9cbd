"""What goes wrong on request: replies that are refused, slow or lost."""

import fnmatch
import threading


class Faults:
    """Each fault: path (a pattern like /v1/invoices/*/pay), method (all), after (so many requests pass first), times
    (1; -1: always), and what it is: status, seconds or nothing."""

    def __init__(self):
        self._faults = []
        self._lock = threading.Lock()

    def add(self, kind, fault):
        known = {"path", "method", "after", "times", "status", "seconds", "stored", "should_retry"}
        if set(fault) - known or "path" not in fault:
            raise ValueError("a fault has a path, and of these: " + " ".join(sorted(known)))
        with self._lock:
            self._faults.append({"kind": kind, "after": 0, "times": 1, **fault})

    def clear(self):
        with self._lock:
            self._faults.clear()

    def take(self, method, path):
        """The faults that this request meets: kind -> fault. Each is used up by it."""
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
