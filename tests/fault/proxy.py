#!/usr/bin/env python3
"""What stands between the program and PostgreSQL where the network is to fail: passes bytes on, or does not.

  proxy.py SOCKET TARGET     listens on one Unix socket and connects to the other; orders come on standard input, a line
                             each, and "ok" is answered to each:
  pass          whatever comes is passed on at once
  stall         nothing is passed on, in neither direction; connections stay open
  mute          what clients send arrives, and no answer comes back
  delay SECONDS every piece arrives so much later
  cut           connections break, and whoever connects is cut off at once
"""

import asyncio
import contextlib
import os
import subprocess
import sys

PIECE = 65536


class Proxy:
    def __init__(self, target):
        self._target = target
        self._mode = "pass"
        self._seconds = 0.0
        self._turned = asyncio.Event()
        self._open = set()

    def order(self, words):
        self._mode = words[0]
        self._seconds = float(words[1]) if words[1:] else 0.0
        self._turned.set()
        self._turned = asyncio.Event()
        if self._mode == "cut":
            for writer in list(self._open):
                writer.transport.abort()

    def _holds(self, is_answer):
        return self._mode == "stall" or (self._mode == "mute" and is_answer)

    async def _pump(self, reader, writer, is_answer):
        while True:
            data = await reader.read(PIECE)
            while self._holds(is_answer):
                await self._turned.wait()
            if self._mode == "delay":
                await asyncio.sleep(self._seconds)
            if not data:
                break
            writer.write(data)
            await writer.drain()

    async def _both(self, client, server):
        ways = [asyncio.ensure_future(self._pump(client[0], server[1], False)),
                asyncio.ensure_future(self._pump(server[0], client[1], True))]
        done, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in left:
            way.cancel()
        await asyncio.gather(*done, *left, return_exceptions=True)

    async def connected(self, reader, writer):
        self._open.add(writer)
        server = None
        try:
            if self._mode != "cut":
                server = await asyncio.open_unix_connection(self._target)
                self._open.add(server[1])
                await self._both((reader, writer), server)
        except OSError:
            pass
        finally:
            for end in [writer] + ([server[1]] if server else []):
                self._open.discard(end)
                end.transport.abort()


async def serve(path, target):
    proxy = Proxy(target)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(proxy.connected, path, backlog=256)
    os.chmod(path, 0o777)
    print("ready", flush=True)
    async with server:
        while True:
            line = await loop.run_in_executor(None, sys.stdin.readline)
            if not line:
                break
            proxy.order(line.split())
            print("ok", flush=True)
    # The open connections end with the process.
    os._exit(0)


class Network:
    """The proxy in a process of its own, before a cluster with its socket in the folder sockets; a context manager."""

    NAME = ".s.PGSQL.5432"

    def __init__(self, folder, sockets):
        self.folder = folder  # what the program is told as its host
        self._sockets = sockets
        self._process = None

    def __enter__(self):
        os.makedirs(self.folder, exist_ok=True)
        os.chmod(self.folder, 0o755)
        path = os.path.join(self.folder, self.NAME)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        command = [sys.executable, "-B", os.path.abspath(__file__), path, os.path.join(self._sockets, self.NAME)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                         start_new_session=True)
        self._expect("ready")
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()

    def _expect(self, word):
        line = self._process.stdout.readline().strip()
        if line != word:
            raise RuntimeError("the proxy before PostgreSQL said %r instead of %r" % (line, word))

    def order(self, *words):
        self._process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self._process.stdin.flush()
        self._expect("ok")

    @contextlib.contextmanager
    def doing(self, *words):
        self.order(*words)
        try:
            yield
        finally:
            self.order("pass")


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
