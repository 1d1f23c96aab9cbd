"""Measures the time from the start of acp.fcgi to its first answer. As under mod_fcgid, it inherits the socket on
descriptor 0."""

import json
import os
import socket
import subprocess
import time

import fcgi
from database import clean_environment
from checks import check
from rig import as_web_user, make_folder


class FirstAnswer:
    """Starts the program, sends a paid call at once, and waits for the answer."""

    def __init__(self, rig, call, key):
        self._folder = make_folder(os.path.join(rig.state, "start"))
        self._program = os.path.join(rig.stack.sbin, "acp.fcgi")
        self._environment = clean_environment(ACP_CONFIG=os.path.join(rig.one_process_config(), "acp.conf"))
        self._call = call
        self._headers = {"Content-Type": "application/json", "X-API-Key": key}

    def measure(self):
        """Returns milliseconds."""
        path = os.path.join(self._folder, "acp.sock")
        if os.path.exists(path):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(16)
            began = time.perf_counter()
            process = subprocess.Popen([self._program], stdin=listener, stdout=subprocess.DEVNULL, cwd="/",
                                       env=self._environment, **as_web_user())
            try:
                reply = fcgi.ask(path, self._call.method, self._call.path, self._call.body.encode(), self._headers)
                taken = (time.perf_counter() - began) * 1000
            finally:
                process.terminate()
                process.wait(40)
        check(reply.status == 200 and json.loads(reply.body)["ok"], "the first answer is not a success: %s" % reply)
        return taken
