"""Alternations, and what other programs took of the machine while they ran."""

import contextlib
import sys

from gauge import Strangers


def say(text):
    print(text, file=sys.stderr, flush=True)


def add_options(parser):
    parser.add_argument("--alternations", type=int, help="how often each thing is measured (default 5)")
    parser.add_argument("--seconds", type=int, help="how long each time (default 5)")
    parser.add_argument("--tolerate", type=int, default=10, metavar="PERCENT", help="repeat an alternation in which "
                        "other programs took more of the processors (default 10; in each part at most as often as "
                        "there are alternations)")


class Rounds:
    """Does the same work again and again; pids() tells which processes, with their descendants, belong to it."""

    def __init__(self, options, pids):
        self._options = options
        self._strangers = Strangers(pids)
        self.others = []  # part of the processors that strangers took, one a measurement
        self.repeated = 0  # alternations that they spoilt
        self._worst = 0.0  # the most of it in this alternation

    @contextlib.contextmanager
    def watched(self):
        """Around each measurement."""
        mark = self._strangers.mark()
        yield
        share = self._strangers.share(mark)
        self.others.append(share)
        self._worst = max(self._worst, share)

    def alternate(self, work, keep):
        """As many as wanted: work(number) returns what was measured, keep() takes it. One in which other programs took
        much of the processors says little about ours and is repeated, within limits."""
        number = good = repeated = 0
        while good < self._options.alternations:
            say("Alternation %d of %d, %d s each" % (good + 1, self._options.alternations, self._options.seconds))
            self._worst = 0.0
            measured = work(number)
            number += 1
            if self._worst * 100 > self._options.tolerate and repeated < self._options.alternations:
                repeated += 1
                self.repeated += 1
                say("    other programs took up to %.0f %% of the processors: once more" % (100 * self._worst))
                continue
            keep(measured)
            good += 1
