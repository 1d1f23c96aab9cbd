"""Alternations, and the processor share of other programs during them."""

import contextlib
import sys

from gauge import Strangers


def say(text):
    print(text, file=sys.stderr, flush=True)


def add_options(parser):
    parser.add_argument("--alternations", type=int, help="number of measurements of each series (default 5)")
    parser.add_argument("--seconds", type=int, help="duration of each measurement (default 5)")
    parser.add_argument("--tolerate", type=int, default=10, metavar="PERCENT", help="repeat an alternation in which "
                        "other programs took more of the processors (default 10; in each part at most as often as "
                        "there are alternations)")


class Rounds:
    """Repeats the same work. pids() returns the processes that, with their descendants, belong to it."""

    def __init__(self, options, pids):
        self._options = options
        self._strangers = Strangers(pids)
        self.others = []  # share of the processors taken by other programs, per measurement
        self.repeated = 0  # alternations repeated because of them
        self._worst = 0.0  # the largest share in this alternation

    @contextlib.contextmanager
    def watched(self):
        """Context manager around each measurement."""
        mark = self._strangers.mark()
        yield
        share = self._strangers.share(mark)
        self.others.append(share)
        self._worst = max(self._worst, share)

    def alternate(self, work, keep):
        """Runs the wanted number of alternations: work(number) measures, keep() stores the result. Repeats, within
        limits, an alternation in which other programs took much of the processors, because it says little about
        ours."""
        number = good = repeated = 0
        while good < self._options.alternations:
            say("Alternation %d of %d, %d s each" % (good + 1, self._options.alternations, self._options.seconds))
            self._worst = 0.0
            measured = work(number)
            number += 1
            if self._worst * 100 > self._options.tolerate and repeated < self._options.alternations:
                repeated += 1
                self.repeated += 1
                say("    other programs took up to %.0f %% of the processors: repeating" % (100 * self._worst))
                continue
            keep(measured)
            good += 1
