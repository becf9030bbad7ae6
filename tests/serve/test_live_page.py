"""The live page in Chromium: a text is read while it is typed, tokens are drawn, models are switched."""

import pytest

from attncli.config import SampleConfig
from attncli.explain.page.cuts import LiveCut, cut_effect
from attncli.explain.page.document import page_document
from attncli.explain.page.recomputed import UncutPass
from attncli.explain.reading import Reading
from attncli.library import load as load_model
from attncli.render.escape import id_label, token_label
from attncli.render.page.assemble import live_page
from attncli.serve.server import address_of, open_socket
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.browser import needs_chromium
from tests.support.checkpoints import load, write_random_model, write_random_translator
from tests.support.serving import LONG, running
from tests.support.texts import story
from tests.support.translation import artificial_tokenizer

pytestmark = needs_chromium

TEXT = "The small cat sat near"
# The page notes how long an answer took when it has drawn the answer.
SHOWN = """
const done = arguments[0], poll = () => document.body.dataset.milliseconds ? done() : requestAnimationFrame(poll);
poll();
"""
TOLD = """
const done = arguments[0], status = document.querySelector("#live [role=status]");
const poll = () => status.textContent ? done(status.textContent) : requestAnimationFrame(poll);
poll();
"""
MEASURED = """
const done = arguments[0], found = () => document.querySelector(".verdict .result");
const poll = () => found() ? done() : requestAnimationFrame(poll);
poll();
"""
RANKED = """
const done = arguments[0], found = () => document.querySelector(".ranked-head.edge");
const poll = () => found() ? done() : requestAnimationFrame(poll);
poll();
"""
# Counts the entries that the page adds to the history, whose length a browser limits to 50.
COUNTED = """
const push = history.pushState.bind(history);
window.entries = 0;
history.pushState = (...given) => (window.entries++, push(...given));
"""
LISTED = """
const [name, done] = arguments, list = document.querySelector("[name=model]");
const poll = () => [...list.options].some((option) => option.value === name) ? done() : requestAnimationFrame(poll);
poll();
"""
DRAWN = """
const done = arguments[0], found = () => document.querySelector(".drawn > li");
const poll = () => found() ? done() : requestAnimationFrame(poll);
poll();
"""
TYPED = """
const area = document.querySelector(arguments[0]);
area.value = arguments[1];
area.dispatchEvent(new Event("input"));
"""
# Holds the next request for a token back, and keeps its signal.
HELD = """
const send = window.fetch;
window.fetch = (address, options) => {
  if (!address.endsWith("/next")) return send(address, options);
  window.held = options.signal;
  return new Promise((_, reject) => options.signal.addEventListener("abort", () => reject(options.signal.reason)));
};
"""
PICTURES = """
const canvases = [...document.querySelectorAll(".thumb canvas")];
return document.querySelector(".overview").ariaBusy === "false" ? canvases.map((canvas) => canvas.toDataURL()) : null;
"""
ELSEWHERE = "const done = arguments[1]; fetch(arguments[0]).then(() => done('loaded'), () => done('refused'));"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with the models m and other, and with t, which translates."""
    path = tmp_path_factory.mktemp("live")
    tokenizer = train_tokenizer([story(400)], "bpe", 400)
    write_random_model(path / "checkpoints/m", tokenizer)
    write_random_model(path / "checkpoints/other", tokenizer, layers=1)
    write_random_translator(path / "checkpoints/t", artificial_tokenizer())
    return path


@pytest.fixture
def page(_browser, folder, monkeypatch):
    """Returns a browser that shows the live page of the model m. In the end, checks what the page has asked for."""
    monkeypatch.chdir(folder)
    with running(folder, live_page()) as port:
        _browser.resize()
        _browser.driver.get_log("browser")
        _browser.driver.get(f"http://127.0.0.1:{port}/")
        shown(_browser)
        yield _browser
        asked = _browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert asked
        assert all(name.startswith(f"http://127.0.0.1:{port}/api/") for name in asked)
        _browser.driver.get("about:blank")


def shown(browser):
    """Waits until an answer of the server is drawn."""
    browser.driver.execute_async_script(SHOWN)
    browser.settle()
    browser.run("delete document.body.dataset.milliseconds;")


def typed(browser, text, area="#live-text"):
    browser.run(TYPED, area, text)
    shown(browser)


def labels(model, text):
    return [token_label(piece) for piece in model.tokenizer.pieces(text)]


def test_what_is_typed_is_read(page):
    for text in (TEXT, f"{TEXT} the river", "<b>bold</b> & \u202ehidden"):
        typed(page, text)
        assert page.texts(".token[data-kind=row]") == labels(load_model("m"), text)
    assert page.driver.get_log("browser") == []


def test_tokens_are_drawn_as_generate_draws_them(page):
    typed(page, TEXT)
    page.run("document.querySelector('input[name=seed]').value = 7")
    (sample,) = load_model("m").generate_all(TEXT, seed=7, max_new_tokens=3)
    for _ in range(3):
        page.click("[data-action=draw]")
        shown(page)
    assert page.run("return document.querySelector('#live-text').value") == TEXT + sample.text
    assert len(page.all(".drawn > li")) == 3
    assert page.driver.get_log("browser") == []


def test_a_token_that_is_drawn_while_a_text_is_typed_is_dropped(page):
    typed(page, TEXT)
    page.run(HELD)
    page.click("[data-action=write]")
    assert page.texts("[data-action=write]") == ["Stop"]
    typed(page, f"{TEXT} the")
    assert page.run("return window.held.aborted")
    assert page.run("return document.querySelector('#live-text').value") == f"{TEXT} the"
    assert page.texts("[data-action=write]") == ["Write"]


def test_an_empty_text_is_asked_for(page):
    page.run(TYPED, "#live-text", " ")
    assert page.driver.execute_async_script(TOLD) == "Type a text."
    page.settle()
    assert page.texts("#live > [role=status]") == ["Type a text."]
    typed(page, TEXT)
    assert page.texts("#live > [role=status]") == [""]


# No text rests: the effects that a text at rest brings are rounded, and a note that says so would be read aloud.
RESTLESS = "const set = window.setTimeout; window.setTimeout = (call, wait) => (wait === 700 ? 0 : set(call, wait));"
# Notes what must stay, opens what can be opened, and counts the changes of the regions that are read aloud.
NOTED = """
const one = (selector) => document.querySelector(selector);
window.kept = ["select[name=measure]", ".token", ".line-token", ".tabs button", ".save button", ".cut-kinds"].map(one);
for (const details of [one(".heads-chosen"), one(".view .behind")]) details.open = true;
one(".lines").scrollTop = 150;
window.read = [];
const observer = new MutationObserver((found) => window.read.push(...found.map(({target}) => target.textContent)));
const regions = document.querySelectorAll("[aria-live], [role=status]");
for (const each of regions) observer.observe(each, {childList: true, subtree: true});
one("#live-text").focus();
"""
KEPT = """
const open = [...document.querySelectorAll("details[open]")].map(({className}) => className);
return {
  kept: window.kept.map((each) => each.isConnected), open, read: window.read,
  scrolled: document.querySelector(".lines").scrollTop, focus: document.activeElement.id,
};
"""
MEASURED_AGAIN = """
const done = arguments[0], poll = () => document.querySelector(".cut.stale") ? requestAnimationFrame(poll) : done();
poll();
"""


def test_what_stays_is_changed_in_place_and_not_read_aloud_again(page):
    page.run(RESTLESS)
    page.run("document.querySelector('.lines').style.maxHeight = '120px'")
    typed(page, f"{TEXT} the river. {TEXT}")
    page.click(".tokens .token:nth-child(3)")
    page.click("[data-cut=row]")
    page.driver.execute_async_script(MEASURED)
    page.run(NOTED)
    typed(page, f"{TEXT} the river. {TEXT} the")
    page.driver.execute_async_script(MEASURED_AGAIN)
    found = page.run(KEPT)
    assert all(found["kept"])
    assert sorted(found["open"]) == ["behind", "heads-chosen"]
    assert (found["read"], found["scrolled"], found["focus"]) == ([], 150, "live-text")
    assert page.messages() == []


def test_the_views_of_layers_and_steps_ask_for_what_a_key_left_out(page):
    from selenium.webdriver.support.ui import WebDriverWait

    for view, selector in (("layers", ".lens td"), ("steps", ".formula, .offers")):
        page.click("[data-view=lines]")
        typed(page, f"{TEXT} the river. " * 4 + view)
        page.click(f"[data-view={view}]")
        WebDriverWait(page.driver, LONG).until(
            lambda driver, shown=selector: driver.find_elements("css selector", shown)
        )
    assert page.messages() == []


def test_the_thumbnails_of_all_heads_belong_to_the_text_that_is_shown(page):
    from selenium.webdriver.support.ui import WebDriverWait

    pictures = {}
    page.click("[data-view=heads]")
    for text in (TEXT, f"{TEXT} the river", TEXT):
        typed(page, text)
        drawn = WebDriverWait(page.driver, LONG).until(lambda driver: driver.execute_script(PICTURES))
        assert pictures.setdefault(text, drawn) == drawn
    one, other = pictures.values()
    assert one != other


@pytest.mark.parametrize("kind", ["row", "head"])
def test_a_cut_is_measured_at_once(kind, page, folder):
    typed(page, TEXT)
    page.click(f"[data-cut={kind}]")
    page.driver.execute_async_script(MEASURED)
    loaded = load(folder / "checkpoints/m")
    pieces = loaded.pieces(TEXT)
    layer, head = map(int, page.texts("[data-cut=head]")[0].rpartition(" ")[2].split("."))
    cut = LiveCut(rows=(len(pieces) - 1,)) if kind == "row" else LiveCut(heads=((layer, head),))
    uncut = UncutPass(Reading.of(loaded.model, pieces), loaded.tokenizer)
    effect = cut_effect(uncut, "decoder", cut, len(pieces) - 1)
    _, *rows = page.table(".cut .behind")
    assert len(rows) >= len(effect.candidates)
    for (label, before, after), id_, *expected in zip(
        rows, effect.candidates, effect.before, effect.kept, strict=False
    ):
        assert label == id_label(int(id_), loaded.tokenizer.name(int(id_)))
        found = [float(shown.rstrip("%")) / 100 for shown in (before, after)]
        assert found == pytest.approx(expected, abs=2e-5)  # the payload of a text at rest rounds changes by 0.5 / 32767
    assert page.driver.get_log("browser") == []


def test_a_model_that_translates_shows_the_translation_that_is_typed(page):
    page.choose("model", "other")
    shown(page)
    assert page.texts("#model h1") == ["other"]
    page.choose("model", "t")
    shown(page)
    typed(page, "dog")
    typed(page, "Hund", "input[name=target]")
    written = page.texts(".token[data-kind=row]")
    assert [label for label in written if label in labels(load_model("t"), "Hund")]
    assert page.driver.get_log("browser") == []


def test_an_error_of_the_server_is_shown_and_the_next_text_is_read(page):
    context = load_model("m").config.context
    page.run(TYPED, "#live-text", "zq " * 500)
    told = page.driver.execute_async_script(TOLD)
    assert f"the model reads at most {context}" in told
    typed(page, TEXT)
    assert page.texts("#live > [role=status]") == [""]


def test_the_page_may_ask_no_other_server(page):
    with open_socket("127.0.0.1", 0) as other:
        assert page.driver.execute_async_script(ELSEWHERE, address_of(other, "127.0.0.1")) == "refused"
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()  # nobody has connected
    told = [entry["message"] for entry in page.driver.get_log("browser")]
    assert told
    assert all("Content Security Policy" in message for message in told)


def test_a_link_from_another_site_with_the_token_leads_to_the_page(_browser, folder, monkeypatch):
    """The browser sends the strict cookie, because the page goes on by itself; the token leaves the address."""
    from selenium.webdriver.support.ui import WebDriverWait

    monkeypatch.chdir(folder)
    with running(folder, live_page(), token="choose-your-own") as port:
        address = f"http://127.0.0.1:{port}/"
        _browser.driver.get(f"data:text/html,<a href='{address}?token=choose-your-own'>link</a>")
        _browser.find("a").click()
        WebDriverWait(_browser.driver, LONG).until(lambda driver: driver.current_url == address)
        shown(_browser)
        assert _browser.texts("#model h1") == ["m"]
        _browser.driver.get("about:blank")


def test_cuts_are_measured_when_the_text_rests(page):
    """Then the heads are ranked by what each is worth, as on the page of a file."""
    ranked = "[...document.querySelectorAll('.ranked-head')]"
    page.driver.execute_async_script(
        f"const done = arguments[0], poll = () => {ranked}.length ? done() : requestAnimationFrame(poll); poll();"
    )
    heads = page.run(f"return {ranked}.map((head) => head.dataset.head)")
    assert len(set(heads)) == len(heads) > 0
    assert page.messages() == []


def test_cuts_are_measured_around_the_row_that_is_locked(page, monkeypatch):
    """With little time, cuts in single heads are measured for one row only: the locked one."""
    monkeypatch.setattr("attncli.serve.routes.page._CUT_BUDGET", 3e7)
    typed(page, "The small cat sat near the river. The small cat slept.")
    page.click('.strip [data-start="2"]')
    page.click('[data-cut="edge"]')
    page.driver.execute_async_script(RANKED)
    assert page.find(".ranked-head .ranked-edge").text
    typed(page, "The small cat sat near the river. The small cat slept well.")
    assert page.find('.strip [aria-pressed="true"]').get_attribute("data-start") == "2"
    assert page.messages() == []


def test_a_drawn_token_continues_the_translation_that_was_typed(page):
    page.choose("model", "t")
    shown(page)
    assert page.run("return document.querySelector('[name=part]').value") == "cross"
    typed(page, "dog")
    typed(page, "Hund", "input[name=target]")
    page.click('[data-action="draw"]')
    page.driver.execute_async_script(DRAWN)
    assert page.find("input[name=target]").get_attribute("value").startswith("Hund")


# Answers requests about runs; the second request for a curve fails. Timers run at once.
RUNS = """
const send = window.fetch, answer = (body) => Promise.resolve(new Response(JSON.stringify(body)));
window.asked = { runs: 0, curve: 0 };
window.setTimeout = (call, wait) => { if (wait !== 3000) return 0; queueMicrotask(call); return 0; };
window.fetch = (address, options) => {
  if (address.endsWith("/api/runs")) {
    window.asked.runs += 1;
    const more = window.asked.runs > 1 ? [{ name: "newer", status: "finished" }] : [];
    return answer({ runs: [...more, { name: "story", status: "running" }] });
  }
  if (!address.includes("/api/runs/")) return send(address, options);
  window.asked.curve += 1;
  if (window.asked.curve === 2) return Promise.reject(new TypeError("no answer"));
  const status = window.asked.curve < 4 ? "running" : "finished";
  const step = [0, 1000, 2000].slice(0, window.asked.curve);
  const curve = { step, nats_per_token: step.map((at) => 7 - at / 1000) };
  return answer({ train: curve, validation: curve, status });
};
window.told = [];
const news = document.querySelector(".curves [aria-live]");
new MutationObserver(() => window.told.push(news.textContent)).observe(news, { childList: true });
"""
FINISHED = """
const done = arguments[0], poll = () => window.asked.curve === 4 ? done() : requestAnimationFrame(poll);
poll();
"""


def test_a_curve_goes_on_after_a_request_that_failed(page):
    page.run(RUNS)
    page.click(".curves > summary")
    page.driver.execute_async_script(FINISHED)
    page.settle()
    assert any("no answer" in told for told in page.run("return window.told"))
    assert page.texts(".curves [aria-live]") == [""]
    written = page.texts(".curves svg text")
    assert {"Step", "Loss in nats per token", "0", "1,000", "2,000", "5", "6", "7"} <= set(written)
    assert page.table(".curves .behind")[1:] == [["0", "7.0000"], ["1,000", "6.0000"], ["2,000", "5.0000"]]


def test_lists_of_runs_and_models_are_asked_for_when_they_get_the_focus(page, folder):
    page.run(RUNS)
    page.click(".curves > summary")
    page.driver.execute_async_script(FINISHED)
    assert page.texts("[name=run] option") == ["story · running"]
    page.run("document.querySelector('[name=run]').focus()")
    page.settle()
    assert page.texts("[name=run] option") == ["newer · finished", "story · running"]
    assert page.run("return document.querySelector('[name=run]').value") == "story"
    before = page.texts("[name=model] option")
    write_random_model(folder / "checkpoints/late", load(folder / "checkpoints/m").tokenizer, layers=1)
    page.run("document.querySelector('[name=model]').focus()")
    page.driver.execute_async_script(LISTED, "late")
    assert set(page.texts("[name=model] option")) == {*before, "late"}
    assert page.run("return document.querySelector('[name=model]').value") == "m"


def sliders(page):
    """Returns the temperature and the filters that the sliders show."""
    script = (
        "return [...document.querySelectorAll('.next [type=range]')].map((one) => [one.dataset.setting, +one.value])"
    )
    return dict(page.run(script))


def test_the_sliders_begin_with_the_settings_of_generate(page):
    default = SampleConfig()
    assert sliders(page) == {name: getattr(default, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    assert "min_p" not in page.driver.current_url
    page.choose("model", "t")  # a translation takes the most probable tokens
    shown(page)
    assert sliders(page)["temperature"] == 0
    page.choose("model", "m")
    shown(page)
    assert sliders(page)["temperature"] == default.temperature
    page.run(TYPED, ".next [data-setting=min_p]", "0.2")
    page.choose("model", "other")
    shown(page)
    assert sliders(page)["min_p"] == 0.2


def test_back_returns_to_the_text_before(page):
    """A text that was committed has an entry in the history; what is typed after it has one entry together."""
    start = page.find("#live-text").get_attribute("value")
    page.run(COUNTED)
    page.run("document.querySelector('#live-text').dispatchEvent(new Event('change'))")
    for text in ("The", "The small", TEXT):
        typed(page, text)
    page.run("document.querySelector('#live-text').dispatchEvent(new Event('change'))")
    page.click("[data-view=map]")
    page.choose("model", "other")
    shown(page)
    assert page.run("return window.entries") == 2
    for text, model in ((TEXT, "m"), (start, "m")):
        page.driver.back()
        shown(page)
        assert page.find("#live-text").get_attribute("value") == text
        assert page.texts("#model h1") == [model]
        assert page.texts(".token[data-kind=row]") == labels(load_model(model), text)
        assert page.texts(".tabs [aria-pressed=true]") == ["Map"]  # the view stays
    for text, model in ((TEXT, "m"), (TEXT, "other")):
        page.driver.forward()
        shown(page)
        assert page.find("#live-text").get_attribute("value") == text
        assert page.texts("#model h1") == [model]
    assert page.messages() == []


def test_a_link_to_another_view_loads_the_live_page_again(page):
    page.run("window.before = true; location.hash = '#view=map'")
    shown(page)
    assert page.run("return window.before") is None
    assert page.texts(".tabs [aria-pressed=true]") == ["Map"]


@pytest.mark.parametrize("kind", ["edge", "row", "column"])
def test_a_cut_of_words_covers_all_their_tokens(kind, page, folder):
    text = "The zebra sat near the quokka"
    typed(page, text)
    loaded = load(folder / "checkpoints/m")
    pieces = loaded.pieces(text)
    words = page_document(loaded, pieces).attentions[0].words.rows
    last = len(words) - 1
    long = next(at for at, word in enumerate(words) if len(word) > 1)
    page.click("[name=words]")
    page.click(f".columns .line-token:nth-child({long + 1})")
    page.click(f"[data-cut={kind}]") if kind != "edge" else None
    page.driver.execute_async_script(MEASURED)
    rows = range(len(pieces)) if kind == "column" else words[last]
    sources = [at for at in range(len(pieces)) if at not in words[last]] if kind == "row" else words[long]
    edges = tuple((row, source) for row in rows for source in sources if source <= row)
    effect = cut_effect(
        UncutPass(Reading.of(loaded.model, pieces), loaded.tokenizer), "decoder", LiveCut(edges=edges), len(pieces) - 1
    )
    name = [f"[{last}] does not attend to", f"[{last}] attends to no other", f"[{long}] is cut"]
    assert name[["edge", "row", "column"].index(kind)] in page.texts(".verdict p")[0]
    shown = {row[0]: row[2] for row in page.table(".cut .behind")[1:]}
    for id_, expected in zip(effect.candidates, effect.kept, strict=True):
        found = float(shown[id_label(int(id_), loaded.tokenizer.name(int(id_)))].rstrip("%")) / 100
        assert found == pytest.approx(expected, abs=1e-6)
    assert not page.all(".verdict .tokens-note")
    assert page.driver.get_log("browser") == []


# Holds the decoding of the next document back until window.release is called.
UNDECODED = """
const read = Response.prototype.arrayBuffer;
Response.prototype.arrayBuffer = async function () {
  if (this.url) return read.call(this); // an answer of the server
  Response.prototype.arrayBuffer = read;
  window.decoding = true;
  await new Promise((release) => (window.release = release));
  return read.call(this);
};
"""
# Holds requests to one address back until window.release is called, and keeps what they ask for.
HOLD = """
const [held, send] = [arguments[0], window.fetch];
window.sent = [];
window.fetch = (address, options) => {
  if (!address.endsWith(held)) return send(address, options);
  window.sent.push(JSON.parse(options.body));
  if (window.released) return send(address, options);
  return new Promise((done, reject) => {
    options.signal.addEventListener("abort", () => reject(options.signal.reason));
    window.release = () => done(send(address, options).finally(() => (window.answered = true)));
  });
};
"""


def until(page, condition):
    page.driver.execute_async_script(
        f"const done = arguments[0], poll = () => ({condition}) ? done() : requestAnimationFrame(poll); poll();"
    )


def test_a_document_that_is_decoded_after_a_newer_text_was_typed_is_not_shown(page):
    typed(page, TEXT)
    page.run(UNDECODED)
    page.run(TYPED, "#live-text", f"{TEXT} the river")
    until(page, "window.decoding")
    page.run(TYPED, "#live-text", " ")
    page.driver.execute_async_script(TOLD)
    page.run("window.release()")
    page.settle()
    page.settle()
    assert page.texts("#live > [role=status]") == ["Type a text."]
    assert page.texts(".token[data-kind=row]") == labels(load_model("m"), TEXT)


def test_a_cut_is_of_the_text_that_is_shown(page):
    typed(page, TEXT)
    page.run(HOLD, "/page")
    page.run(TYPED, "#live-text", f"The river. {TEXT}")
    until(page, "window.sent.length")
    page.run(HOLD, "/cut")
    page.click("[data-cut=row]")
    until(page, "window.sent.length")
    assert [(sent["text"], sent["row"]) for sent in page.run("return window.sent")] == [
        (TEXT, len(load_model("m").tokenizer.pieces(TEXT)) - 1)
    ]


def test_the_effect_of_a_cut_in_another_attention_is_not_shown(page):
    page.choose("model", "t")
    shown(page)
    typed(page, "dog")
    page.run(HOLD, "/cut")
    page.click(".tokens .token[data-kind=row]")
    page.click(".columns .line-token")
    page.click("[data-cut=row]")
    until(page, "window.sent.length")
    page.choose("part", "decoder")
    page.settle()
    told = page.texts(".verdict p")
    assert "nothing to cut" in told[0]
    page.run("window.released = true; window.release()")
    until(page, "window.answered")
    page.settle()
    page.settle()
    assert page.texts(".verdict p") == told


def test_the_model_goes_on_writing_when_another_view_is_chosen(page):
    typed(page, f"{TEXT} the river. " * 4)
    page.run(HOLD, "/page")
    page.click("[data-action=write]")
    until(page, "window.sent.length")
    page.click("[data-view=layers]")
    page.settle()
    assert page.texts("[data-action=write]") == ["Stop"]
    page.run("window.released = true; window.release()")
    until(page, "document.querySelectorAll('.drawn > li').length > 2")
    assert page.run("return window.sent.at(-1).lens")
    page.run("document.querySelector('[data-action=write]').click()")
    assert page.messages() == []


def test_a_followed_token_is_not_followed_in_another_model(page):
    typed(page, TEXT)
    page.click("[data-cut=row]")
    page.driver.execute_async_script(MEASURED)
    chosen = page.all("[name=token] option")[2].get_attribute("value")
    page.choose("token", chosen)
    page.settle()
    assert f"token={chosen}" in page.driver.current_url
    page.choose("model", "other")
    shown(page)
    page.click("[data-view=map]")
    assert "token=" not in page.driver.current_url
