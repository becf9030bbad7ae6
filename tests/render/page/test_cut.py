"""The panel of cuts in a browser: what it says a cut changes is what the ablated model predicts."""

import pytest
import torch

import attncli
from attncli.explain.ablated_pass import AblatedPass, Without
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.page import document
from attncli.explain.page.cuts import BUDGET
from attncli.explain.reading import Reading
from attncli.pages import document_of
from attncli.render.escape import id_label
from attncli.render.page.assemble import page_file
from attncli.render.page.payload import payload
from attncli.views import ViewOptions
from tests.support.browser import needs_chromium
from tests.support.checkpoints import load
from tests.support.page import numbers

pytestmark = needs_chromium

TEXT = "The small cat sat near the river. The small"
ROW, COLUMN, HEAD = 6, 3, (1, 2)
AT = f"#row={ROW}&column={COLUMN}&heads={HEAD[0]}.{HEAD[1]}"


@pytest.fixture(scope="module")
def loaded(model_folder):
    return load(model_folder / "checkpoints/m")


@pytest.fixture(scope="module")
def predicted(loaded):
    """Returns a function from an ablation, or from an observer, to the probabilities (V,) of the row."""
    reading = Reading.of(loaded.model, loaded.pieces(TEXT))
    known = loaded.tokenizer.vocab_size

    @torch.inference_mode()
    def run(without):
        if isinstance(without, Without):
            return next(AblatedPass(reading, [ROW], known).log_probabilities([without], None))[0].exp()
        hidden = loaded.model.hidden(reading.ids, observe=without)
        return loaded.model.unembed(hidden)[0, ROW, :known].softmax(-1)

    return run


def shown(browser):
    """Returns the labels of the table with the probabilities before and after the cut, as texts."""
    _, *rows = browser.table(".cut .behind")
    return rows


def share(text):
    """Returns the number of a text like '12.3456%'."""
    return float(numbers(text)) / 100


def check(browser, loaded, before, after):
    """Asserts that the table has the candidates of `before`, with their probabilities in both."""
    rows = shown(browser)
    order = before.argsort(descending=True).tolist()[:3]
    assert [row[0] for row in rows[:3]] == [id_label(each, loaded.tokenizer.name(each)) for each in order]
    named = {id_label(each, loaded.tokenizer.name(each)): each for each in range(len(after))}
    for label, was, now in rows:
        assert share(now) == pytest.approx(after[named[label]].item(), abs=0.000_02)
        if was.startswith("<"):
            assert before[named[label]] < share(was)
        else:
            assert share(was) == pytest.approx(before[named[label]].item(), abs=0.000_02)
    return rows


def test_cuts_in_all_heads_equal_ablations(browser, page, loaded, predicted):
    before = predicted(Without())
    edges = {
        "edge": ((ROW, COLUMN),),
        "row": tuple((ROW, source) for source in range(ROW)),
        "column": tuple((row, COLUMN) for row in range(COLUMN, ROW + 1)),
    }
    browser.open(page(), AT)
    for kind, cut in edges.items():
        browser.click(f'[data-cut="{kind}"]')
        rows = check(browser, loaded, before, predicted(Without(edges=cut)))
        words = browser.find(".verdict .result").text
        assert words.startswith(f"P({rows[0][0]})")
        now, was = share(rows[0][2]), share(rows[0][1])
        assert abs(now - was) < 0.0001 or words.endswith("less probable" if now < was else "more probable")


def test_cuts_in_one_head_equal_ablations(browser, page, loaded, predicted):
    before, heads = predicted(Without()), {HEAD[0]: [HEAD[1]]}
    browser.open(page(), f"{AT}&everywhere=false&cut=edge")
    check(browser, loaded, before, predicted(Knockout([Cut(frozenset({(ROW, COLUMN)}), heads)])))
    browser.click('[data-cut="row"]')
    row = frozenset((ROW, source) for source in range(ROW))
    check(browser, loaded, before, predicted(Knockout([Cut(row, heads)])))
    browser.click('[data-cut="head"]')
    check(browser, loaded, before, predicted(Without(heads=(HEAD,))))


