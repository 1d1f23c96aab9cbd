#!/usr/bin/env python3
"""A proxy between the program and PostgreSQL that simulates network faults.

  proxy.py SOCKET TARGET     listens on one Unix socket and connects to the other. Orders come on standard input, one a
                             line; each is answered with "ok":
  pass          passes everything on at once
  stall         passes nothing on in either direction; connections stay open
  mute          delivers messages of clients, but no answers
  delay SECONDS delays every piece
  cut           breaks connections and closes new ones at once
  commits SECONDS         delays each commit request and everything after it on its connection; passes the rest at once
  commit-answers SECONDS  passes commits on at once, and delays everything that the server sends from then on

A commit held by "commits" arrives even if the client has given up meanwhile. The same order with another number applies
to later messages; every other order ends the effects of the previous one.
"""

import asyncio
import contextlib
import os
import re
import socket
import struct
import subprocess
import sys

PIECE = 65536
LONGEST = 8192  # longest message whose SQL is examined, in bytes; statements of the program are shorter
COMMIT = re.compile(rb"\s*commit\s*;?\s*", re.I)
# A statement that writes. If it is its own transaction, the Sync after it commits.
WRITES = re.compile(rb"\bacp\.onboard\(")
BEGINS, ENDS = (re.compile(rb"\s*(%s)\b" % words, re.I) for words in (b"begin", b"commit|rollback"))
# SSLRequest and GSSENCRequest: the startup message follows the answer, which is always no on a Unix socket.
ENCRYPTION = {80877103, 80877104}


class Splitter:
    """The messages of a PostgreSQL client, split before and after each commit request: COMMIT itself, or the Sync of a
    statement that is sent with a Flush (its results come first) or that stands alone."""

    def __init__(self):
        self._kept = b""  # of a message that is not classified yet
        self._rest = 0  # remaining bytes of a classified message
        self._started = self._flushed = self._within = self._alone = self._runs = False

    def feed(self, data):
        """Yields pairs: bytes, and whether they request a commit."""
        data, start, at = self._kept + data, 0, 0
        while at < len(data):
            if not self._rest:
                length = self._length(data, at)
                if length is None:
                    break
                if self._is_commit(data[at:at + min(length, LONGEST)]):
                    yield from [(data[start:at], False)] if start < at else []
                    yield data[at:at + length], True
                    start = at = at + length
                    continue
                self._rest = length
            step = min(self._rest, len(data) - at)
            self._rest -= step
            at += step
        self._kept = data[at:]
        if start < at:
            yield data[start:at], False

    def _length(self, data, at):
        """Classifies the message that begins there, and returns its length. None: more bytes are needed."""
        head = 5 if self._started else 8
        if len(data) - at < head:
            return None
        kind = data[at:at + 1] if self._started else b""
        length = max(struct.unpack_from("!i", data, at + len(kind))[0] + len(kind), head)
        return None if kind in (b"P", b"Q") and len(data) - at < length <= LONGEST else length

    def _is_commit(self, message):
        if not self._started:
            self._started = struct.unpack_from("!i", message, 4)[0] not in ENCRYPTION
            return False
        kind, flushed, self._flushed = message[:1], self._flushed, message[:1] == b"H"
        if kind == b"S":
            runs, self._runs, self._alone = self._runs, False, False
            return flushed or runs
        # A statement that is only prepared does nothing.
        self._runs = self._runs or (kind == b"E" and self._alone)
        if kind not in (b"P", b"Q"):
            return False
        sql = message[5:].split(b"\0")[0 if kind == b"Q" else 1] if message.count(b"\0", 5) else b""
        self._within = (self._within or bool(BEGINS.match(sql))) and not ENDS.match(sql)
        self._alone = kind == b"P" and not self._within and bool(WRITES.search(sql))
        return bool(COMMIT.fullmatch(sql))


