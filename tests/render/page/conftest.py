"""Pages of tiny models."""

import functools

import pytest

from attncli.pages import html_page
from attncli.views import ViewOptions, text_of
from tests.support.checkpoints import load, write_random_translator
from tests.support.translation import artificial_tokenizer


@pytest.fixture(scope="session")
def page(model_folder, tmp_path_factory):
    """Returns a function that writes the page of a text for the model of `model_folder`, once for each text."""
    loaded = load(model_folder / "checkpoints/m")
    folder = tmp_path_factory.mktemp("pages")

    @functools.cache
    def write(text="The small cat sat near the river. The small", token=None, **options):
        chosen = ViewOptions(**options)
        file = folder / f"{len(list(folder.iterdir()))}.html"
        file.write_text(html_page(loaded, text_of(loaded, text, chosen), token, chosen))
        return file

    return write


@pytest.fixture(scope="session")
def translated(tmp_path_factory):
    """Returns a model that translates, a pair of texts, and its page."""
    folder = tmp_path_factory.mktemp("translated")
    write_random_translator(folder / "t", artificial_tokenizer())
    loaded, options = load(folder / "t"), ViewOptions(target="b d")
    pair = text_of(loaded, "a c a", options)
    (folder / "page.html").write_text(html_page(loaded, pair, None, options))
    return loaded, pair, folder / "page.html"
