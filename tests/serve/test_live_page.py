"""The live page in a browser: a text is read while it is typed, tokens are drawn, models and runs are chosen."""

import threading

import pytest

import attncli
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.render.page.assemble import live_page
from attncli.serve.address import Names
from attncli.serve.application import application
from attncli.serve.guard import Access
from attncli.serve.server import Server, address_of, open_socket
from attncli.serve.service import Service
from attncli.text.tokenizer_training import train_pair_tokenizer
from tests.support.browser import Browser, needs_chromium
from tests.support.checkpoints import load
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.serving import LIMITS
from tests.support.texts import story

pytestmark = needs_chromium
TEXT = "The small cat sat near the river"
UNTIL = """
const done = arguments[arguments.length - 1];
const holds = new Function(`return ${arguments[0]}`);
const wait = () => holds() ? done(true) : requestAnimationFrame(wait);
wait();
"""


@pytest.fixture(scope="module")
def models(model_folder, tmp_path_factory):
    """Returns a folder of models: m, and a translator."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/m").symlink_to(model_folder / "checkpoints/m")
    tokenizer = train_pair_tokenizer([story(300)], "bpe", 300)
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300})
    made = Checkpoint(model.config, model.state_dict(), tokenizer, 40, end_ids=frozenset({2}))
    write_checkpoint(folder / "checkpoints/translator", made)
    return folder


@pytest.fixture(scope="module")
def address(models):
    """Returns the address of a server that runs in a thread."""
    service = Service.of(live_page(), load(models / "checkpoints/m"), LIMITS)
    with open_socket("127.0.0.1", 0) as listening:
        server = Server(application(service, Access(Names.of("127.0.0.1"), None)), service)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield address_of(listening, "127.0.0.1", None)
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def _browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def live(_browser, address, models, monkeypatch):
    """Returns a browser with the live page of a text."""
    monkeypatch.chdir(models)
    _browser.resize()
    _browser.open(address, f"#text={TEXT}")
    return _browser


def until(browser, condition):
    """Waits until a condition holds in the page."""
    assert browser.driver.execute_async_script(UNTIL, condition)
    browser.settle()


def text_of(browser):
    return "".join(browser.texts(".strip .token")).replace("␣", " ")


def test_a_text_is_read_while_it_is_typed(live, models):
    assert text_of(live) == TEXT
    live.find("#live-text").send_keys(" and")
    until(live, "document.querySelector('.strip').textContent.replaceAll('␣', ' ').includes('river and')")
    found = attncli.load(models / "checkpoints/m").explain(f"{TEXT} and", head="0.0", weights="raw")
    live.choose("measure", "raw")
    live.run("document.querySelector('.heads-chosen').open = true")
    live.click('[data-key="0.0"]')
    _, *rows = live.table(".view .behind")
    shown = [float(cells[1].rstrip("%")) / 100 for cells in rows]
    assert shown == pytest.approx(found.sources.shares.tolist(), abs=0.000_013)
    assert live.messages() == []


def test_tokens_are_drawn_as_generate_draws_them(live, models):
    live.run("document.querySelector('[name=seed]').value = 7")
    for count in (1, 2):
        live.click('[data-action="draw"]')
        until(live, f"document.querySelectorAll('.drawn > li').length === {count}")
    expected = "".join(attncli.load(models / "checkpoints/m").generate(TEXT, max_new_tokens=2, seed=7))
    assert live.find("#live-text").get_attribute("value") == TEXT + expected
    assert text_of(live).startswith(TEXT)
    assert "%" in live.texts(".drawn > li")[0]


def test_another_model_is_chosen(live):
    live.choose("model", "translator")
    until(live, "document.querySelectorAll('select[name=part]').length === 1")
    assert live.texts("h1") == ["translator"]
    assert live.find("[name=target]").is_displayed()
    assert live.texts("select[name=part] option") == ["encoder", "decoder, self-attention", "cross-attention"]
    live.choose("model", "m")
    until(live, "document.querySelector('h1').textContent === 'm'")
    assert not live.find("[name=target]").is_displayed()


def test_a_text_that_is_too_long_is_refused_in_words(live):
    live.run("const area = document.getElementById('live-text'); area.value = 'cat '.repeat(500);")
    live.find("#live-text").send_keys("x")
    until(live, "document.querySelector('[role=status]').textContent.includes('tokens')")
    assert "at most 96" in live.texts('[role="status"]')[0]


def test_a_run_without_measurements_says_so(live):
    live.click(".curves summary")
    until(live, "document.querySelector('.curves').textContent.includes('no measurements')")
    assert live.messages() == []
