"""The tokenizer of Marian: ids, decoding and pieces as those of transformers and sentencepiece, and damaged files."""

import json
import random
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.hub import _tokenizer_files
from attncli.checkpoint.load import load_model
from attncli.errors import BadCheckpoint, BadInput
from tests.support.commands import ask
from tests.support.lazily import transformers
from tests.support.sentence_pieces import SIDES, train_pieces, write_pieces

TEXTS = [
    *(
        "A dog runs.",
        "Ein Hund rennt.",
        "  two   spaces  ",
        "",
        " ",
        "naïve Café ﬁne ½",
        "dogs 東京 dog",
        "a\tb\nc",
        "ä",
    ),
    *(">>deu<< A dog.", ">>xyz<<A dog", ">> A dog", "</s> <unk> <pad>", "▁dog ▁ dog", "\0\0dog\0", "Mäuse 日本 Hund"),
]


def read_by_them(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends sacremoses, and does not use it
        return transformers.MarianTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("marian")
    write_pieces(
        path,
        {
            side: train_pieces(texts, user_defined_symbols="[X]" if side == "source" else "")
            for side, texts in SIDES.items()
        },
    )
    return path


@pytest.fixture(scope="module")
def both(folder):
    return ModelFolder(folder).tokenizer(), read_by_them(folder)


def check(both, text):
    ours, theirs = both
    theirs._switch_to_input_mode()
    source = theirs.encode(text, split_special_tokens=True)
    assert [*ours.encode(text), *ours.closing] == source
    assert [piece.id for piece in ours.pieces(text)] == source[:-1]
    theirs._switch_to_target_mode()
    target = theirs.encode(text, split_special_tokens=True)
    theirs._switch_to_input_mode()
    assert ours.target.encode(text) == target[:-1]
    for ids in (source[:-1], target[:-1]):
        if theirs.unk_token_id not in ids:
            assert ours.decode(ids).strip(" ") == theirs.decode(ids)


@pytest.mark.parametrize("text", [*TEXTS, "a [X]b [X] [X"])
def test_ids_and_decoding_are_those_of_transformers(both, text):
    check(both, text)


@settings(max_examples=50, deadline=None)
@given(
    text=st.lists(
        st.one_of(st.sampled_from(["dog", " The", "ein ", "M", "ä", ".", " "]), st.characters(codec="utf-8"))
    ).map("".join)
)
@example(text="\x85")  # white space that the normalization keeps
@example(text=" \x85dog\x85 ")
def test_ids_of_any_text_are_those_of_transformers(both, text):
    if not any(name in text for name in ("▁", ">>")):  # the library's own marks
        check(both, text)


def test_the_hub_needs_the_files_of_the_tokenizer_that_a_repository_has():
    files = {"source.spm", "target.spm", "vocab.json"}
    assert _tokenizer_files({"config.json", "tokenizer_config.json", *files}) == files
    assert _tokenizer_files({"config.json", "tokenizer.json", *files}) == {"tokenizer.json"}
    assert _tokenizer_files({"config.json", "vocab.json"}) == {"tokenizer.json"}


@pytest.fixture
def model(folder, both, tmp_path):
    """Returns a random Marian of transformers, whose directory has the files of the tokenizer."""
    size = both[0].vocab_size
    config = transformers.MarianConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_attention_heads=2, decoder_ffn_dim=16, max_position_embeddings=32, pad_token_id=size - 1,
        decoder_start_token_id=size - 1, eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    theirs.final_logits_bias.normal_()
    theirs.save_pretrained(tmp_path)
    for name in ("source.spm", "target.spm", "vocab.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return theirs


def test_a_model_is_loaded_with_its_two_tokenizers(model, both, tmp_path):
    loaded = load_model(tmp_path, torch.device("cpu"), torch.float32)
    assert (loaded.start_of_text, loaded.end_ids) == (both[0].vocab_size - 1, {0})
    assert loaded.forced_end == 0
    assert loaded.tokenizer.encode("dogs") == both[0].encode("dogs")
    assert loaded.tokenizer.target.encode("Hund") == both[0].target.encode("Hund")


def test_eval_scores_targets_with_the_target_tokenizer_as_transformers_does(model, both, tmp_path, capsys):
    pairs = list(zip(*SIDES.values(), strict=True))[:4]
    (tmp_path / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    nats, tokens = 0.0, 0
    for source, target in pairs:
        found = both[1](source, text_target=target, return_tensors="pt")
        labels = found["labels"]
        assert labels[0].tolist() == [*both[0].target.encode(target), 0]
        with torch.no_grad():
            nats += float(model(input_ids=found["input_ids"], labels=labels).loss) * labels.shape[1]
        tokens += labels.shape[1]
    code, out, _ = ask(capsys, "eval", str(tmp_path), str(tmp_path / "pairs.tsv"), "--json")
    document = json.loads(out)
    assert (code, document["pairs"], document["scored_tokens"]) == (0, 4, tokens)
    assert document["nats_per_token"] == pytest.approx(nats / tokens, rel=1e-5)


def test_pieces_cover_the_text_and_names_are_those_inside_a_text(both):
    tokenizer = both[0]
    pieces = tokenizer.pieces("The dogs  sleep.")
    assert "".join(piece.completed for piece in pieces).split() == ["The", "dogs", "sleep."]
    assert (tokenizer.opening, tokenizer.closing, tokenizer.kind) == ((), (0,), "Unigram")
    assert tokenizer.pad == tokenizer.vocab_size - 1
    assert tokenizer.pieces(">>deu<< dog")[0].text == ">>deu<<"
    (dog,) = tokenizer.encode("dog")[-1:]
    assert tokenizer.stream().push(dog).strip()
    assert tokenizer.target.target is tokenizer.target
    with pytest.raises(BadInput, match="can express"):
        tokenizer.to_json()


@pytest.mark.parametrize("options", [{"model_type": "bpe"}, {"model_type": "char"}, {"model_type": "word"}])
def test_other_kinds_of_models_are_refused(tmp_path, options):
    write_pieces(tmp_path, {side: train_pieces(texts, **options) for side, texts in SIDES.items()})
    with pytest.raises(BadCheckpoint, match=r"source\.spm is no unigram model"):
        ModelFolder(tmp_path).tokenizer()


@pytest.mark.parametrize(
    "options",
    [{"normalization_rule_name": "identity"}, {"remove_extra_whitespaces": False}, {"add_dummy_prefix": False}],
)
def test_every_normalization_is_that_of_transformers(tmp_path, options):
    write_pieces(tmp_path, {side: train_pieces(texts, **options) for side, texts in SIDES.items()})
    both = ModelFolder(tmp_path).tokenizer(), read_by_them(tmp_path)
    for text in ("A dog runs.", "two  dogs", "naïve ﬁne", "a  b c", "\ta\u2003b\n", "\u00a0 a \u3000", "\x85\n\n"):
        check(both, text)


@pytest.mark.parametrize(
    "vocabulary", ["", "[]", '{"</s>": 0}', '{"</s>": 0, "<unk>": -1}', '{"</s>": 0, "<unk>": true}', "[" * 9999]
)
def test_a_vocabulary_that_is_none_is_refused(folder, tmp_path, vocabulary):
    for name in ("source.spm", "target.spm"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "vocab.json").write_text(vocabulary)
    with pytest.raises(BadCheckpoint, match=r"vocab\.json"):
        ModelFolder(tmp_path).tokenizer()


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_model_is_read_or_refused(folder, tmp_path, seed):
    draw = random.Random(seed)
    data = bytearray((folder / "source.spm").read_bytes())
    for _ in range(draw.choice([1, 3, 50])):
        data[draw.randrange(min(len(data), 2000) if seed % 2 else len(data))] = draw.randrange(256)
    (tmp_path / "source.spm").write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
    for name in ("target.spm", "vocab.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    try:
        ModelFolder(tmp_path).tokenizer().pieces("The naïve dog ﬁnds 東京.")
    except BadCheckpoint as problem:
        assert "source.spm" in problem.message or "tokenizer" in problem.message


def test_tokenize_says_that_targets_have_another_tokenizer(folder, capsys):
    code, out, err = ask(capsys, "tokenize", "The dogs", "-m", str(folder))
    assert (code, "dogs" in out) == (0, True)
    assert "another tokenizer for targets; attncli explain --target" in err
