"""Attacks a running `attncli serve`; measures its answers, its memory, and ordinary requests meanwhile.

usage: python -m tests.campaign.attacks [--model stories] [--only NAME ...] [--connections 10000]

Every attack has addresses of its own (127.0.0.2 and above, as Linux has them), so that the limits of an address do not
stop the ordinary client, which asks for a short text again and again. Prints a row of a Markdown table per attack. The
exit code is 1 if the server ended, if an answer has status 500, or if an ordinary request fails after an attack.
"""

import argparse
import json
import re
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HOST = "Host: 127.0.0.1\r\n"
JSON = "Content-Type: application/json\r\n"
TEXTS, CHAT, ATTENTION, NEXT = "/v1/completions", "/v1/chat/completions", "/v1/attention", "/api/next"
LONG = 60  # seconds that an attacker waits
GIGABYTE = 1 << 30
ENDLESS = {"max_tokens": 16_384, "logit_bias": {"0": -100}}


@dataclass
class Target:
    """A running server."""

    port: int
    pid: int

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def connected(self, address: int = 2, **more) -> socket.socket:
        """Returns a connection from the address 127.0.0.N."""
        made = socket.socket()
        for name, value in more.items():
            made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        made.bind((f"127.0.0.{address}", 0))
        made.settimeout(LONG)
        made.connect(("127.0.0.1", self.port))
        return made

    def send(self, *parts: bytes, address: int = 2) -> bytes:
        """Sends bytes, and returns what comes back until the server closes, or a second passes after an answer."""
        with self.connected(address) as connection:
            received = b""
            try:
                for part in parts:
                    connection.sendall(part)
                while data := connection.recv(1 << 16):
                    received += data
                    connection.settimeout(1)
            except (TimeoutError, ConnectionError):
                return received
        return received

    def post(self, path: str, body: bytes, head: str = HOST, address: int = 2) -> str:
        """Returns the status of a POST request of JSON."""
        length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return status_of(self.send(f"POST {path} HTTP/1.1\r\n{head}{JSON}{length}".encode() + body, address=address))

    def number(self, name: str) -> int:
        """Returns a number of GET /metrics."""
        text = self.send(f"GET /metrics HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n".encode(), address=250).decode()
        return int(re.findall(rf"^{name} (\d+)", text, re.MULTILINE)[0])

    def wait_for(self, name: str, value: int) -> float:
        """Waits until a number of GET /metrics has a value; returns the seconds."""
        began = time.monotonic()
        while self.number(name) != value:
            if time.monotonic() - began > LONG:
                return float("inf")
            time.sleep(0.05)
        return time.monotonic() - began


def status_of(answer: bytes) -> str:
    """Returns the status of the first answer, or 'closed'."""
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return found[1].decode() if found else "closed"


def counted(values: Sequence[str]) -> str:
    """Returns how often each value occurs: ['400', '400', '413'] -> '2 x 400, 413'."""
    return ", ".join(value if count == 1 else f"{count} x {value}" for value, count in Counter(values).most_common())


# The attacks


def wrong_hosts(target: Target) -> str:
    hosts = [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::1",
        "0.0.0.0",
        "169.254.169.254",
        "",
    ]
    return counted([target.post(TEXTS, b'{"prompt": "a"}', f"Host: {host}\r\n") for host in hosts])


def foreign_origins(target: Target) -> str:
    heads = ["Origin: http://evil.example", "Origin: null", "Origin: https://127.0.0.1", "Sec-Fetch-Site: cross-site"]
    answers = [target.post(TEXTS, b'{"prompt": "a"}', f"{HOST}{head}\r\n") for head in heads]
    preflight = f"OPTIONS {TEXTS} HTTP/1.1\r\n{HOST}Origin: http://evil.example\r\nConnection: close\r\n\r\n"
    form = (
        f"POST {TEXTS} HTTP/1.1\r\n{HOST}Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )
    return counted([*answers, *(status_of(target.send(one.encode())) for one in (preflight, form))])


def slow_heads(target: Target) -> str:
    """500 connections, each of which sends a byte of its head every half second."""
    head, closed, began = f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 500}".encode(), 0, time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(target.connected(3)) for _ in range(500)]
        for one in slow:
            one.setblocking(False)
        for byte in head:
            for one in list(slow):
                try:
                    one.send(bytes([byte]))
                    if one.recv(1 << 12) == b"":
                        raise ConnectionError
                except BlockingIOError:
                    continue
                except OSError:
                    slow.remove(one)
                    closed += 1
            if not slow:
                break
            time.sleep(0.5)
    return f"{closed} of 500 closed, the last after {time.monotonic() - began:.0f} s"


