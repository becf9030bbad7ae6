"""Measures the page in Chromium, beside BertViz: size, first paint, time from hovering to redrawn, requests.

usage: python benchmarks/page.py [--model MODEL] [--text TEXT] [--tokens N] [--hovers 40] [--rounds 5] [--shape LxH]
       [--view lines] [--scripts DIR]

The page of the first N tokens of the text is written and opened `rounds` times, each time in a new browser. First paint
is the browser's first contentful paint; the page of attncli also notes when all is drawn. A hover moves the pointer to
another visible token of the left column, at a random moment of a frame; it is over when the page has drawn the next
frame. The browser draws a frame every 16.7 ms, so without any work a hover takes 8.3 ms. The work per hover is the time
of the main thread. With --shape 12x12, the model is a random one of 12 layers of 12 heads, each 64 wide.
BertViz (`pip install bertviz ipython transformers`) is measured if it is installed: its head view and its model view,
with the weights of the same model and tokens. Its pages load three scripts from another host. --scripts names a folder
with local copies (require.min.js, d3.min.js, jquery.min.js), which replace them, so that it is measured without a
network; without the copies, the page stays empty.
Needs selenium, and Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TEXT = "The little cat sat on the old mat. The little dog saw the cat and it was happy. "
LINES = ".lines-side.rows .line-token"
HOSTED = "https://cdnjs.cloudflare.com/ajax/libs/"
SCRIPTS = {
    "require.js/2.3.6/require.min.js": "require.min.js",
    "d3/5.7.0/d3.min": "d3.min",
    "jquery/2.0.0/jquery.min": "jquery.min",
}
# Notes how long each move of the pointer to another element takes until it is drawn. Returns where the elements are.
WATCH = """
const [selector] = arguments;
window.taken = [];
addEventListener("pointerover", ({timeStamp}) => requestAnimationFrame(() => {
  const drawn = new MessageChannel();
  drawn.port1.onmessage = () => window.taken.push(performance.now() - timeStamp);
  drawn.port2.postMessage(null);
}), true);
const boxes = [...document.querySelectorAll(selector)].map((one) => one.getBoundingClientRect());
const shown = boxes.filter(({top, bottom}) => top >= 0 && bottom <= innerHeight);
return shown.map(({left, top, width, height}) => ({x: left + width / 2, y: top + height / 2}));
"""
FRAME = 1 / 60  # seconds
PAINT = "return performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
REQUESTS = "return performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:')).length"


def chromium() -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    hosts = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", hosts):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_script_timeout(120)
    driver.set_window_size(1280, 900)
    return driver


def measure(page: Path, tokens: str, hovers: int, rounds: int) -> list[str]:
    """Returns the size of a page, and the medians of its first paint and of hovering, as cells of a table."""
    paints, drawn, times, work, requests = [], [], [], [], 0
    for _ in range(rounds):
        driver = chromium()
        try:
            driver.get(page.as_uri())
            end = time.monotonic() + 30
            while not (driver.find_elements("css selector", tokens) and driver.execute_script(PAINT)):
                if time.monotonic() > end:
                    break
            paints += driver.execute_script(PAINT)
            drawn += driver.execute_script(PAINT.replace("first-contentful-paint", "drawn"))
            requests = driver.execute_script(REQUESTS)
            if hovers and driver.find_elements("css selector", tokens):
                driver.execute_cdp_cmd("Performance.enable", {})
                before = busy(driver)
                times += hovered(driver, tokens, hovers)
                work.append((busy(driver) - before) / hovers)
        finally:
            driver.quit()
    paint = f"{statistics.median(paints):,.0f} ms" if paints else "never"
    paint += f", {statistics.median(drawn):,.0f} ms" if drawn else ""
    hover = f"{statistics.median(times):.1f} ms, {sorted(times)[int(len(times) * 0.95)]:.0f} ms" if times else "-"
    worked = f"{statistics.median(work):.1f} ms" if work else "-"
    return [f"{page.stat().st_size / 1000:,.0f} kB", paint, hover, worked, str(requests)]


def hovered(driver: Any, tokens: str, count: int) -> list[float]:
    """Moves the pointer to one token after another, and returns the milliseconds until each is drawn."""
    places, pause = driver.execute_script(WATCH, tokens), random.Random(0)
    for at in range(count):
        place = places[7 * at % len(places)]
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved"} | place)
        time.sleep((2 + pause.random()) * FRAME)
    return driver.execute_script("return taken")


def busy(driver: Any) -> float:
    """Returns the time in milliseconds that the page's main thread has worked."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def random_model(folder: Path, layers: int, heads: int) -> None:
    import torch

    from attncli.checkpoint.save import Checkpoint, write_checkpoint
    from attncli.config import ModelConfig
    from attncli.model.transformer import Transformer, initialize
    from attncli.text.tokenizer_training import train_tokenizer

    tokenizer = train_tokenizer([TEXT * 20], "byte")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, layers=layers, width=64 * heads, heads=heads, kv_heads=heads, head_width=64,
        feed_forward_width=128 * heads, context=1024,
    )  # fmt: skip
    model = Transformer(config)
    initialize(model, torch.Generator().manual_seed(0))
    write_checkpoint(folder, Checkpoint(config, model.state_dict(), tokenizer, start_of_text=0))


