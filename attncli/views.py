"""The table of the views of `attncli explain`: what each view shows, its options, and the functions that make it.

To add a view, write explain/NAME.py (the record of the finding, and the function that computes it) and render/NAME.py
(the screen and the JSON document), then add one entry to VIEWS. The option --view, its help, its completion and the
check of the view's options are derived from the entry. An entry imports its functions only when the view is used, so
the help needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attncli.config.limits import FINITE_FROM_0, alternatives, at_least
from attncli.config.option import check, option
from attncli.errors import Naming, UsageProblem
from attncli.explain.defaults import MEASURES, MORE_SOURCES, PARTS, SOURCES, AttentionPart, Measure

if TYPE_CHECKING:
    from attncli.checkpoint.load import LoadedModel
    from attncli.explain.head_map import KnownHead
    from attncli.explain.question import Focus
    from attncli.explain.reading import Reading, TextPair
    from attncli.explain.units import Spans
    from attncli.text.tokenizer import Piece, Tokenizer

    Text = Sequence[Piece] | TextPair  # a text, or a source text and its translation


@dataclass(frozen=True)
class ViewOptions:
    """The options of `attncli explain` that only some views take.

    A field with its default value counts as not given.
    """

    part: AttentionPart | None = option(
        None,
        "For a model that translates: which attention to show. Unset: for the first screen and bars, both of the "
        "decoder; for rollout, the encoder's; for other views, cross.",
        choices=PARTS,
    )
    layer: int | None = option(
        None, "Use only this layer, counted from 0. Unset: the mean of all layers.", limit=at_least(0)
    )
    head: str | None = option(  # LAYER.HEAD or HEAD
        None,
        "Use only this head, such as 2.3 for head 3 of layer 2. Unset: all heads, with a map of the head that "
        "contributes most.",
        metavar="[L.]H",
    )
    weights: Measure = option(
        "norm",
        "Measure a source by the norm of the vector that it contributes, or by its raw attention weight.",
        choices=MEASURES,
        rare=True,
    )
    compare_weights: bool = option(False, "Show contribution norms and attention weights side by side.", rare=True)
    words: bool = option(
        False,
        "Group tokens into words: a word's share is the sum of its tokens, and a cut removes the whole word. --token "
        "then counts words.",
    )
    check: bool = option(
        True, "Mask each listed source in turn, and show the probability that is left for the prediction.", rare=True
    )
    temperature: float = option(
        1.0,
        "Temperature of the next-token probabilities; at 0 the most probable token has probability 1.",
        "--temperature",
        "-t",
        limit=FINITE_FROM_0,
        rare=True,
    )
    target: str | None = option(
        None,
        "For a model that translates: the translation to explain. Unset: the model's own. For other models and --view "
        "logit: the token whose logit is explained, by its text or #ID. Unset: the predicted token.",
        metavar="TEXT",
        rare=True,
    )
    pair: str | None = option(None, "For BERT: the second text of a pair.", metavar="TEXT", rare=True)
    against: str | None = option(
        None,
        "For --view logit: explain the logit minus the logit of this token. Unset: minus the mean logit of all tokens.",
        metavar="TOKEN",
        rare=True,
    )
    plain: bool = option(False, "Print sentences instead of tables.")
    csv: Path | None = option(None, "Also write a CSV file with a row for each source.", metavar="FILE", rare=True)
    npz: Path | None = option(
        None, "Also write the raw weights of all layers and heads, for NumPy.", metavar="FILE", rare=True
    )

    def __post_init__(self) -> None:
        """Raises UsageProblem for values that are invalid or cannot be combined."""
        check(self)
        self.place()
        if self.compare_weights and self.plain:
            raise UsageProblem.naming(
                lambda name: (
                    f"{name('compare_weights')} prints a table, and {name('plain')} prints sentences.",
                    "Leave one of them out.",
                )
            )
        if self.compare_weights and self.weights != "norm":
            raise UsageProblem.naming(
                lambda name: (f"{name('compare_weights')} shows both measures.", f"Leave {name('weights')} out.")
            )

    def place(self) -> tuple[int | None, int | None]:
        """Returns the layer and the head in focus; None stands for all layers or all heads.

        head '2.3' -> (2, 3); head '3' and layer 2 -> (2, 3); head '3' alone -> (None, 3), head 3 of every layer
        """
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
        """Returns the names of the fields that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


