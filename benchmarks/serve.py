"""Measures the requests of the live page: the elapsed time and the CPU time from a request to its answer, as medians.

The server runs in this process, and one client asks for one answer after another.

usage: python benchmarks/serve.py [--model stories] [--tokens 30] [--rounds 50]
"""

import argparse
import http.client
import json
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import closing

import torch

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.checkpoint.resolve import resolve_model
from attncli.render.page.assemble import live_page
from attncli.serve.address import Names
from attncli.serve.application import application
from attncli.serve.guard import Access
from attncli.serve.server import Server, open_socket
from attncli.serve.service import Service

SENTENCE = "The little cat sat on the old mat. The little dog ran to the big red ball, and then it jumped. "
WARM_UP = 3  # rounds that are not counted


def text_of(loaded: LoadedModel, tokens: int) -> str:
    """Returns a text of this many tokens, or one or two fewer if they are encoded differently without what follows."""
    ids = loaded.tokenizer.encode(SENTENCE * (tokens // 8 + 1))
    return loaded.tokenizer.decode(ids[:tokens])


def measure(port: int, text: str, last: int, rounds: int) -> None:
    """Prints the medians of each kind of request for a text whose last row is `last`."""
    requests = {
        "page": lambda at: {"text": text},
        "cut": lambda at: {"text": text, "kind": "edge", "edges": [[last, at % last]], "measured": last},
        "next": lambda at: {"text": text, "seed": at + WARM_UP},
    }
    print("request  bytes     elapsed  CPU time")
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        for name, fields in requests.items():
            taken = []
            for at in range(-WARM_UP, rounds):
                body = json.dumps(fields(at) | {"client": "benchmark", "number": at + WARM_UP})
                began = time.perf_counter(), time.process_time()
                client.request("POST", f"/api/{name}", body, {"Content-Type": "application/json"})
                answer = client.getresponse()
                data = answer.read()
                taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))
                if answer.status != 200:
                    raise SystemExit(data.decode())
            elapsed, used = (1000 * statistics.median(column) for column in zip(*taken[WARM_UP:], strict=True))
            print(f"{name:<8} {len(data):<7,} {elapsed:7.1f} ms {used:6.1f} ms")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args(arguments)
    loaded = load_model(resolve_model(given.model), torch.device("cpu"), torch.float32)
    service = Service.of(live_page(), loaded)
    server = Server(application(service, Access(Names.of("127.0.0.1"))), service)
    with open_socket("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            text = text_of(loaded, given.tokens)
            measure(listening.getsockname()[1], text, len(loaded.prompt(text)) - 1, given.rounds)
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main()
