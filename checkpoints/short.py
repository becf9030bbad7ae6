"""Prints the documents of a text that have at most CHARACTERS characters.

usage: python checkpoints/short.py TEXT CHARACTERS > SHORT
"""

import sys
from collections.abc import Iterator

from attncli.text.files import read_documents
from attncli.text.tokenizer import END_OF_TEXT


def documents(path: str) -> Iterator[str]:
    """Yields the documents of a file without the empty lines around each."""
    pieces = []
    for piece, ended in read_documents([path]).read():
        pieces.append(piece)
        if ended:
            yield "".join(pieces).strip("\n")
            pieces = []


def main() -> None:
    """Prints the short documents, separated by the end-of-text line."""
    path, most = sys.argv[1], int(sys.argv[2])
    short = (document for document in documents(path) if 0 < len(document) <= most)
    sys.stdout.buffer.write((f"\n{END_OF_TEXT}\n".join(short) + "\n").encode())


if __name__ == "__main__":
    main()
