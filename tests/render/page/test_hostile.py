"""Text from files and models in the page: nothing in it runs, and every character of it can be seen."""

import random
import re
import unicodedata
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from attncli.config import ModelConfig
from attncli.explain.page.attention import PageAttention
from attncli.explain.page.document import PageDocument, Start
from attncli.explain.page.predictions import LensRows, Predictions
from attncli.explain.question import MapAxes
from attncli.explain.units import Spans
from attncli.render.escape import id_label, token_label
from attncli.render.page.assemble import page_file
from attncli.render.page.payload import payload
from attncli.text.tokenizer import Piece
from tests.support.browser import needs_chromium

pytestmark = needs_chromium
HIT = "window.hit = true"
FRAGMENTS = (
    "</script><script>window.hit = true</script>", "<img src=x onerror='window.hit = true'>", "<!--", "-->", "]]>",
    '"onfocus="window.hit = true" autofocus="', "javascript:window.hit = true", "${window.hit = true}", "`", "\\",
    "&lt;",
    "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\x00", "\x1b[2J", "\x7f", "\x9b", "\r\n", "\ud800",
    "{policy}", "{script}", "__proto__", "constructor", "<style>*{display:none}</style>", "<base href=//evil.example>",
    "<svg/onload=window.hit=true>", "\U000e0041", "ﷺ", "ẗ" * 20, "🏳️‍🌈",
)  # fmt: skip
DRAWN, COUNT = 1_000, 10_000  # the tokens of a page that is drawn, and of one that is hidden
HIDDEN = """
const style = new CSSStyleSheet();
style.replaceSync("body { display: none !important }");
document.adoptedStyleSheets = [style];
"""


def labels(count):
    """Returns random texts of tokens, made of hostile fragments and of characters of every plane."""
    draw = random.Random(count)
    texts = list(FRAGMENTS)
    while len(texts) < count:
        chars = "".join(chr(draw.choice([draw.randrange(0x250), draw.randrange(0x110000)])) for _ in range(12))
        texts.append(draw.choice(FRAGMENTS) + chars if draw.random() < 0.5 else chars)
    return texts


def document(texts):
    """Returns a document whose last token attends to all tokens; no model could have such tokens."""
    pieces = tuple(Piece(at, text, 1) for at, text in enumerate(texts))
    count = len(pieces)
    axes = MapAxes(pieces, pieces, tuple(range(1, count + 1)))
    weights = np.full((1, 1, 1, count), 1 / count, np.float32)
    spans = [range(at, at + 1) for at in range(count)]
    attention = PageAttention(
        part="decoder", axes=axes, words=Spans(spans, spans), windows=(None,), rows=range(count - 1, count),
        raw=weights, norm=weights, layer_shares=weights[0], busiest=(0, 0), rollout=None, even=None, thumbnails=None,
        vectors=None,
    )  # fmt: skip
    config = ModelConfig(
        vocab_size=9, layers=1, width=8, heads=1, kv_heads=1, head_width=8, feed_forward_width=8, context=COUNT
    )
    start = Start("decoder", count - 1, ((0, 0),))
    ids, logits = np.arange(50, dtype=np.int32)[None], np.linspace(0, -5, 50, dtype=np.float32)[None]
    one = np.ones(1, np.float32)
    lens = LensRows(
        ids[:, None, :5].repeat(2, 1), logits[:, None, :5].repeat(2, 1) + 1, one[:, None].repeat(2, 1), ids[:, 1:3]
    )
    predictions = Predictions(
        "next", range(count - 1, count), ids, logits, ids * 0, 0.25, one.astype(float), one * np.nan, one, lens
    )
    return PageDocument(
        model=FRAGMENTS[0], config=config, pieces=pieces, source=None, attentions=(attention,), kinds={}, start=start,
        limits=(), predictions=predictions, cuts={}, vocabulary=dict(enumerate(texts[:50])),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[DRAWN, COUNT])
def hostile(request, tmp_path_factory):
    """Returns a page with hostile tokens, and their texts."""
    texts = labels(request.param)
    file = tmp_path_factory.mktemp("hostile") / "page.html"
    file.write_text(page_file(payload([document(texts)]), FRAGMENTS[0]), encoding="utf-8")
    return file, texts


def test_the_file_contains_no_text_of_a_token(hostile):
    file, _ = hostile
    page = file.read_text(encoding="utf-8")
    assert HIT not in page.replace("&lt;", "<").partition("</header>")[2]
    assert page.count("<script") == 3  # the data, the script, and the one that starts it


