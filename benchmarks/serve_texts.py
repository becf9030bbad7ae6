"""Measures attncli serve under load: clients that ask /v1/completions for texts, one after another, for some seconds.

For each number of clients, prints tokens per second, the time to the first token (p50, p95), and errors: answers that
are neither a text nor a 503 with Retry-After, and texts that differ from those of the same request alone.
With --against, measures a server that runs already, such as llama.cpp's, with the same requests; it has no seeds that
must agree with ours, so texts are compared only with its own at temperature 0.

usage: python benchmarks/serve_texts.py [--model stories] [--clients 1 16 64] [--seconds 20] [--tokens 64]
                                        [--against http://127.0.0.1:8080]
"""

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any
from urllib.parse import urlsplit

import torch

from attncli.checkpoint.load import load_model
from attncli.checkpoint.resolve import resolve_model
from attncli.serve.address import Names
from attncli.serve.application import application
from attncli.serve.guard import Access
from attncli.serve.limits import Limits
from attncli.serve.server import Server, open_socket
from attncli.serve.service import Service

PROMPTS = ("Once upon a time", "The little cat", "One day, a boy", "There was a big dog")
SEEDS = 8  # different requests for each prompt
PAGE = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'


@dataclass
class Measured:
    """What the clients of one round have found."""

    tokens: int = 0
    texts: int = 0
    busy: int = 0  # answers with status 503 and Retry-After
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds from the request to the first text


async def ask(host: str, port: int, fields: dict[str, Any]) -> tuple[int, dict[str, str], str, int, float | None]:
    """Asks for a streamed text; returns status, headers, the text, its tokens, and the time to its first part."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        body = json.dumps(fields | {"stream": True, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        began = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        text, tokens, first = "", 0, None
        while line := await reader.readline():
            if not line.startswith(b"data: {"):  # the sizes of chunks, blank lines, the end
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return 500, headers, json.dumps(event), 0, first
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            for choice in event["choices"]:
                if choice["text"] and first is None:
                    first = time.perf_counter() - began
                text += choice["text"]
        return status, headers, text, tokens, first
    finally:
        writer.close()


async def client(
    host: str, port: int, requests: Sequence[dict[str, Any]], at: int, alone: Sequence[str], end: float, found: Measured
) -> None:
    """Asks for one text after another until the end."""
    while time.perf_counter() < end:
        number = at % len(requests)
        try:
            status, headers, text, tokens, first = await ask(host, port, requests[number])
        except (OSError, ValueError, IndexError) as problem:
            found.errors.append(repr(problem))
            continue
        at += 7
        if status == 503 and "retry-after" in headers:
            found.busy += 1
            await asyncio.sleep(float(headers["retry-after"]))
        elif status != 200:
            found.errors.append(f"status {status}: {text[:100]}")
        else:
            found.texts, found.tokens = found.texts + 1, found.tokens + tokens
            found.first += [] if first is None else [first]
            if alone and text != alone[number]:
                found.errors.append(f"another text for request {number}: {text[:60]!r}, alone {alone[number][:60]!r}")


async def measure(host: str, port: int, given: argparse.Namespace) -> None:
    """Prints a row for each number of clients."""
    fields = {"model": given.model, "max_tokens": given.tokens}
    if given.against:
        fields |= {"temperature": 0}
    requests = [fields | {"prompt": prompt, "seed": seed} for seed in range(SEEDS) for prompt in PROMPTS]
    alone = [] if given.against else [(await ask(host, port, one))[2] for one in requests]
    print("clients  tokens/s  texts  first token p50, p95   503  errors")
    for clients in given.clients:
        found, began = Measured(), time.perf_counter()
        end = began + given.seconds
        await asyncio.gather(*(client(host, port, requests, at * 3, alone, end, found) for at in range(clients)))
        seconds, first = time.perf_counter() - began, sorted(found.first) or [float("nan")]
        p95 = 1000 * first[min(int(len(first) * 0.95), len(first) - 1)]
        print(
            f"{clients:<8} {found.tokens / seconds:8,.0f}  {found.texts:5,}  {1000 * statistics.median(first):6.0f} ms,"
            f" {p95:6.0f} ms  {found.busy:5,}  {len(found.errors):,}"
        )
        for one in found.errors[:3]:
            print(f"  {one}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--against", metavar="URL", help="a server that runs already")
    given = parser.parse_args(arguments)
    if given.against:
        address = urlsplit(given.against)
        asyncio.run(measure(address.hostname or "127.0.0.1", address.port or 80, given))
        return
    loaded = load_model(resolve_model(given.model), torch.device("cpu"), torch.float32)
    given.model = loaded.name
    limits = changed(Limits(), rate=1e6, burst=10**6)  # all clients have one address
    service = Service.of(PAGE, loaded, limits)
    server = Server(application(service, Access(Names.of("127.0.0.1"))), service)
    with open_socket("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            asyncio.run(measure("127.0.0.1", listening.getsockname()[1], given))
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main()
