"""A tenant that takes all it can get, in the ways of tests/fairness, and what the others may notice of it."""

import contextlib
import json
import time
from collections import Counter

import attacks
from checks import check, until
from workload import CREATE_KEY, LIMITED, REVOKE_KEY, UNKNOWN

NAMES = ("slow upstream", "slow SQL, many", "large replies", "large bodies", "refused by an approval", "wrong keys",
         "flood of paid calls")
CALM = 1.5  # seconds without a refusal, so that what comes then is not due to an earlier fault
GETTING_CALM = 60
BOUND = 120  # seconds after which an attack ends by itself


class Neighbour:
    """The tenants of the attacks. Their calls are not those of the load, which is compared with nobody."""

    def __init__(self, stack, load):
        self.stack, self._load = stack, load
        attacker, paying = (load.tenant(name, hidden=True) for name in ("attacker", "paying"))
        self.attacker, self.attacker_id, self.paying = attacker.key, attacker.id, paying.key
        self._attacks = [attack for attack in attacks.ATTACKS if attack.name in NAMES]
        for attack in self._attacks:
            if attack.prepare:
                attack.prepare(self)
        self.windows = []  # (attack, begin, end)

    def choose(self, choice):
        return choice.choice(self._attacks)

    def await_calm(self):
        def is_calm():
            answers = list(self._load.since(time.monotonic() - CALM))
            return answers and not refused(answers)
        until(GETTING_CALM, "calls are answered again before the attack", is_calm, 0.1)

    @contextlib.contextmanager
    def attacking(self, attack):
        """Yields a list that has the attacker's answers at the end."""
        plan = {"url": self.stack.url, "connections": attack.connections, "pause": attack.pause, "seconds": BOUND,
                "requests": attack.requests(self)}
        process, counts = attacks.program("attacker.py", plan), []
        begin = time.monotonic()
        try:
            yield counts
        finally:
            self.windows.append((attack.name, begin, time.monotonic()))
            said = process.communicate(timeout=BOUND)[0]
        check(process.returncode == 0, "the attacker: exit %d" % process.returncode)
        counts.extend("%d × %s" % (count, status) for status, count in sorted(json.loads(said).items()))

    def check(self, expect):
        for name, wrong in judge(self._load.answers(), self.windows).items():
            expect(name, wrong)


def refused(answers):
    """Those that the host refused: for lack of room, or not at all. A key may make only some keys a minute."""
    return [a for a in answers if a.status in (UNKNOWN, 503) or (
        a.status == LIMITED and a.request.action not in (CREATE_KEY, REVOKE_KEY))]


def judge(answers, windows):
    """Returns promise -> violations. Only calls that began and ended during the attack count."""
    during = Counter()
    wrong = []
    for name, begin, end in windows:
        mine = [a for a in answers if begin <= a.started and a.ended <= end]
        during[name] += len(mine)
        wrong += ["%s: %s" % (name, a) for a in refused(mine)]
        if not any(a.good for a in mine):
            wrong.append("%s: not one success in %.1f s" % (name, end - begin))
    return {"no call is refused because of a neighbour (%d attacks, %d calls meanwhile)" % (
        len(windows), sum(during.values())): wrong}