def declared_gigabyte(target: Target) -> str:
    head = f"POST {TEXTS} HTTP/1.1\r\n{HOST}{JSON}Content-Length: {GIGABYTE}\r\n\r\n".encode()
    return _poured(target, head, b"x" * (1 << 16))


def chunked_gigabyte(target: Target) -> str:
    head = f"POST {TEXTS} HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n".encode()
    return _poured(target, head, b"10000\r\n" + b"x" * (1 << 16) + b"\r\n")


def refused_gigabyte(target: Target) -> str:
    """The body of a request that is refused before the body is read."""
    head = f"POST {TEXTS} HTTP/1.1\r\nHost: evil.example\r\n{JSON}Content-Length: {GIGABYTE}\r\n\r\n".encode()
    return _poured(target, head, b"x" * (1 << 16))


def _poured(target: Target, head: bytes, part: bytes) -> str:
    """Sends a body as long as the server takes it."""
    sent, received = 0, b""
    with target.connected() as connection:
        with suppress(OSError):
            connection.sendall(head)
            while sent < GIGABYTE:
                connection.sendall(part)
                sent += len(part)
        with suppress(OSError):
            received = connection.recv(1 << 16)
    return f"{status_of(received)} after {sent / (1 << 20):.1f} MiB"


def hostile_json(target: Target) -> str:
    bodies = [
        b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": ' + b"9" * 5000 + b"}", b'{"temperature": 1e999}', b'{"temperature": NaN}',
        b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}', b'{"prompt": "a", "prompt": "b"}', b"\x00", b"",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"text": "\\ud800"}', b"{" + b'"a":1,' * 100_000,
        b'\xef\xbb\xbf{"prompt": "a"}', '{"prompt": "a"}'.encode("utf-16"), b'{"prompt": [' + b"1," * 400_000 + b"1]}",
    ]  # fmt: skip
    paths = (TEXTS, CHAT, ATTENTION, NEXT, "/api/page", "/api/cut")
    return counted([target.post(path, body) for path in paths for body in bodies])


def hostile_fields(target: Target) -> str:
    fields = [
        {"max_tokens": -1}, {"max_tokens": 10**30}, {"max_tokens": 1.5}, {"n": 129}, {"n": -1}, {"n": 2**63},
        {"logit_bias": {str(at): 1 for at in range(100_000)}}, {"logit_bias": {"-1": 1}},
        {"logit_bias": {"9" * 5000: 1}},
        {"stop": ["a"] * 10_000}, {"stop": "a" * 10_000}, {"stop": [[]]}, {"seed": 10**19}, {"temperature": 1e308},
        {"prompt": ["a"] * 10_000}, {"prompt": "a" * 900_000}, {"prompt": [[1]] * 200_000}, {"prompt": [10**18]},
        {"logprobs": 10**6}, {"model": "../../etc/passwd"}, {"model": "\x00"}, {"model": "a" * 900_000},
        {"a" * 900_000: 1}, {"stream_options": {"a" * 900_000: True}}, {"top_k": 2**62, "max_tokens": 1},
        {"repetition_penalty": 1e-300, "max_tokens": 1}, {"typical_p": 1e-300, "max_tokens": 1},
    ]  # fmt: skip
    return counted([target.post(TEXTS, json.dumps({"prompt": "a"} | one).encode()) for one in fields])


def most_texts(target: Target) -> str:
    """Two requests for as many and as long texts as are allowed; the clients leave after a second."""
    body = json.dumps({"prompt": ["a", "b"], "n": 128, "logprobs": 20} | ENDLESS).encode()
    head = f"POST {TEXTS} HTTP/1.1\r\n{HOST}{JSON}Content-Length: {len(body)}\r\n\r\n".encode()
    with target.connected() as one, target.connected() as other:
        one.sendall(head + body)
        other.sendall(head + body)
        time.sleep(1)
        running, waiting = target.number("attncli_texts_running"), target.number("attncli_texts_waiting")
    freed = target.wait_for("attncli_texts_running", 0)
    return f"{running} ran and {waiting} waited; all ended {freed:.1f} s after their clients left"


