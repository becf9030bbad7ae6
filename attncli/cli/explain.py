"""`attncli explain`."""

from __future__ import annotations

from attncli.cli.shared import JSON, ModelSource, PageFile, Pictures
from attncli.cli.texts import text_or_file_end
from attncli.config.limits import at_least
from attncli.config.option import argument, option
from attncli.views import NAMED_VIEWS, ViewOptions, find_view

_VIEW = f"{'; '.join(f'{name}: {shows}' for name, shows in NAMED_VIEWS.items())}. Unset: the first screen."
_TOKEN = (
    "The token in focus, by index or word. Unset: the last token, which predicts the next one; of a translation or for "
    "BERT, the last word or [MASK]."
)
_GENERATE = "First continue the text greedily by N tokens, and explain the text with them."
_EXAMPLE = 'attncli explain "The little cat sat on the old mat. The little"'


def explain(
    *,
    text: str | None = argument(None, "The text to explain, or a file that contains it; - reads standard input."),
    source: ModelSource,
    view: str | None = option(None, _VIEW, suggestions=tuple(NAMED_VIEWS.items())),
    token: str | None = option(None, _TOKEN),
    options: ViewOptions,
    generate: int = option(0, _GENERATE, limit=at_least(0), rare=True),
    json: bool = JSON,
    page: PageFile,
    pictures: Pictures,
) -> None:
    """Show where a token gets its information, one head's attention, and the most probable next tokens.

    attncli explain "The little cat sat on the old mat. The little"
    attncli explain "The cat sat on the mat. The cat" --view steps --head 3.1
    """
    pictures.refuse({"--csv": options.csv, "--npz": options.npz, "--page": page.page})
    chosen = find_view(view)
    chosen.refuse_options(options)
    given = text_or_file_end(text, _EXAMPLE)
    from attncli.cli.bodies.explain import run

    run(given, source, chosen, token, options, generate, json, page, pictures)
