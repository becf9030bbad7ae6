"""A tokenizer for pairs, a translation as a decoder reads it, and the switches of a post-norm model."""

from attncli.explain.reading import TextPair
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import train_pair_tokenizer

TEXTS = ["A dog runs.", "Ein Hund rennt.", "The dog sleeps.", "Der Hund schläft."] * 4
TOKENIZER = train_pair_tokenizer(TEXTS, "bpe", 280)
POST_NORM = {"pre_norm": False, "embedding_norm": True, "head_bias": True}


def translation(source="The dog sings.", target="Der Hund singt laut.", repeat=1):
    """Returns a source text and a translation, each `repeat` times."""
    start, end = Piece(2, "</s>", 0), Piece(2, "</s>", 0)
    pieces = (TOKENIZER.pieces(" ".join([text] * repeat)) for text in (source, target))
    return TextPair((*next(pieces), end), (start, *next(pieces)), end)