def garbage(target: Target) -> str:
    get = f"GET /health HTTP/1.1\r\n{HOST}\r\n".encode()
    sent = [
        get + b"\x16\x03\x01\x02\x00\x01\x00" * 1000, get * 300 + b"\x00" * 70_000, b"\x00" * 70_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", f"GET / HTTP/9.9\r\n{HOST}\r\n".encode(), b"\r\n" * 50_000,
        f"CONNECT evil.example:443 HTTP/1.1\r\n{HOST}\r\n".encode(), f"TRACE / HTTP/1.1\r\n{HOST}\r\n".encode(),
        f"GET / HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n".encode(),
        f"GET http://evil.example/ HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n".encode(),
        f"GET /%00/../../etc/passwd HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n".encode(),
    ]  # fmt: skip
    return counted([",".join(sorted(set(_statuses(target.send(one, address=4))))) or "closed" for one in sent])


def smuggled(target: Target) -> str:
    """Requests whose end is ambiguous, each followed by a second one, which no answer may belong to."""
    inner = f"GET /v1/models HTTP/1.1\r\n{HOST}\r\n".encode()
    length, chunked = f"Content-Length: {len(inner)}\r\n", "Transfer-Encoding: chunked\r\n"
    heads = [
        length + "Content-Length: 1\r\n", length + chunked, chunked + length, "Content-Length: 0, 5\r\n",
        f"Content-Length: +{len(inner)}\r\n", "Content-Length: 0x5\r\n", "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding : chunked\r\n", "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n", "X: a\r\n\tTransfer-Encoding: chunked\r\n" + "Content-Length: 1e1\r\n",
        "Content-Length: 5\rTransfer-Encoding: chunked\r\n", "Content-Length: \u0665\r\n",
    ]  # fmt: skip
    first = f"POST {TEXTS} HTTP/1.1\r\n{HOST}{JSON}"
    answers = [_statuses(target.send(f"{first}{head}\r\n0\r\n\r\n".encode() + inner, address=5)) for head in heads]
    second = sum(len(one) > 1 for one in answers)
    return f"{counted([one[0] if one else 'closed' for one in answers])}; {second} got a second answer"


