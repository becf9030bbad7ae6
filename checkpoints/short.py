"""Writes the documents of a text that are short: python checkpoints/short.py TEXT CHARACTERS > SHORT"""

import sys
from pathlib import Path

SEPARATOR = "<|endoftext|>"


def main() -> None:
    """Prints those of at most so many characters, separated as in the text that is named on the command line."""
    text, most = Path(sys.argv[1]).read_text(encoding="utf-8"), int(sys.argv[2])
    documents = (document.strip("\n") for document in text.split(SEPARATOR))
    print(f"\n{SEPARATOR}\n".join(document for document in documents if 0 < len(document) <= most))


if __name__ == "__main__":
    main()