def test_heads_are_ranked_by_what_their_cut_changes(browser, page, loaded, predicted):
    before = predicted(Without())
    best = int(before.argmax())
    config = loaded.model.config
    every = [(layer, head) for layer in range(config.layers) for head in range(config.heads)]
    changes = {each: abs((predicted(Without(heads=(each,))) - before)[best].item()) for each in every}
    browser.open(page(), f"#row={ROW}")
    names = [each.get_attribute("data-head") for each in browser.all(".ranked-head")]
    found = [changes[tuple(map(int, name.split(".")))] for name in names]
    assert found == pytest.approx(sorted(changes.values(), reverse=True)[: len(found)], abs=0.000_05)
    browser.run("document.querySelector('.ranked-head').focus()")
    browser.press("ArrowDown", "Enter")
    assert browser.find('.ranked-head[aria-pressed="true"]').get_attribute("data-head") == names[1]
    assert browser.find(".ranked-head:focus").get_attribute("data-head") == names[1]
    assert browser.find('[data-cut="head"]').get_attribute("aria-pressed") == "true"


def test_an_edge_of_the_picture_is_cut_by_a_click_and_by_the_keyboard(browser, page):
    browser.open(page(), f"#row={ROW}&heads=1.2")
    browser.click(f'.columns [data-start="{COLUMN}"]')
    assert browser.find(".verdict .result").text.startswith("P(")
    browser.run("document.querySelector('.cut [aria-pressed=true]').focus()")
    browser.press("ArrowRight", "Enter")
    assert "cut=row" in browser.driver.current_url
    browser.press("Enter")
    assert not browser.all(".verdict .result")


def test_a_masked_edge_cannot_be_cut(browser, page):
    browser.open(page(), f"#row=2&column={COLUMN}&cut=edge")
    assert "cannot attend to" in browser.find(".verdict").text
    browser.open(page(), "#row=0&column=0&cut=row")
    assert "There is nothing to cut" in browser.find(".verdict").text


def test_a_source_is_cut_in_all_heads_and_a_head_alone(browser, page, loaded, predicted):
    column = tuple((row, COLUMN) for row in range(COLUMN, ROW + 1))
    browser.open(page(), f"{AT}&cut=column&everywhere=false")
    check(browser, loaded, predicted(Without()), predicted(Without(edges=column)))
    box = browser.find('[name="everywhere"]')
    assert (box.is_selected(), box.is_enabled()) == (True, False)
    browser.open(page(), f"#row={ROW}&column={COLUMN}&heads=all")
    button = browser.find('[data-cut="head"]')
    assert (button.text, button.is_enabled()) == ("Whole head: choose one head first", False)


def test_heads_are_ranked_beside_their_share_of_the_edge(browser, page, model_folder):
    browser.open(page(), f"{AT}&cut=edge&measure=raw")
    model = attncli.load(model_folder / "checkpoints/m")
    ranked = browser.all(".ranked-head")
    assert len(ranked) > 1
    for each in ranked:
        head = each.get_attribute("data-head")
        expected = model.explain(TEXT, token=ROW, head=head, weights="raw").sources.shares[COLUMN]
        assert numbers(each.find_element("css selector", ".ranked-edge").text) / 100 == pytest.approx(
            expected, abs=0.0051
        )


def test_a_temperature_other_than_1_is_said_not_to_change_cuts(browser, page):
    for view, panel in (("lines", ".cut"), ("layers", ".layers")):
        browser.open(page(), f"{AT}&cut=edge&view={view}")
        assert not browser.all(f'{panel} [data-note="temperature"]')
        browser.open(page(), f"{AT}&cut=edge&view={view}&temperature=2")
        assert "at temperature 1; the slider is at 2" in browser.find(f'{panel} [data-note="temperature"]').text