def own_page(file: Path, model: str, text: str, count: int) -> tuple[list[str], Any]:
    """Writes the page of the first `count` tokens. Returns their labels and all weights (L, H, T, T)."""
    from attncli.checkpoint.resolve import resolve_model
    from attncli.cli.process import limit_spinning

    limit_spinning()
    import torch

    from attncli.checkpoint.load import load_model
    from attncli.explain.every_weight import every_weight
    from attncli.explain.reading import Reading
    from attncli.pages import html_page
    from attncli.views import ViewOptions

    loaded = load_model(resolve_model(model), torch.device("cpu"), torch.float32)
    pieces = loaded.pieces(text)[:count]
    start = time.monotonic()
    file.write_text(html_page(loaded, pieces, None, ViewOptions()))
    print(f"{len(pieces)} tokens of {loaded.name}; the page was computed in {time.monotonic() - start:.1f} s")
    return [piece.text for piece in pieces], every_weight(Reading.of(loaded.model, pieces)).weights


def bertviz_page(view: str, file: Path, labels: list[str], weights: Any, scripts: Path | None) -> None:
    import torch
    from bertviz import head_view, model_view

    show: Callable[..., Any] = {"head view": head_view, "model view": model_view}[view]
    attention = [torch.tensor(layer)[None] for layer in weights]
    html = show(attention, labels, html_action="return").data
    for hosted, local in SCRIPTS.items() if scripts else ():
        html = html.replace(HOSTED + hosted, (scripts / local).absolute().as_uri())
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'>{html}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--hovers", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", help="measure a random model of LAYERSxHEADS")
    parser.add_argument("--view", default="lines")
    parser.add_argument("--scripts", type=Path, help="a folder with require.min.js, d3.min.js and jquery.min.js")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, model = Path(folder), given.model
        if given.shape:
            model = str(place / "random")
            random_model(Path(model), *map(int, given.shape.split("x")))
        labels, weights = own_page(place / "page.html", model, given.text * (1 + given.tokens // 10), given.tokens)
        rows = [["attncli", *measure(place / "page.html", LINES, given.hovers, given.rounds)]]
        for view in ("head view", "model view") if find_spec("bertviz") else ():
            bertviz_page(view, place / "bertviz.html", labels, weights, given.scripts)
            selector = "#left rect" if view == "head view" else "svg"
            hovers = given.hovers if view == "head view" else 0  # the model view has no tokens to hover over
            rows.append([f"BertViz, {view}", *measure(place / "bertviz.html", selector, hovers, given.rounds)])
    head = ["", "size", "first paint, all drawn", "hover to redrawn: median, 95%", "work per hover", "requests"]
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
