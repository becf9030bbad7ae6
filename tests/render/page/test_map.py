"""The map in a browser: its numbers equal those of the library, and its pixels follow the numbers."""

import pytest

from tests.support.browser import needs_chromium

pytestmark = needs_chromium

TEXT = "The small cat sat near the river. The small"
HALF_STEP = 0.000_008  # of a share that is stored as 16 bits
SHOWN = 0.000_005  # half of the last digit of the table
LAST_COLOR = [253, 231, 37]

# The color of the middle of a cell: [row, column] -> [red, green, blue, alpha].
_CELL = """
const canvas = document.querySelector(".map-cells canvas");
const [rows, columns] = [".map-rows", ".map-columns"].map((name) => document.querySelectorAll(`${name} text`).length);
const [row, column] = arguments;
const at = [(column + 0.5) * canvas.width / columns, (row + 0.5) * canvas.height / rows].map(Math.floor);
return [...canvas.getContext("2d").getImageData(at[0], at[1], 1, 1).data];
"""


def share(cell):
    return float(cell.rstrip("%")) / 100


def numbers(browser):
    """Returns the table behind the map: a list for each row, without the masked cells."""
    _, *rows = browser.table(".map .behind")
    return [[share(cell) for cell in cells if cell] for _, *cells in rows]


@pytest.fixture
def model(model_folder):
    import attncli

    return attncli.load(model_folder / "checkpoints/m")


@pytest.mark.parametrize("measure", ["raw", "norm"])
def test_the_table_equals_the_shares_of_the_library(browser, page, model, measure):
    browser.open(page(TEXT), f"#view=map&heads=1.2&measure={measure}")
    shown = numbers(browser)
    for token in (0, 3, len(shown) - 1):
        found = model.explain(TEXT, token=token, head="1.2", weights=measure).sources
        assert len(shown[token]) == found.reach
        assert shown[token] == pytest.approx(found.shares[: found.reach].tolist(), abs=HALF_STEP + SHOWN)


def test_the_page_states_the_rounding_error_of_its_numbers(browser, page):
    browser.open(page(TEXT), "#view=map")
    assert "at most 0.0008 percentage points" in browser.texts("#limits p")[0]


def test_the_largest_number_has_the_last_color_and_masked_cells_have_none(browser, page):
    browser.open(page(TEXT), "#view=map&heads=1.2&measure=raw")
    shown = numbers(browser)
    largest = max((value, row, column) for row, values in enumerate(shown) for column, value in enumerate(values))
    assert browser.run(_CELL, *largest[1:]) == [*LAST_COLOR, 255]
    smallest = min((value, row, column) for row, values in enumerate(shown) for column, value in enumerate(values))
    assert browser.run(_CELL, *smallest[1:])[3] == 255
    for row in range(len(shown) - 1):
        assert browser.run(_CELL, row, row + 1)[3] < 128  # at most a line of the hatching


def test_the_color_scale_ends_at_the_largest_number_of_each_head_or_of_all(browser, page):
    browser.open(page(TEXT), "#view=map&heads=0.1,1.2&measure=raw&idle=false")
    own = browser.texts(".map-one .legend")
    assert len(own) == 2 and own[0] != own[1]
    browser.click('input[name="common"]')
    assert browser.texts(".map-one .legend") == []
    (common,) = browser.texts(".legend")
    assert common in own


def test_a_hidden_first_token_leaves_the_scale_to_the_rest(browser, page):
    browser.open(page(TEXT), "#view=map&heads=1.2&measure=raw&row=5&idle=false")
    shown = numbers(browser)
    rest = [(value, row, column) for row, values in enumerate(shown) for column, value in enumerate(values) if column]
    assert browser.run(_CELL, *max(rest)[1:]) == [*LAST_COLOR, 255]
    assert browser.run(_CELL, 5, 0)[3] < 128
    (sentence,) = browser.texts(".map-share")
    assert sentence.startswith("The first token is hidden")
    told = sentence.split("Its share: ")[1].split()[0]
    assert share(told) == pytest.approx(shown[5][0], abs=0.0005 if "." in told else 0.005)


def test_the_pointer_shows_the_number_of_a_cell(browser, page):
    browser.open(page(TEXT), "#view=map&heads=0.1,1.2&measure=raw")
    browser.hover(".map-cells")
    place = browser.texts(".map-place")[0]
    row, column = (int(part.split("]")[0]) for part in place.split("[")[1:])
    count = len(browser.run("return [...document.querySelectorAll('.map-one:first-child .map-rows text')]"))
    assert row == column == count // 2
    first, second = browser.texts(".map-number b")
    _, *rows = browser.table(".map .behind")
    assert share(first) == pytest.approx(share(rows[row][1 + column]), abs=0.005)
    assert share(second) == pytest.approx(share(rows[count + row][1 + column]), abs=0.005)
    assert browser.run("return document.querySelector('.strip .shown').dataset.start") == str(row)


def test_a_click_chooses_an_edge(browser, page):
    browser.open(page(TEXT), "#view=map&heads=1.2&row=0")
    browser.click(".map-cells")
    address = browser.run("return location.hash")
    assert "cut=edge" in address
    chosen = dict(part.split("=") for part in address[1:].split("&"))
    assert chosen["row"] == chosen["column"]
    assert len(browser.all(".mark-edge")) == 1