def test_what_the_file_lacks_is_said_with_the_way_to_get_it(browser, loaded, page, tmp_path):
    browser.open(page(), f"#row={ROW}&column={COLUMN}&heads=L1&cut=edge&everywhere=false")
    assert "in one head or in all heads" in browser.find(".missing").text
    assert "attncli serve" in browser.find(".missing").text
    found = document_of(loaded, loaded.pieces(TEXT), None, ViewOptions(), {}, cut_budget=3e7)
    assert "cuts" in [limit.code for limit in found.limits]
    file = tmp_path / "few.html"
    file.write_text(page_file(payload([found]), "few"))
    browser.open(file, "#row=1&cut=edge&everywhere=false&heads=1.2&column=0")
    assert "only for tokens near" in browser.find(".missing").text


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
def test_cuts_of_each_attention_of_a_translation_equal_ablations(browser, translated, part):
    loaded, pair, file = translated
    reading, row, known = Reading.translated(loaded.model, pair, [part]), 1, loaded.tokenizer.vocab_size

    def run(**removed):
        without = Without(part=part, **removed)
        return next(AblatedPass(reading, [row], known).log_probabilities([without], None))[0].exp()

    browser.open(file, f"#part={part}&row=1&column=0&heads=1.1&cut=head")
    if part == "encoder":  # measured on the row with which the page starts
        row = page_row(browser)
    check(browser, loaded, run(), run(heads=((1, 1),)))
    browser.click('[data-cut="edge"]')
    if part == "encoder":
        assert "whole heads only" in browser.find(".missing").text
        assert browser.all(".ranked-head")
    else:
        check(browser, loaded, run(), run(edges=((1, 0),)))


def page_row(browser):
    """Returns the row that the panel names: 'Candidates for b [2]'; rows are counted from 1."""
    return int(browser.texts(".next h2")[0].rpartition("[")[2].rstrip("]")) - 1


def test_edges_in_single_heads_are_kept_for_the_nearest_rows_if_they_are_many(loaded, monkeypatch):
    text = loaded.pieces(TEXT)
    every = document.page_document(loaded, text, token=5, cut_budget=BUDGET).cuts["decoder"].head_edges
    monkeypatch.setattr(document, "MOST_EFFECTS", 3 * every.kept[:, :, 0].size)
    few = document.page_document(loaded, text, token=5, cut_budget=BUDGET)
    found = few.cuts["decoder"].head_edges
    assert found.rows == (4, 5, 6)
    assert (found.kept == every.kept[:, :, 4:7]).all()
    assert [(limit.code, limit.shown) for limit in few.limits] == [("cuts", 3)]


def test_a_page_without_cuts_says_so(browser, loaded, tmp_path):
    file = tmp_path / "none.html"
    file.write_text(page_file(payload([document.page_document(loaded, loaded.pieces(TEXT))]), "none"))
    browser.open(file, f"{AT}&cut=edge")
    assert "This page holds no cuts" in browser.find(".missing").text


def words_of(loaded, text=TEXT):
    """Returns the tokens of each word, as ranges."""
    return document.page_document(loaded, loaded.pieces(text)).attentions[0].words.rows


