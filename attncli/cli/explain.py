"""`attncli explain`."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from attncli.cli.completing import one_of
from attncli.cli.help import MORE
from attncli.cli.options import (
    CsvOption,
    DeviceOption,
    ForceOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    NpzOption,
    PlainOption,
    RevisionOption,
    SvgOption,
    ThemeOption,
    choice,
    text_or_file_end,
    unset,
)
from attncli.cli.outputs import refuse_files, write_pictures
from attncli.views import MEASURES, NAMED_VIEWS, Measure, ViewOptions, find_view

_TOKEN = "The token in focus, by index or word. Unset: the last, which predicts what comes next."
_HEAD = "Only this head, such as 2.3 for head 3 of layer 2. Unset: all, and the busiest as a map."
_WEIGHTS = "Measure a source by the length of the vector it contributes, or by its attention weight alone."
_COMPARE = "Show the length of what is contributed and the attention weight side by side."
_CHECK = "Cut the sources that are shown off in turn, and show what is left of the prediction."
_WORDS = "Count tokens as words: a word is the sum of its tokens, and is cut off as a whole. --token counts words too."
_VIEW = f"{'; '.join(f'{name}: {shows}' for name, shows in NAMED_VIEWS.items())}. Unset: the first screen."
_TEMPERATURE = "Of the probabilities of what comes next; 0 leaves the most probable token alone."
_GENERATE = "First go on for so many tokens, each the most probable, and explain them with the text."
_TARGET = "For --view logit, the token whose logit is explained: its text, or #ID. Unset: the one predicted."
_AGAINST = "For --view logit, count from this token's logit. Unset: from the vocabulary's mean."
_EXAMPLE = 'attncli explain "The little cat sat on the old mat. The little"'


# fmt: off
def explain(
    text: Annotated[str | None, typer.Argument(help="What to explain, or a file with it; - reads standard input.", show_default=False)] = None,  # noqa: E501
    model: ModelOption = None,
    revision: RevisionOption = None,
    view: Annotated[str | None, unset("--view", metavar="VIEW", help=_VIEW, autocompletion=one_of(NAMED_VIEWS.items()))] = None,  # noqa: E501
    token: Annotated[str | None, unset(help=_TOKEN)] = None,
    layer: Annotated[int | None, unset(help="Only this layer, counted from 0. Unset: the mean of all.")] = None,
    head: Annotated[str | None, unset(metavar="[L.]H", help=_HEAD)] = None,
    weights: Annotated[str, choice(among=MEASURES, help=_WEIGHTS, rich_help_panel=MORE)] = "norm",
    compare_weights: Annotated[bool, typer.Option("--compare-weights", help=_COMPARE, rich_help_panel=MORE)] = False,
    words: Annotated[bool, typer.Option("--words", help=_WORDS)] = False,
    generate: Annotated[int, typer.Option("--generate", min=0, help=_GENERATE, rich_help_panel=MORE)] = 0,
    check: Annotated[bool, typer.Option(help=_CHECK, rich_help_panel=MORE)] = True,
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0, help=_TEMPERATURE, rich_help_panel=MORE)] = 1.0,  # noqa: E501
    target: Annotated[str | None, unset(metavar="TOKEN", help=_TARGET, rich_help_panel=MORE)] = None,
    against: Annotated[str | None, unset(metavar="TOKEN", help=_AGAINST, rich_help_panel=MORE)] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    plain: PlainOption = False,
    csv: CsvOption = None,
    npz: NpzOption = None,
    svg: SvgOption = None,
    html: HtmlOption = None,
    theme: ThemeOption = "light",
    force: ForceOption = False,
) -> None:
    # fmt: on
    """Show where a token gets its information, one head's attention, and what may come next.

    attncli explain "The little cat sat on the old mat. The little"
    attncli explain "The cat sat on the mat. The cat" --view steps --head 3.1
    """
    refuse_files({"--csv": csv, "--npz": npz, "--svg": svg, "--html": html}, force)
    options = ViewOptions(
        head=head,
        layer=layer,
        weights=cast(Measure, weights),  # ViewOptions refuses others
        check=check,
        compare_weights=compare_weights,
        target=target,
        against=against,
        plain=plain,
        csv=csv,
        npz=npz,
        words=words,
        temperature=temperature,
    )
    chosen = find_view(view)
    chosen.refuse_options(options)
    given = text_or_file_end(text, _EXAMPLE)
    from attncli.cli.bodies.explain import explain_text, read_text

    reading = read_text(given, model, revision, device, generate)
    draw = explain_text(reading, chosen, token, options, json=json)
    write_pictures(draw, "attncli explain", svg, html, theme)