class Connection:
    """A connection of a client and its connection to the server."""

    def __init__(self, proxy, client):
        self.client, self.server = client, None
        self.broken = False
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._answers_at = 0.0  # earliest time for the answer to the last commit

    def cut(self):
        self.broken = True
        for end in filter(None, (self.client, self.server)):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    async def relay(self, target):
        """Passes messages on until one side closes."""
        self.server = socket.socket(socket.AF_UNIX)
        self.server.setblocking(False)
        await self._loop.sock_connect(self.server, target)
        if self.broken:
            return
        ways = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self):
        data = b"first"
        while data:
            data = await self._loop.sock_recv(self.client, PIECE)
            await self._proxy.gate(self, is_answer=False)
            await self._proxy.delayed()
            for piece, commits in self._splitter.feed(data):
                if commits:
                    await self._proxy.late(self, "commits", self._proxy.due("commits"))
                    await self._proxy.gate(self, is_answer=False)
                    self._answers_at = self._proxy.due("commit-answers")
                await self._send(self.server, piece)

    async def _answers(self):
        client_left = False
        data = b"first"
        while data:
            data = await self._loop.sock_recv(self.server, PIECE)
            await self._proxy.late(self, "commit-answers", self._answers_at)
            await self._proxy.gate(self, is_answer=True)
            await self._proxy.delayed()
            try:
                if not client_left:
                    await self._send(self.client, data)
            except ConnectionError:
                # Messages sent before it closed are still on their way to the server and may be delayed.
                client_left = not self.broken

    async def _send(self, end, data):
        if self.broken:
            raise ConnectionAbortedError()
        await self._loop.sock_sendall(end, data)

    def close(self):
        for end in filter(None, (self.client, self.server)):
            end.close()


class Proxy:
    def __init__(self, target):
        self._target = target
        self._mode = "pass"
        self._seconds = 0.0
        self._changed = asyncio.Event()
        self._open = set()
        self._tasks = set()

    def order(self, words):
        self._mode = words[0]
        self._seconds = float(words[1]) if words[1:] else 0.0
        self._changed.set()
        self._changed = asyncio.Event()
        if self._mode == "cut":
            for connection in list(self._open):
                connection.cut()

    def _holds(self, is_answer):
        return self._mode == "stall" or (self._mode == "mute" and is_answer)

    async def gate(self, connection, is_answer):
        while self._holds(is_answer) and not connection.broken:
            await self._changed.wait()

    async def delayed(self):
        if self._mode == "delay":
            await asyncio.sleep(self._seconds)

    def due(self, mode):
        """Returns the time at which data received now must be passed on: 0 in every other mode."""
        return asyncio.get_running_loop().time() + self._seconds if self._mode == mode else 0.0

    async def late(self, connection, mode, due):
        """Sleeps until this time, or until the mode changes."""
        loop = asyncio.get_running_loop()
        while self._mode == mode and not connection.broken and loop.time() < due:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), due - loop.time())

    def accepted(self, client):
        task = asyncio.ensure_future(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client):
        connection = Connection(self, client)
        self._open.add(connection)
        try:
            if self._mode != "cut":
                await connection.relay(self._target)
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            connection.close()


def listening(path):
    end = socket.socket(socket.AF_UNIX)
    end.bind(path)
    os.chmod(path, 0o777)
    end.listen(256)
    end.setblocking(False)
    return end


async def accept(proxy, end):
    while True:
        client, _ = await asyncio.get_running_loop().sock_accept(end)
        client.setblocking(False)
        proxy.accepted(client)


async def serve(path, target):
    proxy = Proxy(target)
    loop = asyncio.get_running_loop()
    accepting = asyncio.ensure_future(accept(proxy, listening(path)))
    print("ready", flush=True)
    while not accepting.done():
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            break
        proxy.order(line.split())
        print("ok", flush=True)
    # Open connections end with the process.
    os._exit(0)


class Network:
    """A context manager that runs the proxy as a process before a cluster with its socket in the folder sockets."""

    NAME = ".s.PGSQL.5432"

    def __init__(self, folder, sockets):
        self.folder = folder  # the host setting of the program
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
