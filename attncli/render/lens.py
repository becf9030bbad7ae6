"""The screen of `--view lens`: the logit lens, one row for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fold
from attncli.render.heading import next_label, prediction_of, subject_document, subject_heading, titled, token_document
from attncli.render.numbers import percent

if TYPE_CHECKING:
    from attncli.explain.lens import Lens

_TOKEN = 10  # cells of a predicted token
_BESIDE = 25  # cells of a row without its predictions
_MOST = 5  # predictions of a row


def lens_screen(finding: Lens, model: str, console: Console) -> RenderableType:
    """Shows the prediction after every layer, with the probability and rank of the model's final prediction."""
    subject, width = finding.subject, console.width
    predictions = max(1, min(_MOST, (width - _BESIDE) // (_TOKEN + 7)))
    label = next_label(finding.target, 8)
    table = Table.grid(padding=(0, 1))
    for at in range(3 + 2 * predictions):
        is_token = at % 2 == 1 and at <= 2 * predictions
        table.add_column(no_wrap=True, justify="left" if at == 0 or is_token else "right")
    ranks = [cell for at in range(predictions) for cell in ("predicts" if at == 0 else "then", "")]
    table.add_row("", *ranks, "P", "rank", style="dim")
    for row in finding.rows:
        cells = []
        for token in row.top[:predictions]:
            cells += [Text(next_label(token, _TOKEN)), Text(percent(token.probability), "green")]
        cells += [Text()] * (2 * predictions - len(cells))
        name = "embedding" if row.layers_read == 0 else f"layer {row.layers_read - 1}"
        table.add_row(Text(name, "dim"), *cells, Text(percent(row.probability)), Text(f"{row.rank:,}", "dim"))
    return Group(
        subject_heading(subject, model, width),
        Text(),
        titled(f"{prediction_of(subject.axes, subject.focus, 12)}, layer by layer", "logit lens", width),
        table,
        Text(fold(f"P and rank are those of the final prediction: {label}", width), "dim"),
        Text(),
        Text(fold("Last row: the model's own prediction. Above: the output head, applied early.", width), "dim"),
    )


def lens_document(finding: Lens, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary, in full precision, with more tokens in each row."""
    return {
        **subject_document(finding.subject, model, "lens"),
        "target": token_document(finding.target),
        "rows": [
            {
                "layers_read": row.layers_read,
                "probability": row.probability,
                "rank": row.rank,
                "top": [token_document(token) for token in row.top],
            }
            for row in finding.rows
        ],
    }
