#!/usr/bin/env python3
"""Another tenant meanwhile: calls at a steady rate, asks /healthz, and prints how long the answers took.

Its standard input is a JSON object: url, seconds, rate (calls a second), key, bodies (of calls, in turn). Requests are sent at
their times whether or not earlier ones have been answered, so a stall counts for each request that it delays.
"""

import asyncio
import json
import sys

import wire


async def one(free, plan, request, into):
    connection = free.pop() if free else wire.Connection(plan["url"])
    into.append(await connection.ask(request))
    free.append(connection)


async def stream(plan, requests, rate, into):
    free, tasks = [], []
    loop = asyncio.get_running_loop()
    began = loop.time()
    for n in range(int(plan["seconds"] * rate)):
        await asyncio.sleep(max(0, began + n / rate - loop.time()))
        tasks.append(asyncio.ensure_future(one(free, plan, requests[n % len(requests)], into)))
    await asyncio.gather(*tasks)


async def observe(plan):
    calls, health = [], []
    requests = [wire.message(plan["url"], "POST", "/api/manage", plan["key"], body) for body in plan["bodies"]]
    await asyncio.gather(stream(plan, requests, plan["rate"], calls),
                         stream(plan, [wire.message(plan["url"], "GET", "/healthz")], 10, health))
    print(json.dumps({"calls": calls, "health": health}))


asyncio.run(observe(json.loads(sys.stdin.readline())))