def test_another_token_is_followed(browser, page, loaded, predicted):
    before, after = predicted(Without()), predicted(Without(edges=((ROW, COLUMN),)))
    order = before.argsort(descending=True).tolist()
    labels = [id_label(each, loaded.tokenizer.name(each)) for each in order]
    browser.open(page(), f"{AT}&cut=edge")
    offered = browser.texts('[name="token"] option')
    assert offered == labels[: len(offered)]
    assert len(offered) > 3
    browser.choose("token", str(order[2]))
    assert f"token={order[2]}" in browser.driver.current_url
    (row,) = [row for row in shown(browser) if row[0] == labels[2]]
    assert share(row[1]) == pytest.approx(before[order[2]].item(), abs=0.000_02)
    assert share(row[2]) == pytest.approx(after[order[2]].item(), abs=0.000_02)
    assert browser.find(".verdict .result").text.startswith(f"P({labels[2]}) ")
    assert browser.texts(".ranking .note")[0].startswith(f"P({labels[2]}) ")
    head = browser.find(".ranked-head").get_attribute("data-head")
    cut = Cut(frozenset({(ROW, COLUMN)}), {int(head.split(".")[0]): [int(head.split(".")[1])]})
    now = numbers(browser.find(".ranked-head .share").text.split(" → ")[1]) / 100
    assert now == pytest.approx(predicted(Knockout([cut]))[order[2]].item(), abs=0.0051)
    browser.run("document.querySelector('[data-token][aria-pressed=true]').focus()")
    browser.press("ArrowDown", "Enter")
    assert browser.find(".verdict .result").text.startswith(f"P({labels[3]}) ")
    assert browser.find("[data-token]:focus").get_attribute("data-token") == str(order[3])
    browser.press("Home", "Enter")
    assert "token=" not in browser.driver.current_url  # the most probable one, whatever it is


def test_a_token_without_an_exact_number_is_not_offered(browser, page, loaded, predicted):
    """The file contains the three most probable tokens for edges in single heads, and more for other cuts."""
    fifth = int(predicted(Without()).argsort(descending=True)[4])
    label = id_label(fifth, loaded.tokenizer.name(fifth))
    browser.open(page(), f"{AT}&cut=edge&token={fifth}&everywhere=false")
    assert len(browser.texts('[name="token"] option')) == 3
    first = browser.texts('[name="token"] option')[0]
    assert browser.find(".verdict .result").text.startswith(f"P({first}) ")
    browser.click('[name="everywhere"]')
    assert browser.find(".verdict .result").text.startswith(f"P({label}) ")
    assert browser.texts(".ranking .note")[0].startswith(f"P({label}) if one head is cut")


def test_a_cut_of_words_says_which_tokens_are_cut(browser, page, loaded, predicted):
    words = words_of(loaded)
    long = next(at for at, word in enumerate(words) if len(word) > 1)
    single = next(at for at, word in enumerate(words) if len(word) == 1)
    later = next(at for at, word in enumerate(words) if len(word) == 1 and at > max(long, single))
    row, column = words[later][-1], words[long][-1]
    browser.open(page(), f"#words=true&row={row}&column={column}&cut=edge")
    assert f"[{row}] → " in browser.find(".verdict .tokens-note").text
    assert browser.find(".verdict .tokens-note").text.endswith(f"[{column}]")
    assert f"[{column}]" in browser.find('[data-cut="edge"]').text
    browser.open(page(), f"#words=true&row={row}&column={words[single][0]}&cut=edge")
    assert not browser.all(".tokens-note")
    assert browser.find('[data-cut="edge"]').text.endswith(f"[{single}]")  # a word of one token
    assert f"[{later}] does not attend to" in browser.find(".verdict p").text


def test_a_row_of_words_is_the_last_token_of_its_word(browser, page, loaded):
    word = next(word for word in words_of(loaded) if len(word) > 1)
    browser.open(page(), f"#words=true&row={word[0]}")
    assert f"[{word[-1]}]" in browser.texts(".next h2")[0]
    browser.click('[name="words"]')
    assert f"[{word[0]}]" in browser.texts(".next h2")[0]


def test_the_result_of_a_cut_stays_beside_a_picture_in_a_narrow_window(browser, page):
    browser.open(page(), f"{AT}&cut=edge")
    assert not browser.find(".brief").is_displayed()
    browser.resize(390, 844)
    browser.open(page(), f"{AT}&cut=edge")
    brief = browser.find(".brief")
    assert browser.find(".verdict .result").text in brief.text
    assert browser.run("return arguments[0].getBoundingClientRect().bottom <= innerHeight", brief)
    brief.click()
    browser.settle()
    assert browser.run("return document.querySelector('.cut').getBoundingClientRect().top < 300")
    browser.click('[data-cut="edge"]')
    assert not browser.find(".brief").is_displayed()
