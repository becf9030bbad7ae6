"""The views of `attncli explain` in one table: what each shows, which options it takes, what finds it, what draws it.

To add a view, write explain/NAME.py (the record of its finding, and the function that computes it) and render/NAME.py
(its screen and its JSON document), then add one entry to VIEWS: --view, its help, its completion and the check of its
options follow from there. An entry imports its functions only when the view is used, so the help needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attncli.config.limits import FINITE_FROM_0
from attncli.config.option import check, option
from attncli.errors import UsageProblem
from attncli.explain.defaults import MORE_SOURCES, SOURCES

if TYPE_CHECKING:
    from attncli.explain.question import Focus
    from attncli.model.transformer import Transformer
    from attncli.text.tokenizer import Piece, Tokenizer

Measure = Literal["norm", "raw"]
MEASURES: tuple[Measure, ...] = ("norm", "raw")


@dataclass(frozen=True)
class ViewOptions:
    """The options of `attncli explain` that only some views take; a field at its default is an option not given."""

    layer: int | None = option(None, "Only this layer, counted from 0. Unset: the mean of all.")
    head: str | None = option(  # as typed: 2.3 or 3
        None,
        "Only this head, such as 2.3 for head 3 of layer 2. Unset: all, and the busiest as a map.",
        metavar="[L.]H",
    )
    weights: Measure = option(
        "norm",
        "Measure a source by the length of the vector it contributes, or by its attention weight alone.",
        choices=MEASURES,
        rare=True,
    )
    compare_weights: bool = option(
        False, "Show the length of what is contributed and the attention weight side by side.", rare=True
    )
    words: bool = option(
        False,
        "Count tokens as words: a word is the sum of its tokens, and is cut off as a whole. --token counts words too.",
    )
    check: bool = option(
        True, "Cut the sources that are shown off in turn, and show what is left of the prediction.", rare=True
    )
    temperature: float = option(
        1.0,
        "Of the probabilities of what comes next; 0 leaves the most probable token alone.",
        "--temperature",
        "-t",
        limit=FINITE_FROM_0,
        rare=True,
    )
    target: str | None = option(
        None,
        "For --view logit, the token whose logit is explained: its text, or #ID. Unset: the one predicted.",
        metavar="TOKEN",
        rare=True,
    )
    against: str | None = option(
        None,
        "For --view logit, count from this token's logit. Unset: from the vocabulary's mean.",
        metavar="TOKEN",
        rare=True,
    )
    plain: bool = option(False, "Sentences instead of tables.")
    csv: Path | None = option(None, "Also write a row for each source.", metavar="FILE", rare=True)
    npz: Path | None = option(
        None, "Also write the raw weights of all layers and heads, for NumPy.", metavar="FILE", rare=True
    )

    def __post_init__(self) -> None:
        """Raises UsageProblem for values that cannot be, or do not go together."""
        check(self)
        self.place()
        if self.compare_weights and self.plain:
            raise UsageProblem.naming(
                lambda name: (
                    f"{name('compare_weights')} is a table, and {name('plain')} has none.",
                    "Leave one of them out.",
                )
            )
        if self.compare_weights and self.weights != "norm":
            raise UsageProblem.naming(
                lambda name: (f"{name('compare_weights')} shows both measures.", f"Leave {name('weights')} out.")
            )

    def place(self) -> tuple[int | None, int | None]:
        """Layer and head: '2.3' -> (2, 3); '3' in layer 2 -> (2, 3); '3' alone -> (None, 3), head 3 of every layer."""
        if self.head is None:
            return self.layer, None
        first, dot, second = self.head.partition(".")
        numbers = [first, second] if dot else [first]
        if not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
            raise UsageProblem.naming(
                lambda name: (
                    f"{name('head')} {self.head!r} is not a head.",
                    "Use LAYER.HEAD such as 2.3, both counted from 0.",
                )
            )
        if dot and self.layer is not None and self.layer != int(first):
            raise UsageProblem.naming(
                lambda name: (
                    f"{name('head')} {self.head} and {name('layer')} {self.layer} name different layers.",
                    f"Leave {name('layer')} out.",
                )
            )
        return (int(first), int(second)) if dot else (self.layer, int(first))

    def given(self) -> list[str]:
        """The names of the fields that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


@dataclass(frozen=True)
class Request:
    """What a view explains: a text as its tokens, the model that reads it, and the token, layer and head in focus."""

    model: Transformer
    tokenizer: Tokenizer
    pieces: Sequence[Piece]
    focus: Focus
    words: Sequence[range] | None = None  # the tokens of each word, where tokens are counted as words

    @property
    def text(self) -> tuple[Transformer, Tokenizer, Sequence[Piece], Focus]:
        """The arguments that a view's function begins with."""
        return self.model, self.tokenizer, self.pieces, self.focus


@dataclass(frozen=True)
class Functions:
    """What computes a view's finding, and what draws it: as a screen for a console, and as a JSON document."""

    find: Callable[[Request], Any]
    screen: Callable[[Any, str, Any], Any]  # finding, name of the model, console
    document: Callable[[Any, str], dict[str, Any]]  # finding, name of the model


