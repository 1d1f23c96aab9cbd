#!/usr/bin/env python3
"""Sends requests on many connections until its standard input is closed, then prints how often each status came.

Its first line is a JSON object: url, connections, pause (seconds after an answer of 400 and above), seconds (a bound), and
requests: a list of method, path, key, body and headers. Each connection repeats the list from another place. In a body
and in headers, %UNIQUE% stands for a number that is new in each request.
"""

import asyncio
import collections
import itertools
import json
import sys
import time

import wire

UNIQUE = b"%UNIQUE%"


async def repeat(plan, requests, first, numbers, counts):
    connection = wire.Connection(plan["url"])
    for request in itertools.islice(itertools.cycle(requests), first, None):
        number = b"%08d" % next(numbers)  # as long as the place that it takes
        status, _ = await connection.ask(request.replace(UNIQUE, number))
        counts[status] += 1
        if time.monotonic() >= plan["ends"]:
            break
        if status == 0 or status >= 400:
            await asyncio.sleep(plan["pause"])
    connection.close()


async def attack(plan):
    requests = [wire.message(plan["url"], **request) for request in plan["requests"]]
    counts, numbers = collections.Counter(), itertools.count()
    plan["ends"] = time.monotonic() + plan["seconds"]
    tasks = [asyncio.ensure_future(repeat(plan, requests, n % len(requests), numbers, counts))
             for n in range(plan["connections"])]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    plan["ends"] = 0  # asyncio.wait_for() may lose a cancellation that comes together with an answer
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(counts))


asyncio.run(attack(json.loads(sys.stdin.readline())))