def _statuses(answer: bytes) -> list[str]:
    return [one.decode() for one in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


def huge_heads(target: Target) -> str:
    start = f"GET / HTTP/1.1\r\n{HOST}"
    sent = [
        f"{start}X: {'x' * (1 << 20)}\r\n\r\n", start + "X: y\r\n" * 100_000 + "\r\n",
        f"GET /{'a' * (1 << 20)} HTTP/1.1\r\n{HOST}\r\n", f"{start}Cookie: {'a=b;' * 15_000}Connection: close\r\n\r\n",
        start + "Origin: http://evil.example\r\n" * 500 + "\r\n", f"{'G' * (1 << 20)} / HTTP/1.1\r\n\r\n",
    ]  # fmt: skip
    return counted([status_of(target.send(one.encode(), address=6)) for one in sent])


def half_open(target: Target, count: int = 10_000) -> str:
    """Connections that send half a head, from 16 addresses, opened as fast as possible."""
    closed, began, answers = 0, time.monotonic(), Counter[str]()
    with ExitStack() as stack, selectors.DefaultSelector() as watched:
        for number in range(count):
            try:
                one = stack.enter_context(target.connected(16 + number % 16))
                one.send(b"GET / HTT")
            except OSError:
                closed += 1
                continue
            one.setblocking(False)
            watched.register(one, selectors.EVENT_READ)
        opened = time.monotonic() - began
        while watched.get_map() and time.monotonic() - began < 3 * LONG:
            for key, _ in watched.select(1):
                watched.unregister(key.fileobj)
                closed += 1
                try:
                    answers[status_of(key.fileobj.recv(4096))] += 1
                except OSError:
                    answers["closed"] += 1
        left = len(watched.get_map())
    return f"opened in {opened:.0f} s; {closed} closed after {time.monotonic() - began:.0f} s, {left} left open"


def deaf_readers(target: Target) -> str:
    """16 clients ask for streams of 4 texts, twice as many as run at a time, and read nothing."""
    body = json.dumps({"prompt": "a", "n": 4, "stream": True, "logprobs": 20} | ENDLESS).encode()
    request = f"POST {TEXTS} HTTP/1.1\r\n{HOST}{JSON}Content-Length: {len(body)}\r\n\r\n".encode() + body
    began = time.monotonic()
    with ExitStack() as stack:
        for number in range(16):
            stack.enter_context(target.connected(40 + number, SO_RCVBUF=4096)).sendall(request)
        time.sleep(1)
        running = target.number("attncli_texts_running")
        for name in ("attncli_texts_waiting", "attncli_texts_running"):
            target.wait_for(name, 0)
    return f"{running} texts ran; all had ended after {time.monotonic() - began:.0f} s"


ATTACKS: dict[str, Callable[[Target], str]] = {
    "wrong Host (DNS rebinding)": wrong_hosts, "pages of other sites": foreign_origins,
    "500 heads, a byte at a time": slow_heads, "1 GB, declared": declared_gigabyte,
    "1 GB in chunks": chunked_gigabyte, "1 GB to another host": refused_gigabyte, "hostile JSON": hostile_json,
    "hostile values": hostile_fields, "as many texts as allowed": most_texts, "garbage, also pipelined": garbage,
    "request smuggling": smuggled, "heads of 1 MB": huge_heads, "half-open connections": half_open,
    "streams that nobody reads": deaf_readers,
}  # fmt: skip


# The measurement


@dataclass
class Ordinary:
    """The client that asks for a short text again and again."""

    target: Target
    statuses: list[str] = field(default_factory=list)
    worst: float = 0.0

    def ask(self) -> str:
        """Asks once; returns the status."""
        began = time.monotonic()
        body = b'{"prompt": "Once upon a time", "max_tokens": 4, "seed": 1}'
        try:
            status = self.target.post(TEXTS, body, address=1)
        except OSError:
            status = "closed"
        self.statuses.append(status)
        self.worst = max(self.worst, time.monotonic() - began)
        return status

    @contextmanager
    def asking(self) -> Iterator[list[float]]:
        """Asks in a thread; yields a list of the server's memory at those times."""
        over, memory = threading.Event(), list[float]()

        def work() -> None:
            while not over.is_set():
                self.ask()
                memory.append(self.target.megabytes)
                over.wait(0.1)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield memory
        finally:
            over.set()
            thread.join()


def measure(target: Target, name: str, attack: Callable[[Target], str]) -> bool:
    """Prints the row of an attack; returns whether all is well."""
    before, ordinary, began = target.megabytes, Ordinary(target), time.monotonic()
    with ordinary.asking() as memory:
        happened = attack(target)
    seconds, after = time.monotonic() - began, Ordinary(target).ask()
    good = sum(status == "200" for status in ordinary.statuses)
    others = counted([status for status in ordinary.statuses if status != "200"])
    during = f"{good} of {len(ordinary.statuses)}{f' ({others})' if others else ''}, at most {ordinary.worst:.1f} s"
    grown = f"{before:.0f}, {max(memory, default=before):.0f}, {target.megabytes:.0f}"
    print(f"| {name} | {happened} | {seconds:.0f} | {grown} | {during} | {after} |", flush=True)
    return after == "200" and not re.search(r"\b500\b", happened.replace("of 500", ""))


@contextmanager
def serving(model: str) -> Iterator[tuple[subprocess.Popen[str], Target]]:
    """Runs the server on a free port."""
    command = [sys.executable, "-m", "attncli", "serve", "-m", model, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+)/", line)
        assert found, line + process.stderr.read()
        yield process, Target(int(found[1]), process.pid)
    finally:
        process.terminate()
        process.wait(LONG)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="attacks whose names contain one of these")
    parser.add_argument("--connections", type=int, default=10_000, help="half-open connections")
    given = parser.parse_args(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with serving(given.model) as (process, target):  # the server keeps the limit that it has
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(given.connections + 500, 4096), most), most))
        for _ in range(3):
            Ordinary(target).ask()
        print("| attack | what happened | s | MB before, at most, after | ordinary requests meanwhile | after |")
        print("| --- | --- | --- | --- | --- | --- |")
        well = True
        for name, attack in ATTACKS.items():
            if not given.only or any(one in name for one in given.only):
                sized = attack if attack is not half_open else (lambda target: half_open(target, given.connections))
                well &= measure(target, name, sized)
        return 0 if well and process.poll() is None else 1


if __name__ == "__main__":
    sys.exit(main())
