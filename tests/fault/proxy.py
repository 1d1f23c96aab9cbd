#!/usr/bin/env python3
"""What stands between the program and PostgreSQL where the network is to fail: passes bytes on, or does not.

  proxy.py SOCKET TARGET     listens on one Unix socket and connects to the other; orders come on standard input, a line
                             each, and "ok" is answered to each:
  pass          whatever comes is passed on at once
  stall         nothing is passed on, in neither direction; connections stay open
  mute          what clients send arrives, and no answer comes back
  delay SECONDS every piece arrives so much later
  cut           connections break, and whoever connects is cut off at once
  commits SECONDS         what asks for a commit arrives so much later, and with it all that follows on its connection;
                          the rest is passed on at once
  commit-answers SECONDS  commits arrive at once, and what the server says from then on comes so much later

What is held by commits arrives also where the client has given up meanwhile. With another number the same order is one
for what comes from then on; every other order ends what it does not do itself.
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
LONGEST = 8192  # bytes of a message whose SQL is looked at; that of the program's own statements is shorter
COMMIT = re.compile(rb"\s*commit\s*;?\s*", re.I)
# A statement that writes; where it is its own transaction, the Sync after it commits.
WRITES = re.compile(rb"\bacp\.onboard\(")
BEGINS, ENDS = (re.compile(rb"\s*(%s)\b" % words, re.I) for words in (b"begin", b"commit|rollback"))
# SSLRequest and GSSENCRequest: the first message comes after the answer, which on a Unix socket is always no.
ENCRYPTION = {80877103, 80877104}


class Splitter:
    """What a client of PostgreSQL sends, cut before and after each message that asks for a commit: COMMIT itself, and
    the Sync of a statement that is sent with a Flush (what it gave is told before), or that stands alone."""

    def __init__(self):
        self._kept = b""  # of a message that cannot be judged yet
        self._rest = 0  # bytes of a message, judged already, that are still to come
        self._started = self._flushed = self._within = self._alone = self._runs = False

    def feed(self, data):
        """Yields (bytes, whether they ask for a commit)."""
        data, start, at = self._kept + data, 0, 0
        while at < len(data):
            if not self._rest:
                length = self._length(data, at)
                if length is None:
                    break
                if self._asks(data[at:at + min(length, LONGEST)]):
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
        """Of the message that begins there; None: more of it is needed to judge it."""
        head = 5 if self._started else 8
        if len(data) - at < head:
            return None
        kind = data[at:at + 1] if self._started else b""
        length = max(struct.unpack_from("!i", data, at + len(kind))[0] + len(kind), head)
        return None if kind in (b"P", b"Q") and len(data) - at < length <= LONGEST else length

    def _asks(self, message):
        if not self._started:
            self._started = struct.unpack_from("!i", message, 4)[0] not in ENCRYPTION
            return False
        kind, flushed, self._flushed = message[:1], self._flushed, message[:1] == b"H"
        if kind == b"S":
            runs, self._runs, self._alone = self._runs, False, False
            return flushed or runs
        # Sent only to be prepared, it does nothing.
        self._runs = self._runs or (kind == b"E" and self._alone)
        if kind not in (b"P", b"Q"):
            return False
        sql = message[5:].split(b"\0")[0 if kind == b"Q" else 1] if message.count(b"\0", 5) else b""
        self._within = (self._within or bool(BEGINS.match(sql))) and not ENDS.match(sql)
        self._alone = kind == b"P" and not self._within and bool(WRITES.search(sql))
        return bool(COMMIT.fullmatch(sql))


class Connection:
    """One of a client's, and the one that was made for it."""

    def __init__(self, proxy, client):
        self.client, self.server = client, None
        self.broken = False
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._answers_at = 0.0  # when the answer to the last commit may be told

    def cut(self):
        self.broken = True
        for end in filter(None, (self.client, self.server)):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    async def last(self, target):
        """Until one of both ends."""
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
                # What it sent before it left is still on its way to the server, and may be held.
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
        self._turned = asyncio.Event()
        self._open = set()
        self._tasks = set()

    def order(self, words):
        self._mode = words[0]
        self._seconds = float(words[1]) if words[1:] else 0.0
        self._turned.set()
        self._turned = asyncio.Event()
        if self._mode == "cut":
            for connection in list(self._open):
                connection.cut()

    def _holds(self, is_answer):
        return self._mode == "stall" or (self._mode == "mute" and is_answer)

    async def gate(self, connection, is_answer):
        while self._holds(is_answer) and not connection.broken:
            await self._turned.wait()

    async def delayed(self):
        if self._mode == "delay":
            await asyncio.sleep(self._seconds)

    def due(self, mode):
        """When what comes now is to be passed on; at once in every other mode."""
        return asyncio.get_running_loop().time() + self._seconds if self._mode == mode else 0.0

    async def late(self, connection, mode, due):
        """Until then, or until another mode is ordered."""
        loop = asyncio.get_running_loop()
        while self._mode == mode and not connection.broken and loop.time() < due:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._turned.wait(), due - loop.time())

    def accepted(self, client):
        task = asyncio.ensure_future(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client):
        connection = Connection(self, client)
        self._open.add(connection)
        try:
            if self._mode != "cut":
                await connection.last(self._target)
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
