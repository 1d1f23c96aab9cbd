"""Background work beside the load of a run."""

import threading

from checks import Failure


class Background:
    """Runs _work() in a separate thread from start() to stop(). _work() must end soon after _stopping is set."""

    def __init__(self):
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error = None

    def start(self):
        self._thread.start()

    def stop(self):
        """Raises the exception that ended _work(), if any."""
        self._stopping.set()
        self._thread.join(120)
        if self._thread.is_alive():
            raise Failure("%s did not end within 120 s" % type(self).__name__)
        if self._error:
            raise self._error

    def _run(self):
        try:
            self._work()
        except BaseException as error:
            self._error = error
