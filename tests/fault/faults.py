"""Kills processes and restarts them. Always SIGKILL: no process may say goodbye or flush anything."""

import os
import random
import signal
import time

from background import Background
from checks import until
from stack import children, end_quietly, is_running

# kind: frequency under lighttpd, which passes requests to a supervised responder. Under Apache there is no supervisor;
# Apache itself starts missing processes.
KINDS = {"worker": 40, "supervisor": 10, "responders": 10, "postgres": 30, "everything": 10}
APACHE_KINDS = {"worker": 50, "responders": 10, "postgres": 30, "everything": 10}


class Fault:
    def __init__(self, kind, at):
        self.kind = kind
        self.at = at
        self.pause = 0.0  # deliberate down time
        self.back = None  # when the killed processes were running again


def kill_postgres(stack):
    """Stops the postmaster first, so that it starts no children while they are counted."""
    postmaster = stack.postmaster
    os.kill(postmaster, signal.SIGSTOP)
    victims = [postmaster] + children(postmaster)
    end_quietly(victims)
    until(20, "PostgreSQL's processes are gone", lambda: not any(is_running(pid) for pid in victims))


class Injector(Background):
    """Kills something every few seconds until stop(). The seed gives the order and the pauses."""

    def __init__(self, stack, seed, gaps):
        super().__init__()
        self._stack = stack
        self._choice = random.Random("%s/faults" % seed)
        self._gaps = gaps
        self._kinds = APACHE_KINDS if stack.server == "apache-fcgid" else KINDS
        self.faults = []

    def _order(self):
        """Yields PostgreSQL first, because every run must include it, then each kind once, then random kinds."""
        first = [kind for kind in self._kinds if kind != "postgres"]
        self._choice.shuffle(first)
        yield from ["postgres"] + first
        while True:
            yield self._choice.choices(list(self._kinds), list(self._kinds.values()))[0]

    def _work(self):
        for kind in self._order():
            if self._stopping.wait(self._choice.uniform(*self._gaps)):
                return
            getattr(self, "_" + kind)(self._choice.uniform(0, 2))

    def _begin(self, kind):
        fault = Fault(kind, time.monotonic())
        self.faults.append(fault)
        return fault

    def _end(self, fault):
        fault.back = time.monotonic()

    def _rest(self, fault, pause):
        fault.pause = pause
        time.sleep(pause)

    def _start_responder(self):
        """Restarts the responder like a service manager. Apache does that itself."""
        if self._stack.server != "apache-fcgid":
            self._stack.restart_responder()

    def _all_responders(self):
        supervisor = [] if self._stack.server == "apache-fcgid" else [self._stack.supervisor]
        return supervisor + self._stack.responders()

    def _worker(self, _):
        workers = sorted(self._stack.responders())
        if not workers:
            return
        end_quietly([self._choice.choice(workers)])
        fault = self._begin("worker")
        self._end(fault)

    def _supervisor(self, _):
        end_quietly([self._stack.supervisor])
        fault = self._begin("supervisor")
        self._start_responder()
        self._end(fault)

    def _responders(self, _):
        end_quietly(self._all_responders())
        fault = self._begin("responders")
        self._start_responder()
        self._end(fault)

    def _postgres(self, pause):
        kill_postgres(self._stack)
        fault = self._begin("postgres")
        self._rest(fault, pause)
        self._stack.restart_postgres()
        self._end(fault)

    def _restart_killed_postgres(self, pause):
        kill_postgres(self._stack)
        time.sleep(pause)
        self._stack.restart_postgres()

    def _everything(self, pause):
        end_quietly(self._all_responders())
        kill_postgres(self._stack)
        fault = self._begin("everything")
        self._rest(fault, pause)
        self._stack.restart_postgres()
        self._start_responder()
        self._end(fault)
