"""Makes the page of a text: everything that it shows, with the options of `attncli explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attncli.checkpoint.load import LoadedModel
from attncli.explain.compare import Comparison
from attncli.explain.defaults import HEAD_TEXTS, HEAD_TOKENS, AttentionPart
from attncli.explain.heads import HeadScores
from attncli.explain.model_heads import scores_by_part
from attncli.explain.page.cuts import BUDGET
from attncli.explain.page.document import PageDocument, page_document, readings_of
from attncli.model.attention import Observer
from attncli.model.count import matrix_parameters
from attncli.render.page.assemble import page_file
from attncli.render.page.payload import payload
from attncli.text.tokenizer import Piece
from attncli.views import ViewOptions, aligning_head, refuse_part, request, translated_pair

if TYPE_CHECKING:
    from attncli.views import Text

_KIND_BUDGET = 5e10  # multiplications for the scores of the heads: a second on two cores


def html_page(loaded: LoadedModel, text: Text, token: str | None, options: ViewOptions) -> str:
    """Returns the HTML file of a text. `token` and `options` choose what the page shows first.

    Raises BadInput and UsageProblem as `document_of` does.
    """
    document = document_of(loaded, text, token, options, kinds_of(loaded), cut_budget=BUDGET)
    return page_file(payload([document]), f"{loaded.name} · attncli")


def kinds_of(loaded: LoadedModel) -> Mapping[AttentionPart, HeadScores]:
    """Returns the scores of the model's heads as `attncli heads` computes them; of a large model, over fewer texts."""
    each = matrix_parameters(loaded.model.config) * 2 * HEAD_TOKENS  # of one text
    return scores_by_part(loaded, sequences=max(1, min(HEAD_TEXTS, int(_KIND_BUDGET / each))))


def html_comparison(loaded: LoadedModel, texts: Sequence[Sequence[Piece]], finding: Comparison) -> str:
    """Returns the HTML file of two texts side by side, with the comparison of a word in them."""
    kinds = kinds_of(loaded)
    read = [_read_alone(loaded, pieces) for pieces in texts]
    documents = [
        page_document(loaded, text, token=word.at, part=part, kinds=kinds, cut_budget=BUDGET / len(read))
        for (text, part), word in zip(read, finding.words, strict=True)
    ]
    return page_file(payload(documents, finding), f"{loaded.name} · attncli")


def _read_alone(loaded: LoadedModel, pieces: Sequence[Piece]) -> tuple[Text, AttentionPart | None]:
    """Returns a text as the page reads it, and the attention in which a word of the text is a row.

    An encoder-decoder also needs a translation: its own.
    """
    if not loaded.translates:
        return pieces, None
    return translated_pair(loaded, pieces, None), "encoder"


def document_of(
    loaded: LoadedModel,
    text: Text,
    token: str | None,
    options: ViewOptions,
    kinds: Mapping[AttentionPart, HeadScores],
    cut_budget: float = 0,
    lens: bool = True,
    steps: bool = True,
    watch: Observer | None = None,
) -> PageDocument:
    """Returns everything that the page shows of a text; `kinds` are the scores of the model's heads.

    `cut_budget` is the number of multiply-adds that cuts may take; 0 means no cuts. `lens` and `steps` are as
    in `page_document`.

    Raises BadInput for a text that is too long, UsageProblem for a token, part or head that does not exist.
    """
    refuse_part(loaded, options.part)
    readings = readings_of(loaded, text)
    part = options.part if loaded.translates and options.part else next(reversed(readings))
    alone = replace(options, part=part) if loaded.translates else options
    asked = request(readings[part], loaded.tokenizer, token, alone)
    focus, spans = asked.focus, asked.words
    row = focus.token if spans is None or focus.token is None else spans.rows[focus.token][-1]
    head = None if focus.layer is None or focus.head is None else (focus.layer, focus.head)
    if head is None and (aligning := aligning_head(asked)) is not None:
        head = aligning.layer, aligning.head
    document = page_document(
        loaded, text, token=row, part=part, head=head, kinds=kinds, cut_budget=cut_budget, lens=lens, steps=steps,
        watch=watch,
    )  # fmt: skip
    start = replace(document.start, temperature=options.temperature, words=options.words, weights=options.weights)
    return replace(document, start=start)