@dataclass(frozen=True)
class Request:
    """The input of a view: a text as the model reads it, and the token, layer and head in focus."""

    reading: Reading
    tokenizer: Tokenizer
    focus: Focus
    words: Spans | None = None  # the tokens of each word, with --words


@dataclass(frozen=True)
class Functions:
    """The functions of a view: `find` computes the finding; `screen` and `document` render it."""

    find: Callable[[Request], Any]
    screen: Callable[[Any, str, Any], Any]  # finding, name of the model, console
    document: Callable[[Any, str], dict[str, Any]]  # finding, name of the model


@dataclass(frozen=True)
class View:
    """A view: its name for --view (None for the first screen), what it shows, and the options that it accepts."""

    name: str | None
    shows: str
    takes: tuple[str, ...]
    load: Callable[[ViewOptions], Functions]
    part: AttentionPart | None = None  # the default of --part for an encoder-decoder; None: decoder and cross

    def called(self, naming: Naming) -> str:
        """Returns the view for an error message: 'the first screen' or '--view lens'; `naming` spells the setting."""
        return "the first screen" if self.name is None else f"{naming('view')} {self.name}"

    def refuse_options(self, options: ViewOptions, translates: bool | None = None) -> None:
        """Raises UsageProblem for an option that does not apply to this view; the error lists the views that use it.

        `translates` is whether the model is an encoder-decoder, for which every view takes `target`. If it is not known
        yet, `target` is not checked. Every view takes `pair`.
        """
        takes = (*self.takes, "pair") if translates is False else (*self.takes, "pair", "target")
        refused = next((name for name in options.given() if name not in takes), None)
        if refused is not None:
            others = [view for view in VIEWS if refused in view.takes]
            also = ", and with a model that translates" if refused == "target" else ""
            raise UsageProblem.naming(
                lambda name: (
                    f"{name(refused)} does not go with {self.called(name)}.",
                    f"It goes with {' or '.join(view.called(name) for view in others)}{also}.",
                )
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
    """Returns a function that finds the sources of the token in focus and masks each of the `named` largest ones."""
    from attncli.explain.first_screen import explain

    return lambda request: explain(
        request.reading,
        request.tokenizer,
        request.focus,
        words=request.words,
        named=named,
        check=options.check,
        temperature=options.temperature,
        known=aligning_head(request),
    )


def aligning_head(request: Request) -> KnownHead | None:
    """Returns the head of cross-attention that agrees best with the predictions, as `attncli align` compares heads.

    Returns None if a layer or head is selected, if cross-attention is not shown, or if the pair is too long for this.
    """
    from attncli.evaluation.head_choice import head_of_pair
    from attncli.evaluation.pair_words import tokens_of_pair
    from attncli.explain.head_map import KnownHead

    reading, focus = request.reading, request.focus
    pair = reading.translation
    if pair is None or "cross" not in reading.parts or focus.layer is not None or focus.head is not None:
        return None
    choice = head_of_pair(reading.model, tokens_of_pair(pair.source, pair.inputs))
    if choice is None:
        return None
    return KnownHead(*choice.selected.heads[0], 1.0 if choice.value is None else choice.value)


def _map(options: ViewOptions) -> Functions:
    from attncli.explain.first_screen import explain
    from attncli.render.head_map import map_document, map_screen

    return Functions(
        lambda request: explain(
            request.reading,
            request.tokenizer,
            request.focus,
            words=request.words,
            check=False,
            known=aligning_head(request),
        ),
        map_screen,
        map_document,
    )


def _grid(options: ViewOptions) -> Functions:
    from attncli.explain.grid import grid
    from attncli.render.grid import grid_document, grid_screen

    return Functions(lambda request: grid(request.reading, request.focus), grid_screen, grid_document)


def _steps(options: ViewOptions) -> Functions:
    from attncli.explain.steps import steps
    from attncli.render.steps import steps_document, steps_screen

    return Functions(
        lambda request: steps(request.reading, request.tokenizer, request.focus), steps_screen, steps_document
    )


def _lens(options: ViewOptions) -> Functions:
    from attncli.explain.lens import lens
    from attncli.render.lens import lens_document, lens_screen

    return Functions(
        lambda request: lens(request.reading, request.tokenizer, request.focus), lens_screen, lens_document
    )


def _logit(options: ViewOptions) -> Functions:
    from attncli.explain.logit import logit_attribution
    from attncli.render.logit import logit_document, logit_screen

    return Functions(
        lambda request: logit_attribution(
            request.reading,
            request.tokenizer,
            request.focus,
            target=None if request.reading.translation else options.target,
            against=options.against,
        ),
        logit_screen,
        logit_document,
    )


def _rollout(options: ViewOptions) -> Functions:
    from attncli.explain.rollout import rollout
    from attncli.render.rollout import rollout_document, rollout_screen

    return Functions(lambda request: rollout(request.reading, request.focus), rollout_screen, rollout_document)


_HEAD = ("head", "layer")
_BARS = (*_HEAD, "part", "weights", "check", "compare_weights", "csv", "npz", "words", "temperature")
VIEWS = (
    View(None, "sources, the busiest head, the next token", (*_BARS, "plain"), _first_screen),
    View("bars", "sources", _BARS, _bars),
    View("map", "one head", (*_HEAD, "part", "words", "npz"), _map, "cross"),
    View("grid", "every head", ("part",), _grid, "cross"),
    View("steps", "the arithmetic of one attention row", (*_HEAD, "part"), _steps, "cross"),
    View("lens", "the prediction after each layer", (), _lens),
    View("logit", "the terms that sum to a logit", ("target", "against"), _logit),
    View("rollout", "attention through all layers", ("part",), _rollout, "encoder"),
)
NAMED_VIEWS = {view.name: view.shows for view in VIEWS if view.name is not None}


def find_view(name: str | None) -> View:
    """Returns the view of this name, or the first screen for None. Raises UsageProblem for an unknown name."""
    for view in VIEWS:
        if view.name == name:
            return view
    raise UsageProblem.naming(
        lambda naming: (f"{naming('view')} {name!r} is not a view.", f"Use {alternatives(NAMED_VIEWS)}.")
    )


def text_of(loaded: LoadedModel, text: str, options: ViewOptions) -> Text:
    """Returns the tokens of a text, or of a source text and its translation.

    The translation is `options.target`, or the model's own greedy translation. For an encoder alone, the tokens of the
    second text `options.pair` follow.
    """
    pieces = loaded.pieces(text, options.pair)
    return translated_pair(loaded, pieces, options.target) if loaded.translates else pieces


def translated_pair(loaded: LoadedModel, source: Sequence[Piece], target: str | None) -> TextPair:
    """Returns a source text and its translation as an encoder-decoder reads them.

    The translation is `target`, or the model's own greedy translation. Raises BadInput for a source that is too long.
    """
    from attncli.explain.question import refuse_length
    from attncli.explain.reading import TextPair
    from attncli.generation.continuation import translated
    from attncli.text.tokenizer import Piece

    tokenizer = loaded.tokenizer
    refuse_length(source, loaded.model.config.context)
    pieces = translated(loaded, source) if target is None else tokenizer.target.pieces(target)
    start = [Piece(id_, tokenizer.name(id_).strip(), 0) for id_ in loaded.target()]
    end = min(loaded.end_ids)
    return TextPair(tuple(source), (*start, *pieces), Piece(end, tokenizer.name(end).strip(), 0))


def refuse_generate(loaded: LoadedModel, generate: int) -> None:
    """Raises UsageProblem for a text that is to be continued by `generate` tokens, if the model translates it."""
    if generate and loaded.translates:
        raise UsageProblem.naming(
            lambda name: (
                f"{name('generate')} continues a text, and {loaded.name} translates it.",
                f"Leave {name('generate')} out.",
            )
        )


def reading_of(loaded: LoadedModel, text: Text, view: View, options: ViewOptions) -> Reading:
    """Returns the reading of a text by the attention that the view shows.

    Raises UsageProblem for an option that does not apply to this kind of model.
    """
    from attncli.explain.reading import BOTH, Reading, TextPair

    if isinstance(text, TextPair):
        return Reading.translated(loaded.model, text, [part] if (part := _part(view, options)) else BOTH)
    view.refuse_options(options, translates=False)
    refuse_part(loaded, options.part)
    return Reading.of(loaded.model, text)


def refuse_part(loaded: LoadedModel, part: AttentionPart | None) -> None:
    """Raises UsageProblem for an attention that a model with one stack does not have."""
    own = "decoder" if loaded.model.config.causal else "encoder"
    if part not in (None, own) and not loaded.translates:
        lacking = "encoder" if own == "decoder" else "decoder"
        raise UsageProblem.naming(
            lambda name: (
                f"{loaded.name} has no {lacking}, so it has no {name('part')} {part}.",
                f"Leave {name('part')} out.",
            )
        )


def _part(view: View, options: ViewOptions) -> AttentionPart | None:
    """Returns the attention of an encoder-decoder that a view shows; None: both attentions of the decoder.

    Raises UsageProblem for the rollout of cross-attention.
    """
    part = options.part or view.part
    if view.name == "rollout" and part == "cross":
        raise UsageProblem.naming(
            lambda name: (
                "Rollout multiplies the attention of all layers, but the rows and the columns of cross-attention are "
                "different tokens.",
                f"Use {name('part')} encoder or {name('part')} decoder.",
            )
        )
    return part


def _row_of(reading: Reading, rows: Sequence[Piece], token: str) -> int:
    """Returns the index of the row that a user names. Rows of a translation are tokens of its target or its source."""
    from attncli.explain.locate import find_token

    if reading.translation is None or reading.of_encoder:
        return find_token(rows, token, reading.axes.first, "text" if reading.translation is None else "source text")
    try:
        return find_token(rows, token, reading.axes.first, "target text")
    except UsageProblem as problem:
        message, hint = problem.message, problem.hint
        raise UsageProblem.naming(
            lambda name: (message, f"{hint} For a token of the source text, add {name('part')} encoder.")
        ) from None


def request(reading: Reading, tokenizer: Tokenizer, token: str | None, options: ViewOptions) -> Request:
    """Returns the input of a view for a reading and its options.

    `token` is the token in focus, as an index or a word; None is the default row of the reading. With `options.words`,
    an index counts words. Raises UsageProblem for an index or a word that the text does not have.
    """
    from attncli.explain.question import Focus
    from attncli.explain.words import joined, word_spans

    spans = word_spans(reading) if options.words else None
    rows = joined(reading.axes.rows, spans.rows) if spans else reading.axes.rows
    index = None if token is None else _row_of(reading, rows, token)
    layer, head = options.place()
    if head is not None and len(reading.parts) > 1:
        raise UsageProblem.naming(
            lambda name: (
                f"Every layer has heads of self-attention and of cross-attention, so {name('head')} is ambiguous.",
                f"Choose with {name('part')} decoder or {name('part')} cross.",
            )
        )
    return Request(reading, tokenizer, Focus(index, layer, head, options.weights), spans)
