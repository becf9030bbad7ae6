"""`attncli explain`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

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
    alternatives,
    choice,
    text_or_file_end,
    unset,
)
from attncli.cli.outputs import refuse_files, write_explanation, write_pictures
from attncli.config import SampleConfig
from attncli.errors import UsageProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attncli.checkpoint.store import LoadedModel
    from attncli.explain.first_screen import Focus
    from attncli.text.tokenizer import Piece

_TOKEN = "The token in focus, by index or word. Unset: the last, which predicts what comes next."
_HEAD = "Only this head, such as 2.3 for head 3 of layer 2. Unset: all, and the busiest as a map."
_WEIGHTS = "Measure a source by the length of the vector it contributes, or by its attention weight alone."
_COMPARE = "Show the length of what is contributed and the attention weight side by side."
_CHECK = "Cut the sources that are shown off in turn, and show what is left of the prediction."
_WORDS = "Count tokens as words: a word is the sum of its tokens, and is cut off as a whole. --token counts words too."
_VIEWS = {
    "bars": "sources",
    "map": "one head",
    "grid": "every head",
    "steps": "the arithmetic of a row",
    "lens": "the prediction after each layer",
    "logit": "what a logit is the sum of",
    "rollout": "attention through all layers",
}
_VIEW = f"{'; '.join(f'{view}: {shown}' for view, shown in _VIEWS.items())}. Unset: the first screen."
_TEMPERATURE = "Of the probabilities of what comes next; 0 leaves the most probable token alone."
_GENERATE = "First go on for so many tokens, each the most probable, and explain them with the text."
_TARGET = "For --view logit, the token whose logit is explained: its text, or #ID. Unset: the one predicted."
_AGAINST = "For --view logit, count from this token's logit. Unset: from the vocabulary's mean."
_MEASURES = ("norm", "raw")  # what --weights takes
_EXAMPLE = 'attncli explain "The little cat sat on the old mat. The little"'

# The options that not every view takes, and the views that take them; None is the first screen.
_GO_WITH: dict[str, tuple[str | None, ...]] = {
    "--head": (None, "bars", "map", "steps"),
    "--layer": (None, "bars", "map", "steps"),
    "--weights": (None, "bars"),
    "--no-check": (None, "bars"),
    "--compare-weights": (None, "bars"),
    "--words": (None, "bars", "map"),
    "--temperature": (None, "bars"),
    "--target": ("logit",),
    "--against": ("logit",),
    "--plain": (None,),
    "--csv": (None, "bars"),
    "--npz": (None, "bars", "map"),
}


# fmt: off
def explain(
    text: Annotated[str | None, typer.Argument(help="What to explain, or a file with it; - reads standard input.", show_default=False)] = None,  # noqa: E501
    model: ModelOption = None,
    revision: RevisionOption = None,
    view: Annotated[str | None, unset("--view", metavar="VIEW", help=_VIEW, autocompletion=one_of(_VIEWS.items()))] = None,  # noqa: E501
    token: Annotated[str | None, unset(help=_TOKEN)] = None,
    layer: Annotated[int | None, unset(help="Only this layer, counted from 0. Unset: the mean of all.")] = None,
    head: Annotated[str | None, unset(metavar="[L.]H", help=_HEAD)] = None,
    weights: Annotated[str, choice(among=_MEASURES, help=_WEIGHTS, rich_help_panel=MORE)] = "norm",
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
    force: ForceOption = False,
) -> None:
    # fmt: on
    """Show where a token gets its information, one head's attention, and what may come next.

    attncli explain "The little cat sat on the old mat. The little"
    attncli explain "The cat sat on the mat. The cat" --view steps --head 3.1
    """
    layer, head_index = _parse_head(head, layer)
    if weights not in _MEASURES:
        raise UsageProblem(f"--weights {weights!r} is not a measure.", "Use norm or raw.")
    if not math.isfinite(temperature):
        raise UsageProblem(f"--temperature {temperature} is not a finite number.", "Give one such as 0.7.")
    refuse_files({"--csv": csv, "--npz": npz, "--svg": svg, "--html": html}, force)
    if compare_weights and plain:
        raise UsageProblem("--compare-weights is a table, and --plain has none.", "Leave one of them out.")
    if compare_weights and weights != "norm":
        raise UsageProblem("--compare-weights shows both measures.", "Leave --weights out.")
    given = {
        "--head": head is not None, "--layer": layer is not None, "--weights": weights != "norm",
        "--no-check": not check, "--compare-weights": compare_weights, "--target": target is not None,
        "--against": against is not None, "--plain": plain, "--csv": csv is not None, "--npz": npz is not None,
        "--words": words, "--temperature": temperature != 1,
    }  # fmt: skip
    _check_view(view, [option for option, is_given in given.items() if is_given])
    said = text_or_file_end(text, _EXAMPLE)
    from attncli.cli.loading import load
    from attncli.explain.first_screen import Focus, find_token
    from attncli.explain.words import joined
    from attncli.explain.words import words as grouped
    from attncli.render.console import output, print_json, print_note, show
    from attncli.render.explanation import compared_screen
    from attncli.render.plain import explanation_sentences, print_sentences

    loaded = load(model, device, "float32", revision)
    pieces = loaded.pieces(said)
    prompt = len(pieces)
    if generate:
        pieces = _gone_on(loaded, pieces, generate)
        print_note(_generated(len(pieces) - prompt, prompt, loaded))
    spans = grouped(pieces) if words else None
    index = find_token(joined(pieces, spans) if spans else pieces, token) if token is not None else None
    focus = Focus(index, layer, head_index, "raw" if weights == "raw" else "norm")
    checked = check and (json or not compare_weights)  # that screen has no room for them
    found, screen, document = _answer(loaded, pieces, focus, view, spans, checked, temperature, target, against)
    if compare_weights:
        screen = compared_screen
    if json:
        print_json(document(found, loaded.name) | ({"prompt_tokens": prompt} if generate else {}))
    elif plain:
        print_sentences(explanation_sentences(found, loaded.name))
    else:
        console = output()
        show(console, screen(found, loaded.name, console))
    if csv is not None or npz is not None:
        write_explanation(found, loaded.model, csv, npz)
    write_pictures(lambda console: screen(found, loaded.name, console), "attncli explain", svg, html)


def _answer(
    loaded: LoadedModel,
    pieces: Sequence[Piece],
    focus: Focus,
    view: str | None,
    words: Sequence[range] | None,
    check: bool,
    temperature: float,
    target: str | None,
    against: str | None,
) -> tuple[Any, Callable[..., Any], Callable[[Any, str], dict[str, Any]]]:
    """What a view finds, how it is drawn, and how it is told to programs."""
    model, tokenizer = loaded.model, loaded.tokenizer
    if view == "grid":
        from attncli.explain.grid import grid
        from attncli.render.maps import grid_document, grid_screen

        return grid(model, pieces, focus), grid_screen, grid_document
    if view == "steps":
        from attncli.explain.steps import steps
        from attncli.render.steps import steps_document, steps_screen

        return steps(model, tokenizer, pieces, focus), steps_screen, steps_document
    if view == "lens":
        from attncli.explain.lens import lens
        from attncli.render.lens import lens_document, lens_screen

        return lens(model, tokenizer, pieces, focus), lens_screen, lens_document
    if view == "logit":
        from attncli.explain.ledger import ledger
        from attncli.render.ledger import ledger_document, ledger_screen

        return ledger(model, tokenizer, pieces, focus, target=target, against=against), ledger_screen, ledger_document
    if view == "rollout":
        from attncli.explain.rollout import rollout
        from attncli.render.rollout import rollout_document, rollout_screen

        return rollout(model, pieces, focus), rollout_screen, rollout_document
    from attncli.explain.first_screen import explain as explained
    from attncli.render.explanation import MOST_BARS, bars_screen, explanation_document, explanation_screen
    from attncli.render.maps import map_document, map_screen

    if view == "map":
        return explained(model, tokenizer, pieces, focus, words=words, check=False), map_screen, map_document
    asked = partial(explained, model, tokenizer, pieces, focus, words=words, check=check, temperature=temperature)
    if view == "bars":
        return asked(named=MOST_BARS), bars_screen, explanation_document
    return asked(), explanation_screen, explanation_document


def _gone_on(loaded: LoadedModel, pieces: Sequence[Piece], count: int) -> list[Piece]:
    """The tokens of a text and those that the model goes on with, none after the end of it; at most a context."""
    from attncli.generation.engine import generate
    from attncli.generation.events import Finished
    from attncli.model.backend import TorchBackend

    ids = [piece.id for piece in pieces]
    count = min(count, loaded.model.config.context - len(ids))
    if count > 0:
        config = SampleConfig(temperature=0, max_new_tokens=count)
        events = generate(TorchBackend(loaded.model), loaded.tokenizer, [ids], config, loaded.end_ids)
        ids += next(event.ids for event in events if isinstance(event, Finished))
    opened = len(loaded.tokenizer.opening)
    return [*pieces[:opened], *loaded.tokenizer.pieces_of(ids[opened:])]


def _generated(count: int, prompt: int, loaded: LoadedModel) -> str:
    """What to say of so many tokens after a prompt of so many."""
    from attncli.render.numbers import plural

    full = prompt + count >= loaded.model.config.context
    ends = ", where the context is full" if full else ""
    if not count:
        return f"no token is generated{ends}"
    return f"{plural(count, 'token')} generated, from token {prompt} on{ends}"


def _check_view(view: str | None, given: list[str]) -> None:
    """Refuses a view that is not there, and an option that it does not take."""
    if view is not None and view not in _VIEWS:
        raise UsageProblem(f"--view {view!r} is not a view.", f"Use {alternatives(_VIEWS)}.")
    for option in given:
        if view not in _GO_WITH[option]:
            here = "the first screen" if view is None else f"--view {view}"
            others = ["the first screen" if name is None else f"--view {name}" for name in _GO_WITH[option]]
            raise UsageProblem(f"{option} does not go with {here}.", f"It goes with {' or '.join(others)}.")


def _parse_head(head: str | None, layer: int | None) -> tuple[int | None, int | None]:
    """'2.3' -> (2, 3); '3' with --layer 2 -> (2, 3); '3' alone -> (None, 3): head 3 of every layer."""
    if head is None:
        return layer, None
    first, dot, second = head.partition(".")
    numbers = [first, second] if dot else [first]
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
        raise UsageProblem(f"--head {head!r} is not a head.", "Use LAYER.HEAD such as 2.3, both counted from 0.")
    if dot and layer is not None and layer != int(first):
        raise UsageProblem(f"--head {head} and --layer {layer} name different layers.", "Leave --layer out.")
    return (int(first), int(second)) if dot else (layer, int(first))
