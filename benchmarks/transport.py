"""How many completions a second come through the OpenAI client, and at what processor time?

    python benchmarks/transport.py                     # 16, 64, 256 and 1,024 requests in flight
    python benchmarks/transport.py --eager             # the same, streamed
    python benchmarks/transport.py --transport httpx   # beside the client's default transport

The real engine at n = 3 on one core, against a server on another that answers at once with three
choices of 600 characters. Each level runs in a fresh process; a request counts from the slot that
it waits for to its parsed completions. Prints the ratio of each level to the first one.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from malt_data.engines import Request
from malt_data.engines.loop import run_sync
from malt_data.engines.openai import OpenAIEngine

LEVELS = (16, 64, 256, 1024)
N = 3
REQUESTS = 6000
TEXT = "First add the tens, then the ones, and carry what is left over. " * 9
PIECE = 64
"""Characters in a chunk of a streamed choice."""


class Server(asyncio.Protocol):
    """Answers every request with the same bytes, so that it needs less time than any client."""

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r", 1)[0])
            body = self.received[end + 4 : end + 4 + length]
            if len(body) < length:
                return
            self.received = self.received[end + 4 + length :]
            self.transport.write(STREAM if b'"stream"' in body else REPLY)


def _reply() -> bytes:
    choices = [
        {"index": i, "message": {"content": TEXT}, "finish_reason": "stop"} for i in range(N)
    ]
    return _http("application/json", json.dumps({"choices": choices, "usage": USAGE}).encode())


def _stream() -> bytes:
    """Return three choices, chunk by chunk in turn, as vLLM sends them."""
    pieces = [TEXT[i : i + PIECE] for i in range(0, len(TEXT), PIECE)]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": i, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in pieces
        for i in range(N)
    ]
    chunks += [{"choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in range(N)]
    chunks.append({"choices": [], "usage": USAGE})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return _http("text/event-stream", "".join([*events, "data: [DONE]\n\n"]).encode())


def _http(kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


USAGE = {"prompt_tokens": 100, "completion_tokens": 450}
REPLY, STREAM = _reply(), _stream()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def measure(port: int, level: int, count: int, eager: bool) -> dict[str, float]:
    """Keep `level` requests in flight until `count` are done; return what it took."""
    engine = OpenAIEngine("m", base_url=f"http://127.0.0.1:{port}/v1", concurrency=level)
    prompt = ({"role": "user", "content": "What is 3 + 4? " * 40},)
    left = 0

    async def work() -> int:
        nonlocal left
        received = 0
        while left > 0:
            left -= 1
            request = Request(prompt, tuple(range(N)), 0.3, 512, eager=eager)
            async for _, completion in engine.complete(request):
                received += completion.counted
        return received

    async def run(requests: int) -> int:
        nonlocal left
        left = requests
        return sum(await asyncio.gather(*(work() for _ in range(level))))

    await run(2 * level)  # opens the connections
    wall, cpu = time.perf_counter(), time.process_time()
    completions = await run(count)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await engine.close()
    assert completions == N * count
    return {
        "in_flight": level,
        "completions_a_second": round(completions / wall),
        "requests_a_second": round(count / wall),
        "cpu_us_a_request": round(cpu / count * 1e6),
    }


@contextmanager
def server_process() -> Iterator[int]:
    """Run the server in a process on the last core; yield its port."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eager", action="store_true", help="stream")
    parser.add_argument("--transport", choices=("aiohttp", "httpx"), default="aiohttp")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--serve", action="store_true", help="be the server")
    parser.add_argument("--port", type=int, help="measure one level against this server")
    parser.add_argument("--level", type=int)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1] if args.serve else cores[0]})
    if args.serve:
        asyncio.run(serve())
    elif args.port:
        if args.transport == "httpx":
            openai.DefaultAioHttpClient = openai.DefaultAsyncHttpxClient
        print(json.dumps(run_sync(measure(args.port, args.level, args.requests, args.eager))))
    else:
        os.sched_setaffinity(0, cores)  # the children choose theirs
        compare(args.eager, args.requests, args.transport)


def compare(eager: bool, requests: int, transport: str) -> None:
    """Measure all levels side by side; with httpx, each beside aiohttp."""
    first: dict[str, float] = {}
    with server_process() as port:
        for level in LEVELS:
            rows = {
                name: child(port, level, requests, eager, name)
                for name in dict.fromkeys(("aiohttp", transport))
            }
            for name, row in rows.items():
                rate = row["completions_a_second"]
                ratio = rate / first.setdefault(name, rate)
                print(f"{name:8} {row}  {ratio:.2f} of the first level", flush=True)


def child(port: int, level: int, requests: int, eager: bool, transport: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--port", str(port), "--level", str(level)]
    command += ["--requests", str(requests), "--transport", transport]
    output = subprocess.run(
        command + ["--eager"] * eager, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    row: dict[str, float] = json.loads(output)
    return row


if __name__ == "__main__":
    main()
