"""Tiny SentencePiece models, and the files of a tokenizer of Marian."""

import io
import json

import sentencepiece

SIDES = {
    "source": ["A dog runs.", "The dogs sleep under the old tree.", "Don't run, little dog!", "We saw 12 small cats."]
    * 9,
    "target": ["Ein Hund rennt.", "Die Hunde schlafen.", "Lauf nicht weg, kleiner Hund!", "Wir sahen 12 Mäuse."] * 9,
}


def train_pieces(texts, **options):
    """Returns the bytes of a SentencePiece model."""
    file, options = io.BytesIO(), {"vocab_size": 60, "model_type": "unigram", "hard_vocab_limit": False} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=file, minloglevel=2, **options)
    return file.getvalue()


def write_pieces(path, models):
    """Writes the files of a tokenizer. Some pieces of the models have no id in the vocabulary."""
    names = ["</s>", "<unk>"]
    for side, data in models.items():
        (path / f"{side}.spm").write_bytes(data)
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        pieces = [processor.id_to_piece(id_) for id_ in range(processor.get_piece_size())]
        names += [piece for piece in pieces[::-1] if piece not in names and piece not in ("<s>", "un", "日")]
    names += [">>deu<<", "<pad>"]
    (path / "vocab.json").write_text(json.dumps({name: id_ for id_, name in enumerate(names)}))