@dataclass(frozen=True)
class View:
    """One view: its name for --view (None for the first screen), what it shows, the ViewOptions fields it takes."""

    name: str | None
    shows: str
    takes: tuple[str, ...]
    load: Callable[[ViewOptions], Functions]

    def __str__(self) -> str:
        return "the first screen" if self.name is None else f"--view {self.name}"

    def refuse_options(self, options: ViewOptions) -> None:
        """Raises UsageProblem for an option that this view does not take, naming the views that do."""
        refused = next((name for name in options.given() if name not in self.takes), None)
        if refused is not None:
            others = " or ".join(str(view) for view in VIEWS if refused in view.takes)
            raise UsageProblem.naming(
                lambda name: (f"{name(refused)} does not go with {self}.", f"It goes with {others}.")
            )


def _first_screen(options: ViewOptions) -> Functions:
    from attncli.render.first_screen import compared_screen, explanation_document, explanation_screen

    screen = compared_screen if options.compare_weights else explanation_screen
    return Functions(_sources(SOURCES, options), screen, explanation_document)


def _bars(options: ViewOptions) -> Functions:
    from attncli.render.first_screen import bars_screen, compared_screen, explanation_document

    screen = compared_screen if options.compare_weights else bars_screen
    return Functions(_sources(MORE_SOURCES, options), screen, explanation_document)


def _sources(named: int, options: ViewOptions) -> Callable[[Request], Any]:
    """A function that finds the sources of the token in focus, of which `named` are cut off in turn."""
    from attncli.explain.first_screen import explain

    return lambda request: explain(
        *request.text, words=request.words, named=named, check=options.check, temperature=options.temperature
    )


def _map(options: ViewOptions) -> Functions:
    from attncli.explain.first_screen import explain
    from attncli.render.head_map import map_document, map_screen

    return Functions(lambda request: explain(*request.text, words=request.words, check=False), map_screen, map_document)


def _grid(options: ViewOptions) -> Functions:
    from attncli.explain.grid import grid
    from attncli.render.grid import grid_document, grid_screen

    return Functions(lambda request: grid(request.model, request.pieces, request.focus), grid_screen, grid_document)


def _steps(options: ViewOptions) -> Functions:
    from attncli.explain.steps import steps
    from attncli.render.steps import steps_document, steps_screen

    return Functions(lambda request: steps(*request.text), steps_screen, steps_document)


def _lens(options: ViewOptions) -> Functions:
    from attncli.explain.lens import lens
    from attncli.render.lens import lens_document, lens_screen

    return Functions(lambda request: lens(*request.text), lens_screen, lens_document)


def _logit(options: ViewOptions) -> Functions:
    from attncli.explain.logit import logit_attribution
    from attncli.render.logit import logit_document, logit_screen

    return Functions(
        lambda request: logit_attribution(*request.text, target=options.target, against=options.against),
        logit_screen,
        logit_document,
    )


def _rollout(options: ViewOptions) -> Functions:
    from attncli.explain.rollout import rollout
    from attncli.render.rollout import rollout_document, rollout_screen

    return Functions(
        lambda request: rollout(request.model, request.pieces, request.focus), rollout_screen, rollout_document
    )


_HEAD = ("head", "layer")
_BARS = (*_HEAD, "weights", "check", "compare_weights", "csv", "npz", "words", "temperature")
VIEWS = (
    View(None, "sources, the busiest head, the next token", (*_BARS, "plain"), _first_screen),
    View("bars", "sources", _BARS, _bars),
    View("map", "one head", (*_HEAD, "words", "npz"), _map),
    View("grid", "every head", (), _grid),
    View("steps", "the arithmetic of a row", _HEAD, _steps),
    View("lens", "the prediction after each layer", (), _lens),
    View("logit", "what a logit is the sum of", ("target", "against"), _logit),
    View("rollout", "attention through all layers", (), _rollout),
)
NAMED_VIEWS = {view.name: view.shows for view in VIEWS if view.name is not None}


def find_view(name: str | None) -> View:
    """The view of this name, the first screen for None. Raises UsageProblem, listing the names, where there is none."""
    for view in VIEWS:
        if view.name == name:
            return view
    *names, last = NAMED_VIEWS
    raise UsageProblem(f"--view {name!r} is not a view.", f"Use {', '.join(names)} or {last}.")


def request(
    model: Transformer, tokenizer: Tokenizer, pieces: Sequence[Piece], token: str | None, options: ViewOptions
) -> Request:
    """What to ask of a view: `token` is the index or the word in focus, None the last; a word counts with --words.

    Raises UsageProblem for a token that is not there, or comes several times.
    """
    from attncli.explain.locate import find_token
    from attncli.explain.question import Focus
    from attncli.explain.words import joined, words

    spans = words(pieces) if options.words else None
    index = None if token is None else find_token(joined(pieces, spans) if spans else pieces, token)
    layer, head = options.place()
    return Request(model, tokenizer, pieces, Focus(index, layer, head, options.weights), spans)
