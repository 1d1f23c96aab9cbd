#!/usr/bin/env python3
"""Tests the proxy against a server that records what arrives and when. Exit status 0: passed."""

import os
import socket
import struct
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
from proxy import Network, Splitter

HOLD = 0.8
SLACK = 0.5  # seconds that immediate delivery may take


def message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


STARTUP = struct.pack("!ii", 17, 196608) + b"user\0a\0\0\0"[:9]
GSS = struct.pack("!ii", 8, 80877104)
PARSE = message(b"P", b"\0select 1\0\0\0")
COMMIT = message(b"P", b"\0Commit ; \0\0\0")
QUERY = message(b"Q", b"COMMIT\0")
ROWS = message(b"B", b"x" * 20000) + message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0")
FLUSH, SYNC = message(b"H"), message(b"S")
ONBOARD = message(b"P", b"\0SELECT o.verdict FROM acp.onboard($1, $2, $3) o\0\0\0")


class Server:
    """A server that answers each message with one byte."""

    def __init__(self, path):
        self.got = []  # (when, bytes); b"": the end
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(8)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            end, _ = self._socket.accept()
            threading.Thread(target=self._one, args=[end], daemon=True).start()

    def _one(self, end):
        data = b"first"
        while data:
            data = end.recv(65536)
            self.got.append((time.monotonic(), data))
            try:
                end.sendall(b".")
            except OSError:
                pass

    def bytes(self, before=float("inf")):
        return b"".join(data for when, data in self.got if when < before)


def split(*chunks):
    """Returns the commit requests in the chunks that a client sends. All bytes must come out in order."""
    splitter = Splitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)]
    assert b"".join(data for data, _ in pieces) == b"".join(chunks), pieces
    return [data for data, commits in pieces if commits]


def test_splitter():
    whole = GSS + STARTUP + PARSE + ROWS + FLUSH + SYNC + PARSE + ROWS + SYNC + COMMIT + ROWS + SYNC + QUERY
    wanted = [SYNC, COMMIT, QUERY]
    assert split(whole) == wanted
    assert split(*[whole[at:at + 1] for at in range(len(whole))]) == wanted
    assert split(*[whole[at:at + 1000] for at in range(0, len(whole), 1000)]) == wanted
    assert split(STARTUP + ONBOARD + SYNC + ROWS + SYNC) == []
    alone, begin = ONBOARD + ROWS + SYNC, message(b"Q", b"BEGIN\0")
    assert split(STARTUP + alone + SYNC) == [SYNC]
    assert split(STARTUP + begin + alone + COMMIT + alone) == [COMMIT, SYNC]
    assert split(STARTUP + message(b"Q", b"commit prepared 'a'\0") + message(b"Q", b"begin\0")) == []


def connected(network):
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(5)
    end.connect(os.path.join(network.folder, Network.NAME))
    end.sendall(STARTUP)
    assert end.recv(1) == b"."
    return end


def arrival(server, data):
    """Returns the time at which all data up to these bytes had arrived."""
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        if server.bytes().endswith(data) or (data == b"" and server.got[-1][1] == b""):
            return time.monotonic()
        time.sleep(0.01)
    raise AssertionError("%r did not arrive: %r" % (data, server.bytes()[-100:]))


def test_commits(network, server):
    """Only the commit is late, and it arrives even if its client has closed."""
    one, other = connected(network), connected(network)
    with network.doing("commits", HOLD):
        start = time.monotonic()
        one.sendall(PARSE + ROWS + FLUSH + SYNC + PARSE)
        assert arrival(server, FLUSH) - start < SLACK
        other.sendall(PARSE + SYNC)
        assert arrival(server, PARSE + SYNC) - start < SLACK
        one.close()
        assert HOLD <= arrival(server, SYNC + PARSE) - start < HOLD + SLACK
        assert arrival(server, b"") - start < HOLD + SLACK
    other.close()


def test_another_number(network, server):
    """Held commits stay held when later ones are not; another order releases them."""
    one, other = connected(network), connected(network)
    with network.doing("commits", 3 * HOLD):
        start = time.monotonic()
        one.sendall(COMMIT + FLUSH)
        time.sleep(0.1)
        network.order("commits", 0)
        other.sendall(QUERY)
        assert arrival(server, QUERY) - start < SLACK
        time.sleep(HOLD)
        assert not server.bytes().endswith(COMMIT + FLUSH)
    assert arrival(server, COMMIT + FLUSH) - start < HOLD + 2 * SLACK
    one.close()
    other.close()


def test_commit_answers(network, server):
    one = connected(network)
    with network.doing("commit-answers", HOLD):
        start = time.monotonic()
        one.sendall(PARSE)
        assert one.recv(1) == b"." and time.monotonic() - start < SLACK
        one.sendall(QUERY)
        assert arrival(server, QUERY) - start < SLACK
        assert one.recv(1) == b"." and HOLD <= time.monotonic() - start < HOLD + 2 * SLACK
    one.close()


def test_cut(network, server):
    """Held data never arrives after a cut."""
    one = connected(network)
    network.order("commits", HOLD)
    one.sendall(PARSE + COMMIT)
    arrival(server, PARSE)
    network.order("cut")
    assert one.recv(1) in (b".", b"")
    arrival(server, b"")
    network.order("pass")
    time.sleep(HOLD)
    assert not server.bytes().endswith(COMMIT)
    one.close()


def test_older_orders(network, server):
    one = connected(network)
    with network.doing("stall"):
        one.sendall(PARSE)
        time.sleep(0.1)
        assert not server.bytes().endswith(PARSE)
    arrival(server, PARSE)
    one.recv(1)
    with network.doing("mute"):
        one.sendall(QUERY)
        arrival(server, QUERY)
        one.settimeout(0.1)
        try:
            one.recv(1)
            raise AssertionError("an answer came while the network was mute")
        except TimeoutError:
            one.settimeout(5)
    assert one.recv(1) == b"."
    with network.doing("delay", HOLD):
        start = time.monotonic()
        one.sendall(FLUSH)
        assert arrival(server, FLUSH) - start >= HOLD
    with network.doing("cut"):
        assert one.recv(2) in (b".", b"")
    one.close()


def main():
    test_splitter()
    for test in test_commits, test_another_number, test_commit_answers, test_cut, test_older_orders:
        with tempfile.TemporaryDirectory(prefix="acp-fault-") as folder:
            os.mkdir(os.path.join(folder, "server"))
            server = Server(os.path.join(folder, "server", Network.NAME))
            with Network(os.path.join(folder, "client"), os.path.join(folder, "server")) as network:
                test(network, server)
        print("ok %s" % test.__name__)


main()