def test_the_keyboard_moves_a_cell_and_chooses_its_edge(browser, page):
    browser.open(page(TEXT), "#view=map&heads=1.2&measure=raw&row=4&column=2")
    browser.find(".heads-chosen summary").click()
    browser.find(".heads-chosen summary").click()
    browser.press("Tab")
    (status,) = browser.texts(".map [role=status]")
    assert "[4]" in status and "[2]" in status
    browser.press("ArrowUp", "ArrowLeft", "ArrowRight", "ArrowRight")
    (status,) = browser.texts(".map [role=status]")
    shown = numbers(browser)
    assert "[3]" in status.split("→")[0] and "[3]" in status.split("→")[1]
    assert share(status.split()[-1]) == pytest.approx(shown[3][3], abs=0.005)
    browser.press("ArrowRight")
    assert browser.texts(".map [role=status]")[0].split()[-1] == "masked"
    browser.press("Home", "Enter")
    address = browser.run("return location.hash")
    assert "row=3" in address and "column=0" in address and "cut=edge" in address
    browser.press("Tab")
    assert browser.texts(".map-place") == []


def test_rollout_is_shown_beside_its_baseline(browser, page, model):
    browser.open(page(TEXT), "#view=map&measure=rollout")
    _, *rows = browser.table(".map .behind")
    found = model.explain(TEXT, view="rollout", token=6)
    shown = [[share(part) for part in cell.split(" / ")] for cell in rows[6][1:] if cell]
    assert [value for value, _ in shown] == pytest.approx(found.shares[:7].tolist(), abs=HALF_STEP + SHOWN)
    assert [even for _, even in shown] == pytest.approx(found.even[:7].tolist(), abs=HALF_STEP + SHOWN)
    ratios = {
        (row, column): float(value) / float(even)
        for row, (_, *cells) in enumerate(rows)
        for column, (value, even) in enumerate(cell.replace("%", "").split(" / ") for cell in cells if cell)
    }
    assert browser.run(_CELL, *max(ratios, key=ratios.get)) == [*LAST_COLOR, 255]
    browser.hover(".map-cells")
    assert "ratio ×" in browser.texts(".map-number b")[0]


def test_cells_outside_of_the_window_are_masked(browser, tmp_path):
    from attncli.pages import html_page
    from attncli.text.tokenizer_training import byte_tokenizer
    from attncli.views import ViewOptions, text_of
    from tests.support.checkpoints import load, write_random_model

    write_random_model(tmp_path / "m", byte_tokenizer(), window=3, window_from=1)
    loaded, options = load(tmp_path / "m"), ViewOptions()
    file = tmp_path / "page.html"
    file.write_text(html_page(loaded, text_of(loaded, "a small cat", options), None, options))
    for head, window in (("0.1", 99), ("1.2", 3)):
        browser.open(file, f"#view=map&heads={head}")
        shown = numbers(browser)
        assert [len(row) for row in shown] == [min(at + 1, window) for at in range(len(shown))]
        assert [sum(row) for row in shown] == pytest.approx([1] * len(shown), abs=0.001)
    assert browser.run(_CELL, 5, 2)[3] < 128
    assert browser.run(_CELL, 5, 3)[3] == 255


def test_rollout_reaches_beyond_a_window(browser, tmp_path):
    """Two layers that look back 3 tokens pass information over 5; only the causal mask limits the rollout."""
    from attncli.pages import html_page
    from attncli.text.tokenizer_training import byte_tokenizer
    from attncli.views import ViewOptions, text_of
    from tests.support.checkpoints import load, write_random_model

    write_random_model(tmp_path / "m", byte_tokenizer(), window=3, layers=2)
    loaded, options = load(tmp_path / "m"), ViewOptions()
    file = tmp_path / "page.html"
    file.write_text(html_page(loaded, text_of(loaded, "a small cat", options), None, options))
    browser.open(file, "#view=map&measure=rollout&heads=0.1,1.1")
    _, *rows = browser.table(".map .behind")
    shown = [[share(cell.split(" / ")[0]) for cell in row[1:] if cell] for row in rows]
    assert [len(row) for row in shown] == [at + 1 for at in range(len(shown))]
    assert [sum(row) for row in shown] == pytest.approx([1] * len(shown), abs=0.001)
    assert shown[8][4] > 0


def test_a_long_text_is_scrolled_to_the_locked_row(browser, page):
    text = "The small cat sat near the river. " * 7
    browser.resize(390, 300)
    browser.open(page(text), "#view=map&heads=1.2")
    frame = "const frame = document.querySelector('.map-frame');"
    assert browser.texts(".map-rows text")[0] == "0"  # an index, because the cells are too small for tokens
    assert browser.run("return document.body.scrollWidth") <= 390
    assert browser.run(f"{frame} return frame.scrollTop + frame.clientHeight - frame.scrollHeight") == 0
    assert browser.run(f"{frame} return frame.scrollTop") > 0


def test_hostile_tokens_are_harmless(browser, page):
    browser.open(page("</script><b>'\"\u2028\u202e<img src=x onerror=alert(1)>"), "#view=map")
    browser.hover(".map-cells")
    browser.table(".map .behind")
    assert browser.all(".map b, .map img, .map script") == browser.all(".map-number b")
    assert (browser.requests(), browser.messages()) == ([], [])


def test_the_text_stays_above_a_map_that_is_scrolled(browser, page):
    browser.resize(390, 800)
    browser.open(page(), "#view=map&heads=1.2")
    covered = """
    const strip = document.querySelector(".strip");
    document.querySelector(".map-frame").scrollIntoView();
    const { left, right, top, bottom } = strip.getBoundingClientRect();
    const places = [...Array(20).keys()].map((at) => [left + ((right - left) * (at + 0.5)) / 20, (top + bottom) / 2]);
    return places.filter(([x, y]) => !strip.contains(document.elementFromPoint(x, y))).length;
    """
    assert browser.run(covered) == 0
