"""Measures a shipped model and writes the results into its model card, in the root of the repository:

    python -m checkpoints.card checkpoints/stories TEXTS
    python -m checkpoints.card checkpoints/translate PAIRS

Rewrites the text between the lines "<!-- measured -->" and "<!-- end -->" of the model's README.md. The module
`text_card` measures a model of text, and `pair_card` a model that translates. TEXTS and PAIRS are the folders of the
texts and pairs that the model was trained on.
"""

import json
import re
import sys
from pathlib import Path

from attncli.checkpoint.directory import CARD, RUN

MEASURED = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> None:
    """Writes the card of the model named on the command line."""
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    card = model / CARD
    page = card.read_text(encoding="utf-8")
    if len(MEASURED.findall(page)) != 1:
        sys.exit(f"{card} has no place for the results: it needs the lines <!-- measured --> and <!-- end -->.")
    if json.loads((model / RUN).read_text(encoding="utf-8"))["corpus"].get("kind") == "pairs":
        from checkpoints.pair_card import measured
    else:
        from checkpoints.text_card import measured
    results = measured(model, folder)
    card.write_text(MEASURED.sub(lambda _: f"\n{results}\n", page), encoding="utf-8")


if __name__ == "__main__":
    main()
