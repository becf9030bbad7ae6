"""Measures attncli serve with many clients: tokens per second, and the time to the first token (TTFT).

`attncli serve` runs in a process of its own. All clients share this process and read /v1/completions, each one request
after another. They keep the bytes of the answers, which are parsed when the clock has stopped. Each text is compared
with the text of the same request alone. A request that got status 503 is sent again after Retry-After.

Rounds alternate between the sides: attncli serve with streamed answers and with whole ones (`--whole`), `attncli
generate --num-samples` with as many samples as clients (`--generate`), and another server, such as llama.cpp's, that
runs already (`--against`). Each figure is the median of the rounds. Each ratio is the median of the rounds' ratios.

--load SECONDS mixes requests instead: short and long prompts, several texts, settings that are drawn separately,
log-probabilities, streamed and whole answers, and clients that leave halfway. It checks every text, and reports the
memory and the descriptors of the server.

usage: python benchmarks/serve_texts.py [--model stories] [--clients 1 16 64] [--seconds 8] [--rounds 3] [--tokens 64]
                                        [--whole] [--generate] [--against http://127.0.0.1:8080]
       python benchmarks/serve_texts.py --load 600 --clients 64
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROMPTS = ("Once upon a time", "The little cat", "One day, a boy", "There was a big dog")
SEEDS = 8  # different requests for each prompt
LONG = "The little cat sat on the old mat. The little dog ran to the big red ball, and then it jumped. " * 24
SETTINGS: tuple[dict[str, Any], ...] = (  # drawn separately; requests of one entry are drawn together
    {},
    {"temperature": 0},
    {"temperature": 0.8, "top_k": 40},
    {"top_p": 0.9, "min_p": 0.02},
    {"repetition_penalty": 1.2, "presence_penalty": 0.3},
    {"stop": ["."], "typical_p": 0.9},
    {"logprobs": 2},
    {"n": 3},
    {"prompt": [PROMPTS[0], PROMPTS[1]], "n": 2},
)
LEAVING = 0.1  # the share of requests of the load whose client leaves before the end
SAMPLE_SECONDS = 5  # between two samples of memory and descriptors
LAST_CHUNK = b"\r\n0\r\n\r\n"
TIMEOUT = 120  # seconds for an answer
Fields = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """The answer to a request, as bytes."""

    number: int  # of the request
    head: bytes
    body: bytes
    first: float | None  # seconds from the request to the first byte of the body
    left: bool = False  # whether the client left before the end

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def retry(self) -> float | None:
        """The seconds of Retry-After."""
        found = re.search(rb"(?i)\r\nretry-after: *([0-9.]+)", self.head)
        return None if found is None else float(found[1])

    @property
    def documents(self) -> list[Any]:
        """The answer's JSON: the events of a stream, or one document."""
        body = self.body
        if b"text/event-stream" in self.head:  # an event may be cut where the client left
            lines = (line[6:] for line in body.split(b"\n") if line.startswith(b"data: {") and line.endswith(b"}"))
            return [json.loads(line) for line in lines]
        return [json.loads(body)]

    def texts(self) -> dict[int, str]:
        """Returns the texts of the choices. Raises ValueError for an error within a stream."""
        texts: dict[int, str] = {}
        for document in self.documents:
            if "error" in document:
                raise ValueError(str(document["error"]))
            for choice in document["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        return dict(sorted(texts.items()))

    @property
    def tokens(self) -> int:
        """The number of generated tokens."""
        found = re.findall(rb'"completion_tokens": ?([0-9]+)', self.body)
        return int(found[-1]) if found else 0


class Connection(asyncio.Protocol):
    """A connection that sends one request after another and finds the end of each answer."""

    def __init__(self) -> None:
        self.closed = False
        self._begun, self._size, self._parts = 0.0, 0, list[bytes]()
        self._reply: asyncio.Future[tuple[bytes, float | None]]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, most: int | None) -> asyncio.Future[tuple[bytes, float | None]]:
        """Sends a request. The result is the answer and its TTFT; at most about `most` bytes of the body are read."""
        self._reply = asyncio.get_running_loop().create_future()
        self._parts, self._size, self._most = [], 0, most
        self._end: int | None = None  # the size of the whole answer; None if it has chunks
        self._body, self._first, self._tail = 0, None, b""
        self._begun = time.perf_counter()
        self.transport.write(request)
        return self._reply

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if not self._body:
            self._find_body()
        if self._body and self._first is None and self._size > self._body:
            self._first = time.perf_counter() - self._begun
        self._tail = (self._tail + data)[-len(LAST_CHUNK) :]
        ended = self._tail == LAST_CHUNK if self._end is None else self._size >= self._end
        left = self._most is not None and self._body and self._size - self._body >= self._most
        if (ended or left) and self._body and not self._reply.done():
            self._reply.set_result((b"".join(self._parts), self._first))

    def _find_body(self) -> None:
        data = b"".join(self._parts)
        self._body = data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", data[: self._body])
        if length is not None:
            self._end = self._body + int(length[1])

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if hasattr(self, "_reply") and not self._reply.done():
            self._reply.set_exception(exc or ConnectionResetError("The connection was closed."))