@contextmanager
def hidden(browser):
    """Hides the pages that are opened in this block: they run, but the fonts of their characters are not searched."""
    given = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HIDDEN})
    try:
        yield
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", given)


def test_hostile_tokens_run_nothing_and_are_visible(browser, hostile):
    file, texts = hostile
    with nullcontext() if len(texts) == DRAWN else hidden(browser):
        browser.open(file)
    shown = browser.texts(".lines-side.columns .label")
    assert shown == [token_label(Piece(at, text, 1)) for at, text in enumerate(texts)]
    assert browser.texts(".chance .token-name")[:12] == [id_label(at, text) for at, text in enumerate(texts[:12])]
    browser.run("document.querySelector('[data-view=layers]').click()")
    browser.settle()
    assert len(browser.all(".lens td .token-name")) == 10
    assert browser.run("return window.hit") is None
    assert browser.run("return document.querySelectorAll('img, base, iframe, object, embed').length") == 0
    assert (browser.requests(), browser.messages()) == ([], [])
    drawn = "".join(browser.texts("header, main, footer"))
    bad = {char for char in drawn if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set(
        "\n\t\u200d\u200c\u2068\u2069"
    )
    assert bad == set()
    assert drawn.count("\u2068") == drawn.count("\u2069")


RIGHT_TO_LEFT = "שלום"
# The left edges of two parts of a text in an element: of a label, and of the index behind it.
PLACES = """
const [holder, ...wanted] = arguments;
const walker = document.createTreeWalker(holder, NodeFilter.SHOW_TEXT), edges = [];
while (walker.nextNode()) {
  for (const part of wanted) {
    const at = walker.currentNode.data.indexOf(part);
    if (at < 0) continue;
    const range = document.createRange();
    range.setStart(walker.currentNode, at);
    range.setEnd(walker.currentNode, at + part.length);
    const { left, right } = range.getBoundingClientRect();
    edges.push([left, right]);
  }
}
return edges;
"""


def test_right_to_left_tokens_keep_the_order_of_a_sentence(browser, tmp_path):
    """The index of a token stands to the right of its label, and a number to the right of both."""
    file = tmp_path / "page.html"
    file.write_text(page_file(payload([document([RIGHT_TO_LEFT] * 3)]), "right to left"), encoding="utf-8")
    browser.open(file)
    for selector, index in ((".next h2", "[2]"), (".lines-legend", "[2]")):
        (label, number) = browser.run(PLACES, browser.find(selector), RIGHT_TO_LEFT, index)
        assert label[1] <= number[0] + 1, selector
    assert {row[0] for row in browser.table(".main .behind")[1:]} == {
        f"\u2068{RIGHT_TO_LEFT}\u2069 [{at}]" for at in range(3)
    }
    plain = browser.run("return getComputedStyle(document.querySelector('.token')).unicodeBidi")
    assert plain == "plaintext"
    assert browser.run("return document.querySelectorAll('bdi.label, .chance bdi, .rows bdi').length") >= 6


def test_a_hostile_address_is_ignored(browser, page):
    browser.open(
        page(), "#heads=<img src=x onerror=window.hit=true>&view=__proto__&row=1e999&theme=x&language=constructor"
    )
    assert browser.run("return window.hit") is None
    assert browser.messages() == []
    assert re.fullmatch(r".*\S.*", browser.texts("h1")[0])


def test_tokens_of_a_long_text_lie_at_the_ends_of_their_lines(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page_file(payload([document(["token"] * 600)]), "long"))
    browser.open(file)
    middles = """
    const { top, height } = document.querySelector(".lines-picture").getBoundingClientRect();
    const boxes = [...document.querySelectorAll(".columns .line-token")].map((token) => token.getBoundingClientRect());
    return boxes.map((box, at) => [box.top + box.height / 2 - top, ((at + 0.5) * height) / boxes.length]);
    """
    found, expected = zip(*browser.run(middles), strict=True)
    assert found == pytest.approx(expected, abs=0.6)
    seen = """
    const box = (selector) => document.querySelector(selector).getBoundingClientRect();
    const [strip, token] = [box(".strip"), box(".strip [aria-pressed=true]")];
    return strip.top <= token.top && token.bottom <= strip.bottom;
    """
    assert browser.run(seen)  # the last token is locked
