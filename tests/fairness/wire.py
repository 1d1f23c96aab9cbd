"""HTTP/1.1 over kept-alive connections with asyncio: the clients of the attack and of the observer."""

import asyncio
import json
import time
import urllib.parse

TIMEOUT = 60


def message(url, method, path, key=None, body=None, headers=()):
    """The bytes of a request."""
    host = urllib.parse.urlsplit(url).netloc
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: " + host, *headers]
    lines += ["X-API-Key: " + key] if key else []
    lines += ["Content-Type: application/json", "Content-Length: %d" % len(content)] if body is not None else []
    return "\r\n".join(lines + ["", ""]).encode() + content


class Connection:
    """One connection, opened again after an error."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self._place = parts.hostname, parts.port
        self._writer = None

    async def ask(self, request):
        """Sends a request; returns the status (0: no usable answer) and the seconds that it took."""
        began = time.monotonic()
        try:
            status = await asyncio.wait_for(self._ask(request), TIMEOUT)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            self.close()
            status = 0
        return status, time.monotonic() - began

    async def _ask(self, request):
        if not self._writer:
            self._reader, self._writer = await asyncio.open_connection(*self._place)
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        await self._read_body(fields)
        if fields.get(b"connection") == b"close":
            self.close()
        return int(head.split(b" ", 2)[1])

    async def _read_body(self, fields):
        if fields.get(b"transfer-encoding") == b"chunked":
            size = 1
            while size:
                size = int(await self._reader.readline(), 16)
                await self._reader.readexactly(size + 2)
        else:
            await self._reader.readexactly(int(fields.get(b"content-length", 0)))

    def close(self):
        if self._writer:
            self._writer.close()
        self._writer = None
