"""The tenants that have a part of their own in a run, beside the load: what they need, and the faults they cause."""

import contextlib
import os
import tempfile
import time

from actions import FUNCTIONS, Upstream
from approvals import Approvals
from background import Background
from neighbours import Neighbour
from quantities import Quantities, is_absurd
from receivers import Receivers
from stack import end_quietly

SETTINGS = """webhook_allow_http = on
webhook_allow_private = on
actions_dir = %s
"""
# kind: frequency.
KINDS = {"approvals decided": 4, "slow neighbour": 4, "slow receivers": 4,
         "absurd quantities": 4}


class Tenants:
    """A context manager: the upstream of their actions, and the folder of these. set_up() makes the tenants."""

    def __enter__(self):
        with contextlib.ExitStack() as cleaning:
            self.upstream = cleaning.enter_context(Upstream())
            self._folder = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="acp-fault-"))
            os.chmod(self._folder, 0o755)
            self.upstream.write_actions(self._folder)
            self._cleaning = cleaning.pop_all()
        self._parts = []
        self.quantities = None
        return self

    def __exit__(self, *_):
        self._cleaning.close()

    @property
    def settings(self):
        return SETTINGS % self._folder

    def set_up(self, stack, bench, load, seed, only):
        """Makes the tenants of these kinds; all of them if there is no choice."""
        bench.db.execute(FUNCTIONS)
        if not only or "approvals decided" in only:
            self.approvals = Approvals(stack, load, bench, self.upstream, seed)
            self._parts.append(self.approvals)
        if not only or "slow neighbour" in only:
            self.neighbour = Neighbour(stack, load)
            self._parts.append(self.neighbour)

        if not only or "slow receivers" in only:
            self.receivers = Receivers(stack, load, bench, self.upstream, seed)
            self._parts.append(self.receivers)

        if not only or "absurd quantities" in only:
            self.quantities = Quantities(stack, load, bench, seed)
            self._parts.append(self.quantities)

    def must_fail(self, answer):
        return is_absurd(answer.request)

    def repair(self):
        """Repairs a month that cannot be billed. Returns whether there was anything to repair."""
        return self.quantities is not None and self.quantities.repair()

    def _callers(self):
        return [part for part in self._parts if isinstance(part, Background)]

    def start(self):
        for part in self._callers():
            part.start()

    def stop(self):
        for part in self._callers():
            part.stop()

    def check(self, expect):
        """expect(promise, violations) is called with each result."""
        for part in self._parts:
            part.check(expect)


class TenantFaults:
    """The faults of Regime that these tenants cause."""

    def _disturb(self, pause):
        """Causes, or does not cause, another fault meanwhile. Returns its description."""
        what = self._choice.choice(["nothing else", "a worker killed", "responders killed", "PostgreSQL killed",
                                    "commits late"])
        time.sleep(self._seconds(0, 0.5))
        if what == "a worker killed":
            end_quietly(self._stack.responders()[:1])
        elif what == "responders killed":
            end_quietly(self._all_responders())
            self._start_responder()
        elif what == "PostgreSQL killed":
            self._restart_killed_postgres(pause)
        elif what == "commits late":
            with self._network.doing("commits", self._choice.uniform(0.5, 3)):
                self._wait(1, 4)
        return what

    def _approvals_decided(self, pause):
        with self._fault():
            with self._world.tenants.approvals.many():
                note = self._disturb(pause)
            self._note = ": several at once, " + note

    def _slow_receivers(self, pause):
        with self._fault():
            with self._world.tenants.receivers.many():
                note = self._disturb(pause)
                self._wait(0.5, 3)
            self._note = ": " + note

    def _absurd_quantities(self, pause):
        with self._fault():
            with self._world.tenants.quantities.many():
                note = self._disturb(pause)
            self._note = ": " + note

    def _slow_neighbour(self, _):
        neighbour = self._world.tenants.neighbour
        attack = neighbour.choose(self._choice)
        neighbour.await_calm()
        with self._fault():
            with neighbour.attacking(attack) as counts:
                self._wait(3, 8)
            self._note = ": %s, answered %s" % (attack.name, ", ".join(counts))
