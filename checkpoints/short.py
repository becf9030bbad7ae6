"""Prints the short documents of a text: python checkpoints/short.py TEXT CHARACTERS > SHORT"""

import sys
from collections.abc import Iterator

from attncli.text.files import read_documents
from attncli.text.tokenizer import END_OF_TEXT


def documents(path: str) -> Iterator[str]:
    """The documents of a file, without empty lines around them."""
    pieces = []
    for piece, ended in read_documents([path]).read():
        pieces.append(piece)
        if ended:
            yield "".join(pieces).strip("\n")
            pieces = []


def main() -> None:
    """Prints the documents of at most CHARACTERS characters, separated by lines as in TEXT."""
    path, most = sys.argv[1], int(sys.argv[2])
    short = (document for document in documents(path) if 0 < len(document) <= most)
    sys.stdout.buffer.write((f"\n{END_OF_TEXT}\n".join(short) + "\n").encode())


if __name__ == "__main__":
    main()
