"""Occupies PostgreSQL connections: sends the startup messages, then nothing."""

import socket
import struct


def connect(path, user, database):
    """Returns a connection that is ready for queries, or None if it was refused."""
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(5)
    try:
        end.connect(path)
        body = struct.pack("!i", 196608) + b"user\0%s\0database\0%s\0\0" % (user.encode(), database.encode())
        end.sendall(struct.pack("!i", len(body) + 4) + body)
        if is_ready(end):
            return end
    except OSError:
        pass
    end.close()
    return None


def exactly(end, count):
    data = b""
    while len(data) < count:
        more = end.recv(count - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def is_ready(end):
    while True:
        kind, length = struct.unpack("!ci", exactly(end, 5))
        exactly(end, length - 4)
        if kind in b"EZ":
            return kind == b"Z"


class Hoard:
    """A context manager that takes all available connections and releases them at the end."""

    def __init__(self, path, user, database):
        self._where = path, user, database
        self._held = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in self._held:
            end.close()

    def __len__(self):
        return len(self._held)

    def fill(self, most=500):
        while len(self._held) < most:
            end = connect(*self._where)
            if end is None:
                return
            self._held.append(end)
