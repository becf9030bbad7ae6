"""Tokenizers for pairs, and the tokens that the tokenizers of other models add after a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from attncli.errors import BadCheckpoint, UsageProblem
from attncli.text.tokenizer import Piece, Tokenizer, byte_characters
from attncli.text.tokenizer_training import PAIR_TOKENS, train_pair_tokenizer, train_tokenizer
from tests.support.lazily import transformers

TEXTS = ["A dog runs.", "Ein Hund rennt.", "The dog sleeps.", "Der Hund schläft."] * 4
KINDS = ("bpe", "char", "byte")
TOKENIZERS = {kind: train_pair_tokenizer(TEXTS, kind, None if kind != "bpe" else 280) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ids_are_the_special_tokens_of_m2m100(kind):
    tokenizer = TOKENIZERS[kind]
    assert tuple(tokenizer.decode([i]) for i in range(4)) == PAIR_TOKENS
    assert (tokenizer.opening, tokenizer.closing) == ((), (2,))
    assert (tokenizer.end_of_text, tokenizer.pad, tokenizer.kind) == (2, 1, kind)
    assert tokenizer.closing_pieces == (Piece(2, "</s>", 0),)
    assert tokenizer.vocab_size == {"bpe": 280, "char": 260 + len({*"".join(TEXTS)}), "byte": 260}[kind]
    again = Tokenizer.from_json(tokenizer.to_json())
    assert (again.closing, again.end_of_text, again.kind) == ((2,), 2, kind)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.lists(st.one_of(st.text(), st.sampled_from([*PAIR_TOKENS, "<0x41>", "▁"]))).map("".join))
def test_a_text_with_the_name_of_a_special_token_is_plain_text(kind, text):
    ids = TOKENIZERS[kind].encode(text)
    assert TOKENIZERS[kind].decode(ids) == text
    assert min(ids, default=4) >= 4


def test_the_ids_after_the_special_tokens_are_the_bytes():
    tokenizer = TOKENIZERS["byte"]
    assert tokenizer.encode("aé") == [4 + byte for byte in "aé".encode()]
    bpe = [TOKENIZERS["bpe"].decode([i]) for i in range(4, 260)]
    assert bpe[:94] == [chr(i) for i in range(0x21, 0x7F)]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_adds_and_removes_the_end_of_a_text(tmp_path, kind):
    (tmp_path / "tokenizer.json").write_text(TOKENIZERS[kind].to_json(), encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    texts = ["A dog sleeps , 'tis so .", "Zoë 狗", ""]
    ours = [[*TOKENIZERS[kind].encode(text), 2] for text in texts]
    assert theirs(texts)["input_ids"] == ours
    assert [theirs.decode(ids, skip_special_tokens=True) for ids in ours] == texts
    padded = theirs(texts, padding=True)["input_ids"]
    assert padded[2] == [2] + [1] * (len(padded[0]) - 1)
    assert theirs(texts[0], texts[1])["input_ids"] == ours[0] + ours[1]


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("bpe", 259, "vocab_size is 259, and must be a whole number from 260"),
        ("char", 1 << 21, "vocab_size is 2097152, and must be"),
        ("byte", 257, "The byte tokenizer always has 260 ids"),
        ("word", None, "tokenizer 'word' is not a kind of tokenizer"),
    ],
)
def test_sizes_and_kinds_that_are_not_possible_are_refused(kind, size, message):
    with pytest.raises(UsageProblem, match=message):
        train_pair_tokenizer(TEXTS, kind, size)


def test_a_tokenizer_of_texts_adds_nothing_after_a_text():
    for kind in KINDS:
        tokenizer = train_tokenizer(TEXTS, kind)
        assert (tokenizer.opening, tokenizer.closing, tokenizer.pad) == ((), (), None)
        assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"


def backend(special, processor=None):
    """Returns a byte-level tokenizer of the library, whose first ids are special tokens."""
    made = Backend(models.BPE({name: i for i, name in enumerate([*special, *byte_characters()])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken(name, special=True) for name in special])
    if processor is not None:
        made.post_processor = processor
    return made


BERT = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
BART = ["<s>", "<pad>", "</s>"]
T5 = ["<pad>", "</s>", "<unk>"]
TEMPLATE = processors.TemplateProcessing


@pytest.mark.parametrize(
    ("special", "processor", "expected"),
    [
        (BERT, processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)), ((1,), (2,), 2, 0)),
        (BERT, TEMPLATE("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 1), ("[SEP]", 2)]), ((1,), (2,), 2, 0)),
        (BART, processors.RobertaProcessing(("</s>", 2), ("<s>", 0)), ((0,), (2,), 2, 1)),
        (T5, TEMPLATE("$A </s>", "$A </s> $B </s>", [("</s>", 1)]), ((), (1,), 1, 0)),
        (["</s>", "<pad>"], TEMPLATE("$A </s>", "$A </s> $B </s>", [("</s>", 0)]), ((), (0,), 0, 1)),  # Marian
        (
            [*BART, "en_XX"],  # mBART
            processors.Sequence([processors.ByteLevel(), TEMPLATE("$A </s> en_XX", None, [("</s>", 2), ("en_XX", 3)])]),
            ((), (2, 3), 2, 1),
        ),
        (["<unk>", "<s>", "</s>"], TEMPLATE("<s> $A", None, [("<s>", 1)]), ((1,), (), None, None)),  # Llama
        (["<|endoftext|>"], None, ((), (), 0, None)),  # GPT-2
        (["<|endoftext|>", "<s>"], TEMPLATE("$A <s>", None, [("<s>", 1)]), ((), (1,), 0, None)),
    ],
)
def test_the_tokens_around_a_text_are_those_of_the_post_processor(special, processor, expected):
    made = backend(special, processor)
    tokenizer = Tokenizer.from_json(made.to_str())
    assert (tokenizer.opening, tokenizer.closing, tokenizer.end_of_text, tokenizer.pad) == expected
    assert [*tokenizer.opening, *tokenizer.encode("a dog"), *tokenizer.closing] == made.encode("a dog").ids


def test_an_added_token_outside_the_vocabulary_is_refused():
    tokenizer = Tokenizer(backend(BART, TEMPLATE("$A </s>", None, [("</s>", 999)])))
    with pytest.raises(BadCheckpoint, match="adds token 999 after a text, but its ids are 0 to 258"):
        tokenizer.encode_batch([]), tokenizer.closing
