"""Tools for tests: check a condition, wait for a condition, run work concurrently.

Used by the tests here, and by tests/fault, tests/bench, tests/console, tests/torture and tests/abuse, which run without
pytest.
"""

import functools
import threading
import time


class Skip(Exception):
    """Raised, with the reason, by a test that cannot run here."""


class Failure(AssertionError):
    """Raised by the checks below."""


def check(condition, message):
    if not condition:
        raise Failure(message)


def equal(actual, wanted, what):
    if actual != wanted or isinstance(actual, bool) != isinstance(wanted, bool):
        if isinstance(actual, dict) and isinstance(wanted, dict):
            actual, wanted = only_different(actual, wanted), only_different(wanted, actual)
        raise Failure("%s: %s instead of %s" % (what, clipped(repr(actual)), clipped(repr(wanted))))


def only_different(members, others):
    return {name: value for name, value in members.items() if name not in others or others[name] != value}


def clipped(text, limit=1500):
    return text if len(text) <= limit else "%s… (%d characters)" % (text[:limit], len(text))


def until(seconds, what, probe, pause=0.02):
    """Repeats probe() until it returns a true value, and returns that value."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failure("%s: not within %g s" % (what, seconds))
        time.sleep(pause)


def wait_for_midnight(seconds=60):
    """If it is less than so many seconds to midnight (UTC), waits for it. A test that counts the calls of a month must not
    run over the month's end. Any midnight may be one, because some tests set the program's clock days back."""
    left = 86400 - time.time() % 86400
    if left < seconds:
        time.sleep(left + 0.1)


def slowness():
    """The factor by which this process currently runs slower than on an idle machine (1), because others use the
    processors. It scales time limits of work that takes almost no time itself."""
    start, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.05:
        pass
    return max(1.0, (time.monotonic() - start) / 0.05)


def parallel(count, work):
    """Runs work(0) … work(count - 1) concurrently, released together; returns their results."""
    results = [None] * count
    errors = []
    gate = threading.Barrier(count)

    def run(number):
        try:
            gate.wait(60)
            results[number] = work(number)
        except BaseException as error:  # reported in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    check(not any(thread.is_alive() for thread in threads), "a call did not return within 120 s")
    if errors:
        raise errors[0]
    return results


def spread(threads, items, work):
    """Runs work(item) for every item on this number of threads; returns the results in the order of items."""
    items = list(items)
    results = [None] * len(items)
    lock = threading.Lock()
    numbers = iter(range(len(items)))

    def run(_):
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            results[number] = work(items[number])

    parallel(threads, run)
    return results


PATIENCE = 90  # seconds; client.py gives up on a call after 70, which its test then handles


class Load:
    """A context manager. Its threads repeat work() until the block ends; then .results has the results."""

    def __init__(self, threads, work):
        self.results = []
        self.errors = []
        self._stopping = threading.Event()
        self._work = work
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self):
        while not self._stopping.is_set():
            try:
                self.results.append(self._work())
            except BaseException as error:
                self.errors.append(error)
                return

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        self._stopping.set()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        if kind is None:
            alive = any(thread.is_alive() for thread in self._threads)
            check(not alive, "a call did not return within %d s" % PATIENCE)
            if self.errors:
                raise self.errors[0]


def only_on(servers, why):
    """Decorator: runs the test with these web servers only."""
    def decorate(function):
        @functools.wraps(function)
        def guarded(bench):
            if bench.stack.server not in servers:
                raise Skip("%s only: %s" % (", ".join(servers), why))
            function(bench)
        return guarded
    return decorate
