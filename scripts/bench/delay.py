#!/usr/bin/env python3
"""Forwards loopback connections and delays what passes: a store that is as far away as it is said to be.

usage: delay.py LISTEN_PORT TARGET_PORT ONE_WAY_MS [LOG]

Each direction has the delay, so a request and its answer take two of them. Throughput is not limited: what
follows within a delay follows as closely behind it. LOG gets a line for each request, when it comes: method and path.
Ends with its standard input, or when it is killed.
"""
import asyncio
import sys

CHUNK = 1 << 18
QUEUED = 256  # chunks under way in one direction


class Turns:
    """Of one connection: what a client sends after it was answered begins a request (nobody sends two at once)."""

    def __init__(self, log):
        self.log, self.answered = log, True

    def sent(self, data):
        if self.answered and self.log:
            self.log.write(data.split(b"\r\n", 1)[0].rpartition(b" ")[0] + b"\n")
        self.answered = False

    def received(self, _):
        self.answered = True


async def pump(reader, writer, delay, note):
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue(QUEUED)

    async def deliver():
        while True:
            due, data = await queue.get()
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    delivering = asyncio.create_task(deliver())
    try:
        while True:
            data = await reader.read(CHUNK)
            if data:
                note(data)
            await queue.put((loop.time() + delay, data))
            if not data:
                break
        await delivering
    except (ConnectionError, OSError):
        delivering.cancel()


async def main(listen, target, delay, log):
    async def accept(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        turns = Turns(log)
        await asyncio.gather(pump(reader, far_writer, delay, turns.sent), pump(far_reader, writer, delay, turns.received))
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(accept, "127.0.0.1", listen, limit=CHUNK)
    print("ready", flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# Unbuffered: who has an answer finds its request there.
LOG = open(sys.argv[4], "ab", buffering=0) if len(sys.argv) > 4 else None
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, LOG))
