"""`attncli circuit why`."""

from __future__ import annotations

from pathlib import Path

from attncli.cli.circuit.shared import NPZ
from attncli.cli.shared import JSON, ModelSource, Pictures, parse_head
from attncli.cli.texts import text_or_file_end
from attncli.config.option import argument, option
from attncli.errors import UsageProblem

_EDGE = "The query and the source, by index or word. Unset: the last token, and the token that it looks at most."
_EXAMPLE = 'attncli circuit why "The little cat sat. The little" --head 3.1'


def why(
    *,
    text: str | None = argument(None, "The text, or a file that contains it; - reads standard input."),
    source: ModelSource,
    head: str | None = option(None, "The head to explain, such as 3.1 for head 1 of layer 3.", metavar="L.H"),
    edge: str | None = option(None, _EDGE, metavar="QUERY:SOURCE"),
    json: bool = JSON,
    npz: Path | None = NPZ,
    pictures: Pictures,
) -> None:
    """Show why a head looks at a token: its score as an exact sum over the components that wrote query and key.

    attncli circuit why "The little cat sat. The little" --head 3.1
    attncli circuit why "The little cat sat. The little" --head 3.1 --edge 7:cat
    """
    pictures.refuse({"--npz": npz})
    if head is None:
        raise UsageProblem("--head is missing.", f"For example: {_EXAMPLE}")
    which = parse_head(head)
    read = text_or_file_end(text, _EXAMPLE)
    from attncli.cli.bodies.circuit.why import run

    run(read, source, which, edge, npz, pictures, json=json)
