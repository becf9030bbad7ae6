"""The page in a browser: what is on the screen equals what the library computes."""

import pytest

from tests.support.browser import needs_chromium

pytestmark = needs_chromium


def test_the_page_opens_without_a_request_or_a_message(browser, page):
    browser.open(page())
    assert browser.texts("h1") == ["m"]
    assert (browser.requests(), browser.messages()) == ([], [])


@pytest.mark.parametrize("measure", ["raw", "norm"])
def test_shares_of_a_head_equal_those_of_explain(browser, page, model_folder, measure):
    import attncli

    found = attncli.load(model_folder / "checkpoints/m").explain(
        "The small cat sat near the river. The small", token=4, head="1.2", weights=measure
    )
    browser.open(page(), f"#row=4&heads=1.2&measure={measure}")
    _, *rows = browser.table(".behind")
    assert len(rows) == found.sources.reach
    shown = [float(cells[1].rstrip("%")) / 100 for cells in rows]
    assert shown == pytest.approx(found.sources.shares[: len(rows)].tolist(), abs=0.000_013)
