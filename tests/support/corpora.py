"""Text files, documents and tokenizers that several tests use."""

from dataclasses import dataclass

from attncli.folders import cache_folder
from attncli.text.corpus import Corpus
from attncli.text.documents import Documents
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.texts import story


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def documents(*texts):
    return Documents.of(texts, ("made.txt",))


def joined(pieces):
    """Joins pieces (text, whether the document ends) to documents. An incomplete last document counts."""
    texts, goes_on = [], False
    for text, ended in pieces:
        texts[len(texts) - goes_on :] = [texts[-1] + text] if goes_on else [text]
        goes_on = not ended
    return tuple(texts)


def texts_of(read, start=0, stop=None):
    return joined(read.read(start, stop))


@dataclass
class Copy:
    """A copy of a corpus in memory, because the corpus itself maps files."""

    train: list[int]
    val: list[int]
    tokenizer: str
    facts: tuple

    @classmethod
    def of(cls, made: Corpus):
        facts = tuple((part.characters, part.bytes, part.documents) for part in (made.train, made.val))
        return cls(
            made.train.ids[:].tolist(), made.val.ids[:].tolist(), made.tokenizer.to_json(), (*facts, made.digest)
        )


def metaspace():
    """Returns a tokenizer of another kind, whose tokens can span several words."""
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(split=False, prepend_scheme="never")
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*alphabet, END_OF_TEXT], show_progress=False
    )
    backend.train_from_iterator([story(400).replace("\n", " ")], trainer)
    return Tokenizer(backend)


TOKENIZERS = {
    "bpe": train_tokenizer([story(400), "naïve it's the  end\t\t of 東京\r\n" * 9], "bpe", 400),
    "char": train_tokenizer([story(400)], "char"),
    "byte": byte_tokenizer(),
    "other": metaspace(),
}


def entries():
    return list((cache_folder() / "tokens").iterdir())
