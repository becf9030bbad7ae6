"""Pairs as tokens: the split, the joint vocabulary, the token cache, and pairs that do not fit the context."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.errors import BadCheckpoint, BadInput, OutOfRoom, UsageProblem
from attncli.text import pair_corpus
from attncli.text.pair_corpus import learn_pair_tokenizer, prepare_pairs, spread
from attncli.text.pair_tokens import tokenize_pairs
from attncli.text.pairs import Pair, pairs_from
from attncli.text.progress import Progress, ProgressMeter
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_pair_tokenizer, train_tokenizer
from tests.support.corpora import entries

NUMBERS = [("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier"), ("five", "fünf")]
ANIMALS = [("dogs", "Hunde"), ("cats", "Katzen"), ("horses", "Pferde"), ("birds", "Vögel")]
VERBS = [("run.", "rennen."), ("sleep.", "schlafen."), ("eat </s> .", "essen </s> .")]
PAIRS = [
    Pair(f"{number} {animals} {verb}", f"{zahl} {tiere} {tun}")
    for number, zahl in NUMBERS
    for animals, tiere in ANIMALS
    for verb, tun in VERBS
]
CONFIG = CorpusConfig(vocab_size=300)


def pairs_of(pairs=PAIRS):
    return pairs_from(pairs, ["pairs.tsv"])


def rows(corpus, part):
    """Returns the decoded ids of a part as pairs, with the end of each text."""
    return [
        tuple(corpus.tokenizer.decode(side[i].tolist()) for side in (part.source, part.target))
        for i in range(len(part))
    ]


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_both_parts_are_the_tokens_of_their_texts(kind):
    config = CorpusConfig(tokenizer=kind, vocab_size=300 if kind == "bpe" else None, val_fraction=0.2)
    corpus = prepare_pairs(pairs_of(), config)
    assert sorted([*corpus.train.pairs, *corpus.val.pairs]) == sorted(PAIRS)
    assert not {*corpus.train.pairs.source} & {*corpus.val.pairs.source}
    assert len(corpus.val) == 12
    for part in (corpus.train, corpus.val):
        assert rows(corpus, part) == [(f"{pair.source}</s>", f"{pair.target}</s>") for pair in part.pairs]
        assert part.characters == sum(len(pair.target) for pair in part.pairs)
        assert part.bytes == sum(len(pair.target.encode()) for pair in part.pairs)
        ends = [np.count_nonzero(side.ids == 2) for side in (part.source, part.target)]
        assert ends == [len(part), len(part)]  # the `</s>` of a text is plain text
        assert part.to_score == len(part.target.ids)
    assert (corpus.sources, corpus.notes, corpus.shared) == (("pairs.tsv",), (), 0)


def test_the_vocabulary_is_learned_from_both_sides_of_the_training_part():
    corpus = prepare_pairs(pairs_of(), CONFIG)
    expected = train_pair_tokenizer([*corpus.train.pairs.source, *corpus.train.pairs.target], "bpe", 300)
    assert corpus.tokenizer.to_json() == expected.to_json()
    assert prepare_pairs(pairs_of(), CorpusConfig()).tokenizer.vocab_size <= 512
    with pytest.raises(UsageProblem, match="vocab_size is 257, and must be a whole number from 260"):
        prepare_pairs(pairs_of(), CorpusConfig(vocab_size=257))


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from([*"ab ü\n", "狗", "</s>", "the dog "]), min_size=1).map("".join), min_size=1))
def test_the_ids_of_every_text_are_those_of_the_tokenizer(texts):
    """This also holds for tokenizers that add tokens before a text, and for tokenizers of other programs."""
    found = pairs_from((Pair(text, text[::-1]) for text in texts), ["-"])
    for tokenizer in TOKENIZERS:
        tokens = tokenize_pairs(found, tokenizer, ProgressMeter(None, Progress("tokenizing", 0, None)))
        for i, text in enumerate(texts):
            for side, expected in ((tokens.source, text), (tokens.target, text[::-1])):
                ids = [*tokenizer.opening, *tokenizer.encode(expected), *tokenizer.closing]
                assert side[i].tolist() == ids


def other_tokenizer(opening="", **changes):
    """Returns a tokenizer for pairs with other settings in its tokenizer.json, and perhaps a token before a text."""
    described = json.loads(train_pair_tokenizer(["the dog a b ü"] * 9, "bpe", 270).to_json()) | changes
    if opening:
        described["post_processor"]["single"].insert(0, {"SpecialToken": {"id": opening, "type_id": 0}})
        described["post_processor"]["special_tokens"][opening] = {"id": opening, "ids": [0], "tokens": [opening]}
    return Tokenizer.from_json(json.dumps(described))


TOKENIZERS = [
    other_tokenizer(),
    other_tokenizer(opening="<s>"),
    other_tokenizer(normalizer={"type": "NFKC"}),
    train_pair_tokenizer(["ab"], "char"),
]


def test_a_tokenizer_that_ends_no_text_is_refused():
    with pytest.raises(BadCheckpoint, match="must add exactly one token after a text"):
        prepare_pairs(pairs_of(), CONFIG, tokenizer=train_tokenizer(["a"], "byte"))


def test_separate_validation_pairs_are_kept_and_shared_sources_are_counted():
    held_out = pairs_of([PAIRS[3], Pair("new dogs", "neue Hunde"), PAIRS[4]])
    corpus = prepare_pairs(pairs_of(), CONFIG, held_out)
    assert (len(corpus.train), len(corpus.val), corpus.shared) == (60, 3, 2)
    assert corpus.notes == (
        "the source of 2 of 3 validation pairs is also trained on: the scores partly measure memorized pairs",
    )
    assert corpus.digest != prepare_pairs(pairs_of(), CONFIG).digest
    assert corpus.text_digest == pairs_of().digest == prepare_pairs(pairs_of(), CONFIG).text_digest


def test_pairs_that_do_not_fit_the_context_are_left_out_and_counted():
    long = [Pair("short dogs", "lang " * 100), Pair("long " * 100, "kurz")]
    corpus = prepare_pairs(pairs_of([*PAIRS, *long]), CONFIG, pairs_of())
    assert corpus.train.longest > 100
    assert corpus.within(corpus.train.longest).train is corpus.train
    fitting = corpus.within(60)
    assert (len(fitting.train), fitting.train.too_long, len(fitting.val)) == (60, 2, 60)
    assert [*fitting.train.pairs] == PAIRS
    assert rows(fitting, fitting.train) == rows(corpus, corpus.train)[:60]
    assert fitting.train.longest <= 60
    assert "left out 2 of 62 pairs to train on: a side has more tokens than the context" in fitting.notes
    with pytest.raises(BadInput, match="All 62 pairs to train on have more than 2 tokens on a side"):
        corpus.within(2)
    one = prepare_pairs(pairs_of([long[0]]), CONFIG, pairs_of())
    with pytest.raises(BadInput, match="The only pair to train on has more than 60 tokens on a side"):
        one.within(60)


def test_a_part_of_many_pairs_is_spread_evenly():
    pairs = pairs_of([Pair(f"{i:04}", "1234") for i in range(1000)])
    assert spread(pairs, None) is pairs
    assert spread(pairs, 8000) is pairs
    assert [pair.source for pair in spread(pairs, 40)] == ["0000", "0200", "0400", "0600", "0800"]
    assert len(spread(pairs, 1)) == 1
    corpus = prepare_pairs(pairs_of(), CorpusConfig(vocab_size=260, most_characters=1000))
    assert corpus.train.left_out == 54 - len(corpus.train)
    assert corpus.notes[0] == (
        f"the time suffices for a part of the pairs: the model trains on {len(corpus.train)} of 54 pairs, spread evenly"
    )


def test_too_few_pairs_are_refused():
    with pytest.raises(BadInput, match=r"too few to learn from: 1 pairs with \d+ target tokens"):
        prepare_pairs(pairs_of(PAIRS[:2]), CONFIG)


# The token cache


def test_the_cache_gives_the_same_corpus_without_tokenizing(monkeypatch):
    made = prepare_pairs(pairs_of(), CONFIG)
    progress = []
    monkeypatch.setattr(pair_corpus, "tokenize_pairs", None)
    monkeypatch.setattr(pair_corpus, "train_pair_tokenizer", None)
    read = prepare_pairs(pairs_of(), CONFIG, progress=progress.append)
    assert progress == []
    assert read.digest == made.digest
    assert read.tokenizer.to_json() == made.tokenizer.to_json()
    assert rows(read, read.train) == rows(made, made.train)
    assert rows(prepare_pairs(pairs_of(), CONFIG, tokenizer=made.tokenizer), read.val) == rows(made, made.val)


def test_another_tokenizer_or_other_pairs_have_their_own_entry():
    made = prepare_pairs(pairs_of(), CONFIG)
    for _ in range(2):
        other = prepare_pairs(pairs_of(), CONFIG, tokenizer=TOKENIZERS[0])
        assert other.tokenizer.to_json() == TOKENIZERS[0].to_json()
    reversed_pairs = pairs_of([Pair(pair.target, pair.source) for pair in PAIRS])
    assert prepare_pairs(reversed_pairs, CONFIG).digest != made.digest
    assert prepare_pairs(pairs_of(), CorpusConfig(vocab_size=300, val_fraction=0.3)).digest != made.digest


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train.source.ids", lambda data: data[:-2]),
        ("train.target.ids", lambda data: b"\xff" * len(data)),
        ("val.source.lengths", lambda data: data[:-4]),
        ("val.target.lengths", lambda data: b"\0" * len(data)),
        ("tokenizer.json", lambda data: data[:-9]),
        ("train.target.lengths", None),
    ],
)
def test_a_damaged_entry_is_written_again(name, damage):
    made = prepare_pairs(pairs_of(), CONFIG)
    [entry] = entries()
    file = entry / name
    whole = file.read_bytes()
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(whole))
    again = prepare_pairs(pairs_of(), CONFIG)
    assert rows(again, again.train) == rows(made, made.train)
    assert file.read_bytes() == whole


def test_a_full_disk_leaves_no_entry(monkeypatch):
    write = Path.write_bytes

    def limited(path, data):
        if path.name.startswith("val"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", limited)
    with pytest.raises(OutOfRoom, match=r"has no room: about [\d,]+ bytes are needed, [\d,]+ were written"):
        prepare_pairs(pairs_of(), CONFIG)
    assert entries() == []


def test_a_vocabulary_is_learned_from_an_even_part_of_many_pairs(monkeypatch):
    monkeypatch.setattr(pair_corpus, "_LEARN_FROM", 500)
    found = learn_pair_tokenizer(pairs_of(), CONFIG)
    part = spread(pairs_of(), 500)
    assert len(part) < 20
    assert found.to_json() == train_pair_tokenizer([*part.source, *part.target], "bpe", 300).to_json()
