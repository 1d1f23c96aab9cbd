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
KINDS = {"approvals decided": 4, "slow neighbour": 4, "slow receivers": 4, "absurd quantities": 4}


class Tenants:
    """A context manager: the upstream of their actions, and the folder of these. set_up() makes the tenants."""

    def __enter__(self):
        with contextlib.ExitStack() as cleaning:
            self.upstream = cleaning.enter_context(Upstream())
            self._folder = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="acp-fault-"))
            os.chmod(self._folder, 0o755)
            self.upstream.write_actions(self._folder)
            self._cleaning = cleaning.pop_all()
        self._parts = {}
        return self

    def __exit__(self, *_):
        self._cleaning.close()

    @property
    def settings(self):
        return SETTINGS % self._folder

    def set_up(self, stack, bench, load, seed, only):
        """Makes the tenants of these kinds; all of them if there is no choice."""
        bench.db.execute(FUNCTIONS)
        makers = {"approvals decided": lambda: Approvals(stack, load, bench, self.upstream, seed),
                  "slow neighbour": lambda: Neighbour(stack, load),
                  "slow receivers": lambda: Receivers(stack, load, bench, self.upstream, seed),
                  "absurd quantities": lambda: Quantities(stack, load, bench, seed)}
        self._parts = {kind: make() for kind, make in makers.items() if not only or kind in only}

    def of(self, kind):
        return self._parts[kind]

    def must_fail(self, answer):
        return is_absurd(answer.request)

    def repair(self):
        """Repairs a month that cannot be billed. Returns whether there was anything to repair."""
        quantities = self._parts.get("absurd quantities")
        return quantities is not None and quantities.repair()

    def _callers(self):
        return [part for part in self._parts.values() if isinstance(part, Background)]

    def start(self):
        for part in self._callers():
            part.start()

    def stop(self):
        for part in self._callers():
            part.stop()

    def check(self, expect):
        """expect(promise, violations) is called with each result."""
        for part in self._parts.values():
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

    def _many(self, kind, pause, while_many=lambda: None):
        """Has the tenants of this kind send many calls, and disturbs them."""
        with self._fault():
            with self._world.tenants.of(kind).many():
                note = self._disturb(pause)
                while_many()
            self._note = ": " + note

    def _approvals_decided(self, pause):
        self._many("approvals decided", pause)

    def _absurd_quantities(self, pause):
        self._many("absurd quantities", pause)

    def _slow_receivers(self, pause):
        self._many("slow receivers", pause, lambda: self._wait(0.5, 3))

    def _slow_neighbour(self, _):
        neighbour = self._world.tenants.of("slow neighbour")
        attack = neighbour.choose(self._choice)
        neighbour.await_calm()
        with self._fault():
            with neighbour.attacking(attack) as counts:
                self._wait(3, 8)
            self._note = ": %s, answered %s" % (attack.name, ", ".join(counts))
