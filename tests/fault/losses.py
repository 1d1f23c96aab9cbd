"""What a restore of the database takes back: the calls that were answered after its backup, and exactly those."""

import copy
import math


class Loss:
    """begin, dumped: between these moments the backup was taken. started: the program was started again."""

    def __init__(self, begin, dumped, started=math.inf):
        self.begin, self.dumped, self.started = begin, dumped, started

    def may_take(self, moment):
        return self.begin < moment < self.started

    def takes(self, answer):
        """True if the call is certainly not in the database."""
        return self.dumped < answer.started and answer.ended <= self.started

    def is_unsure(self, answer):
        """True if the call ran while the backup was taken, or while the program was started again."""
        return answer.ended > self.begin and answer.started < self.started and not self.takes(answer)


def unsure(answer):
    """The same call, as if its answer had not arrived."""
    forgotten = copy.copy(answer)
    forgotten.status = forgotten.code = forgotten.named_key = None
    return forgotten


def remaining(answers, losses):
    """The answers that must still be true after these losses."""
    kept = [answer for answer in answers if not any(loss.takes(answer) for loss in losses)]
    return [unsure(a) if any(loss.is_unsure(a) for loss in losses) else a for a in kept]
