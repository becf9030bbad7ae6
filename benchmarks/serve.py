"""Measures the requests of the live page: the elapsed time and the CPU time from a request to its answer, as medians.

The server runs in this process, and one client asks for one answer after another.
With --type, Chromium types one character after another into a text of that many tokens, and deletes them again. A key
takes until the frame is drawn that shows the new text; of this time, the request is from sending it to the last byte,
the script decodes the answer and updates the page, and the browser then computes styles, layout and the frame.
--type needs selenium, and Debian's packages chromium and chromium-driver.

usage: python benchmarks/serve.py [--model stories] [--tokens 30] [--rounds 50] [--type]
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from urllib.parse import quote

import torch
from page import chromium

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.checkpoint.resolve import resolve_model
from attncli.render.page.assemble import live_page
from attncli.serve.address import Names
from attncli.serve.application import application
from attncli.serve.guard import Access
from attncli.serve.server import Server, open_socket
from attncli.serve.service import Service

SENTENCE = "The little cat sat on the old mat. The little dog ran to the big red ball, and then it jumped. "
TYPED = ", and then"  # the characters that Chromium types and deletes
KEY = {"windowsVirtualKeyCode": 8, "key": "Backspace", "code": "Backspace"}
WARM_UP = 3  # rounds that are not counted
# Notes the parts of the time from each key to the frame that shows the text.
WATCH = """
window.keys = [];
const area = document.querySelector("#live-text");
let pressed = 0;
addEventListener("keydown", ({timeStamp}) => { pressed = timeStamp; performance.clearResourceTimings(); }, true);
new MutationObserver(() => {
  const updated = performance.now();
  const [request] = performance.getEntriesByType("resource").filter(({name}) => name.endsWith("/api/page")).slice(-1);
  requestAnimationFrame(() => {
    const drawn = new MessageChannel();
    drawn.port1.onmessage = () => {
      const end = performance.now(), tokens = [...document.querySelectorAll(".token")].map((one) => one.textContent);
      const {startTime, responseEnd} = request;
      window.keys.push({
        text: tokens.join(""), key: end - pressed, wait: startTime - pressed, request: responseEnd - startTime,
        script: updated - responseEnd, frame: end - updated,
      });
    };
    drawn.port2.postMessage(null);
  });
}).observe(document.body, {attributeFilter: ["data-milliseconds"]});
area.focus();
area.setSelectionRange(area.value.length, area.value.length);
"""
READY = """
const [done] = arguments, poll = () => document.body.dataset.milliseconds ? done() : setTimeout(poll, 5);
poll();
"""
NEXT = """
const [count, done] = arguments;
const poll = () => window.keys.length > count ? done(window.keys[count]) : setTimeout(poll, 5);
poll();
"""
PARTS = ("key", "wait", "request", "script", "frame")


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


def type_into(driver: Any, port: int, text: str, rounds: int) -> None:
    """Types characters into the live page and deletes them; prints the medians of the parts of the time of a key."""
    driver.get(f"http://127.0.0.1:{port}/#text={quote(text)}")
    driver.execute_async_script(READY)
    driver.execute_script(WATCH)
    pause, taken = random.Random(0), []
    for at in range(-len(TYPED) * 2, rounds):
        count = at % (2 * len(TYPED))
        forward = count < len(TYPED)
        keys = [{"type": "keyDown", "text": TYPED[count]} if forward else {"type": "keyDown"} | KEY, {"type": "keyUp"}]
        for key in keys:
            driver.execute_cdp_cmd("Input.dispatchKeyEvent", key)
        found = driver.execute_async_script(NEXT, at + 2 * len(TYPED))
        written = TYPED[: count + 1 if forward else 2 * len(TYPED) - 1 - count]
        if not found["text"].replace("\u2423", " ").endswith((text + written)[-8:]):
            raise SystemExit(f"the page shows {found['text']!r} after {text + written!r}")
        if at >= 0:
            taken.append(found)
        time.sleep(0.05 + pause.random() / 60)
    for name in PARTS:
        times = sorted(each[name] for each in taken)
        print(f"{name:<8} median {statistics.median(times):5.0f} ms, 95% {times[int(len(times) * 0.95)]:5.0f} ms")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--type", action="store_true", help="type into the live page in Chromium")
    given = parser.parse_args(arguments)
    loaded = load_model(resolve_model(given.model), torch.device("cpu"), torch.float32)
    service = Service.of(live_page(), loaded)
    server = Server(application(service, Access(Names.of("127.0.0.1"))), service)
    with open_socket("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            text, port = text_of(loaded, given.tokens), listening.getsockname()[1]
            if given.type:
                driver = chromium()
                try:
                    type_into(driver, port, text, given.rounds)
                finally:
                    driver.quit()
            else:
                measure(port, text, len(loaded.prompt(text)) - 1, given.rounds)
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main()