def without_chunks(body: bytes) -> bytes:
    """Removes the sizes of chunks. The last chunk may be cut."""
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0 and (size := int(body[at:end], 16)):
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


class Asker:
    """A client: asks for texts over a connection, which it opens again when it was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._connection: Connection | None = None

    async def ask(self, number: int, fields: Fields, most: int | None = None) -> Reply:
        """Returns the reply to a request; with `most`, leaves after about that many bytes of its body."""
        body = json.dumps(fields).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        async with asyncio.timeout(TIMEOUT):
            data, first = await self._answer(request, most)
        head, _, body = data.partition(b"\r\n\r\n")
        chunked = b"chunked" in head.lower()
        left = most is not None and chunked and not data.endswith(LAST_CHUNK)
        if left:
            self.close()
        return Reply(number, head, without_chunks(body) if chunked else body, first, left)

    async def _answer(self, request: bytes, most: int | None) -> tuple[bytes, float | None]:
        """Returns the answer to a request and its TTFT. A server may close a connection that was used before."""
        if self._connection is not None and not self._connection.closed:
            with suppress(ConnectionError):
                return await self._connection.ask(request, most)
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(Connection, self._host, self._port)
        return await self._connection.ask(request, most)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.transport.abort()
            self._connection.closed = True


@dataclass
class Round:
    """What the clients of one round have got."""

    seconds: float = 0
    tokens: int = 0
    texts: int = 0
    busy: int = 0  # replies with status 503 and Retry-After
    left: int = 0
    first: list[float] = field(default_factory=list)  # TTFT of streamed answers
    errors: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def add(self, reply: Reply, fields: Fields, alone: dict[int, str] | None) -> None:
        """Adds a reply, and compares its texts with those of the same request alone."""
        try:
            if reply.status == 503 and reply.retry is not None:
                self.busy += 1
                return
            if reply.status != 200:
                raise ValueError(f"status {reply.status}: {reply.body[:200]!r}")
            texts = reply.texts()
            self.texts, self.tokens = self.texts + len(texts), self.tokens + reply.tokens
            self.left += reply.left
            if fields.get("stream") and reply.first is not None:
                self.first.append(reply.first)
            if reply.left and alone is not None:
                if not all(alone[at].startswith(text) for at, text in texts.items()):
                    raise ValueError(f"request {reply.number} began with {texts!r}; alone it has {alone!r}")
            elif alone is not None and texts != alone:
                raise ValueError(f"request {reply.number} has {texts!r}; alone it has {alone!r}")
        except (ValueError, KeyError) as problem:
            self.errors.append(repr(problem)[:400])

    def first_ms(self, share: float) -> float:
        """The TTFT below which this share of the requests is, in milliseconds."""
        first = sorted(self.first) or [float("nan")]
        return 1000 * first[min(int(len(first) * share), len(first) - 1)]


async def run_clients(
    address: tuple[str, int],
    requests: Sequence[Fields],
    alone: Sequence[dict[int, str]],
    clients: int,
    seconds: float,
    most: Callable[[], int | None] = lambda: None,
    *,
    at_once: bool = False,
) -> Round:
    """Runs clients for some seconds. With `at_once`, replies are checked as they arrive, so that none are kept."""
    found, kept = Round(), list[Reply]()
    began = time.perf_counter()
    end = began + seconds

    def check(reply: Reply) -> None:
        found.add(reply, requests[reply.number], alone[reply.number] if alone else None)

    async def client(at: int) -> None:
        asker = Asker(*address)
        while time.perf_counter() < end:
            number = at % len(requests)
            try:
                reply = await asker.ask(number, requests[number], most())
            except (OSError, TimeoutError, ValueError) as problem:
                found.errors.append(f"request {number}: {problem!r}")
                asker.close()
                continue
            if reply.status == 503 and reply.retry is not None:
                await asyncio.sleep(reply.retry)
            else:
                at += 7
            if at_once:
                check(reply)
            else:
                kept.append(reply)
        asker.close()

    await asyncio.gather(*(client(at * 3) for at in range(clients)))
    found.seconds = time.perf_counter() - began
    for reply in kept:
        check(reply)
    return found


async def texts_alone(address: tuple[str, int], requests: Sequence[Fields]) -> list[dict[int, str]]:
    """Returns the texts of each request, asked for one after another."""
    asker, texts = Asker(*address), []
    for number, fields in enumerate(requests):
        reply = await asker.ask(number, fields)
        if reply.status != 200:
            raise SystemExit(f"request {number} alone has status {reply.status}: {reply.body[:300]!r}")
        texts.append(reply.texts())
    asker.close()
    return texts


@contextmanager
def serving(model: str) -> Iterator[tuple[tuple[str, int], int]]:
    """Runs attncli serve with a model; yields its address and its process id."""
    command = [sys.executable, "-m", "attncli", "serve", "-m", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            printed = ""
            while (found := re.search(r"http://([^/:]+):([0-9]+)", printed)) is None:
                if not (line := process.stdout.readline()):
                    raise SystemExit(f"attncli serve printed {printed!r}")
                printed += line
            yield (found[1], int(found[2])), process.pid
        finally:
            process.terminate()


def requests_of(given: argparse.Namespace, *, stream: bool) -> list[Fields]:
    """Returns the requests of a round."""
    fields: Fields = {"model": given.model, "max_tokens": given.tokens, "temperature": given.temperature}
    fields |= {"top_p": 1, "top_k": 0, "min_p": 0}  # off; llama.cpp's server has other defaults
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return [fields | {"prompt": prompt, "seed": seed} for seed in range(SEEDS) for prompt in PROMPTS]


def generate_rate(given: argparse.Namespace, samples: int) -> float:
    """Returns the tokens per second of `attncli generate`, from the beginning of the prompt."""
    command = [sys.executable, "-m", "attncli", "generate", PROMPTS[0], "--json", "--stats", "-m", given.model]
    options = {"-n": given.tokens, "--num-samples": samples, "-t": given.temperature, "--min-p": 0, "--seed": 1}
    command += [str(part) for option in options.items() for part in option]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    speed = json.loads(output)["throughput"]
    return float(speed["new_tokens"] / (speed["prompt_seconds"] + speed["later_seconds"]))


def compare(address: tuple[str, int], given: argparse.Namespace) -> None:
    """Measures all sides in turns, and prints a row for each side and number of clients."""
    other = urlsplit(given.against or "")
    sides = {"attncli serve": (address, True)}
    if given.whole:
        sides["attncli serve, whole answers"] = address, False
    if given.against:
        there = other.hostname or "127.0.0.1", other.port or 80
        sides["the other server"] = there, True
        if given.whole:
            sides["the other server, whole answers"] = there, False
    alone = asyncio.run(texts_alone(address, requests_of(given, stream=True)))
    print("clients  side                              tokens/s  ratio  TTFT p50    p95   texts   503  errors")
    for clients in given.clients:
        rounds: dict[str, list[Round]] = {side: [] for side in sides}
        rates: dict[str, list[float]] = {}
        for _ in range(given.rounds):
            for side, (there, stream) in sides.items():
                expected = alone if there == address else []
                requests = requests_of(given, stream=stream)
                one = asyncio.run(run_clients(there, requests, expected, clients, given.seconds))
                rounds[side].append(one)
                rates.setdefault(side, []).append(one.rate)
            if given.generate:
                rates.setdefault("attncli generate", []).append(generate_rate(given, clients))
        for side, found in rates.items():
            ratio = statistics.median(a / b for a, b in zip(rates["attncli serve"], found, strict=True))
            row = f"{clients:<8} {side:<32} {statistics.median(found):9,.0f} {ratio:6.2f}"
            if some := rounds.get(side):
                p50, p95 = (statistics.median(one.first_ms(share) for one in some) for share in (0.5, 0.95))
                row += f" {p50:6.0f} ms {p95:6.0f} ms {sum(one.texts for one in some):6,}"
                row += f" {sum(one.busy for one in some):5,} {sum(len(one.errors) for one in some):7,}"
            print(row, flush=True)
            for error in [error for one in some or () for error in one.errors][:3]:
                print(f"  {error}")


def mixed_requests(model: str, tokens: int) -> list[Fields]:
    """Returns the requests of the load."""
    draws, requests = random.Random(1), list[Fields]()
    for seed in range(6):
        for settings in SETTINGS:
            prompt = LONG[draws.randrange(100) :] if draws.random() < 0.15 else draws.choice(PROMPTS)
            fields = {"model": model, "prompt": prompt, "seed": seed, "max_tokens": draws.choice([1, 16, tokens])}
            if draws.random() < 0.7:
                fields |= {"stream": True, "stream_options": {"include_usage": True}}
            requests.append(fields | settings)
    return requests


async def sampled(process: int, seconds: float) -> list[tuple[int, int]]:
    """Returns the resident memory, in KiB, and the number of descriptors of a process, every few seconds."""
    samples, folder = [], Path(f"/proc/{process}")
    for _ in range(int(seconds / SAMPLE_SECONDS)):
        await asyncio.sleep(SAMPLE_SECONDS)
        resident = re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())
        samples.append((int(resident[1]) if resident else 0, len(list((folder / "fd").iterdir()))))
    return samples


async def put_load(address: tuple[str, int], process: int, given: argparse.Namespace) -> None:
    """Runs the load, and prints what was found."""
    requests, draws = mixed_requests(given.model, given.tokens), random.Random(2)
    alone = await texts_alone(address, requests)

    def leaves() -> int | None:
        return draws.randrange(200, 4000) if draws.random() < LEAVING else None

    for clients in given.clients:
        running = run_clients(address, requests, alone, clients, given.load, leaves, at_once=True)
        found, samples = await asyncio.gather(running, sampled(process, given.load))
        per_minute = max(min(60 // SAMPLE_SECONDS, len(samples) // 2), 1)
        print(f"{clients} clients, {found.seconds:.0f} s: {found.texts:,} texts, {found.tokens:,} tokens")
        print(f"{found.rate:,.0f} tokens/s, {found.left:,} clients left, {found.busy:,} x 503 with Retry-After")
        print(f"TTFT of streams: p50 {found.first_ms(0.5):.0f} ms, p95 {found.first_ms(0.95):.0f} ms")
        for name, some in (("first", samples[:per_minute]), ("last", samples[-per_minute:])):
            resident, descriptors = zip(*some, strict=True)
            memory = f"{statistics.median(resident) / 1024:.0f} MiB (at most {max(resident) / 1024:.0f})"
            opened = f"{statistics.median(descriptors):.0f} descriptors (at most {max(descriptors)})"
            print(f"{name} minute: {memory}, {opened}")
        print(f"errors: {len(found.errors)}", *found.errors[:5], sep="\n  ")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1)
    parser.add_argument("--whole", action="store_true", help="also answers that are not streamed")
    parser.add_argument("--generate", action="store_true", help="also attncli generate --num-samples")
    parser.add_argument("--against", metavar="URL", help="a server that runs already")
    parser.add_argument("--load", type=float, metavar="SECONDS", help="mixed requests instead")
    given = parser.parse_args(arguments)
    with serving(given.model) as (address, process):
        if given.load:
            asyncio.run(put_load(address, process, given))
        else:
            compare(address, given)


if __name__ == "__main__":
    main()
