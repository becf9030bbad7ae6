"""The diagnosis: a sentence is given exactly when its figures are true of the run."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.cli.options import option_names
from attncli.config import TrainConfig
from attncli.training.diagnosis import Course, curves, diagnose, smoothed

OPTIONS = option_names(TrainConfig)

SOUND = Course(
    train=((10, 6.0), (50, 4.0), (100, 3.5)),
    val=((25, 5.0), (50, 4.1), (75, 3.72), (100, 3.7)),
    vocab_size=1000, dropout=0.0, epochs=2.0, train_tokens=500_000, timed=True,
)  # fmt: skip
RISING = ((25, 4.0), (50, 3.0), (75, 3.2), (100, 3.5))


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, ["Validation leveled off at 3.70 nats per token, within 1% of the loss at step 75: more text or"]),
        ({"val": ((25, 5.0), (50, 4.1), (75, 3.9), (100, 3.7))},
         ["still falling when the time ran out, from 3.90 at step 75 to 3.70 nats per token: more --time should"]),
        ({"val": ((50, 4.1), (100, 3.7)), "timed": False},
         ["still falling when the run ended, from 4.10 at step 50 to 3.70 nats per token: a longer run should"]),
        ({"val": RISING},
         ["rose since step 50, from 3.00 to 3.50 nats per token, while the training loss fell from 4.00 to 3.50; the "
          "weights of step 50 were kept. More text or --dropout 0.1 should help."]),
        ({"val": ((50, 0.051), (100, 0.054)), "train": ((50, 0.05), (100, 0.05))},
         ["leveled off at 0.05 nats per token"]),
        ({"val": RISING, "dropout": 0.1}, ["--dropout 0.2"]),
        ({"val": RISING, "dropout": 0.15}, ["--dropout 0.2"]),
        ({"val": RISING, "dropout": 0.4}, ["More text or a smaller --size should help."]),
        ({"val": RISING, "train": ((50, 4.0), (100, 4.1))}, ["and so did the training loss; the weights of step 50"]),
        ({"val": RISING, "train": ((50, 4.0),)}, ["while the training loss did not change; the weights of step"]),
        ({"val": RISING, "train": ((60, 3.0),)}, ["to 3.50 nats per token; the weights of step 50 were kept."]),
        ({"val": RISING, "train": ()}, ["to 3.50 nats per token; the weights of step 50 were kept."]),
        ({"train": ((10, 6.0), (100, 2.0)), "epochs": 9.96},
         ["The training loss, 2.00, ended far below the validation loss, 3.70 nats per token, after 10.0 passes over"]),
        ({"train": ((10, 6.0), (100, 2.0)), "epochs": 0.9}, ["the validation text is unlike the training text."]),
        ({"train": ((10, 6.9), (100, 6.8)), "val": ((100, 6.8),)},
         ["hardly fell, from 6.90 to 6.80 nats per token, where guessing has 6.91: give it more --time, or"]),
        ({"train": ((10, 6.9), (100, 9.0)), "val": ((100, 9.0),)}, ["rose, from 6.90 to 9.00 nats per token: try"]),
        ({"train": ((10, 2.1), (100, 2.05)), "val": ((50, 2.0), (100, 2.0))}, ["leveled off at 2.00"]),  # fine-tuned
        ({"train_tokens": 20_000}, ["The text is small, 20,000 tokens to train on"]),
        ({"val": ((25, 5.0), (100, 3.9)), "train": ((10, 6.0), (100, 2.0)),
          "train_tokens": 9}, ["far below", "still falling", "small, 9 tokens"]),
        ({"val": ((100, 3.7),)}, ["scored once, 3.70 nats per token at step 100: too little to see a trend."]),
        ({"val": ()}, ["The validation part was not scored: give it more --time."]),
        ({"val": (), "train": (), "timed": False}, ["not scored: give it a longer run."]),
        ({"val": (), "train": ((1, 7.0),)}, ["not scored"]),
    ],
)  # fmt: skip
def test_each_kind_of_run_gets_its_diagnosis(changes, sentences):
    said = diagnose(replace(SOUND, **changes), OPTIONS)
    assert len(said) == len(sentences)
    for sentence, part in zip(said, sentences, strict=True):
        assert part in sentence


points = st.lists(st.tuples(st.integers(1, 5), st.floats(0, 20)), max_size=6).map(
    lambda steps: tuple((sum(s for s, _ in steps[: i + 1]), loss) for i, (_, loss) in enumerate(steps))
)


@given(
    train=points, val=points, vocab_size=st.integers(2, 9999), dropout=st.floats(0, 0.99), epochs=st.floats(0, 1e4),
    train_tokens=st.integers(64, 10**9), timed=st.booleans(),
)  # fmt: skip
def test_every_run_gets_one_to_three_true_sentences(train, val, vocab_size, dropout, epochs, train_tokens, timed):
    said = diagnose(
        Course(
            train=train, val=val, vocab_size=vocab_size, dropout=dropout, epochs=epochs, train_tokens=train_tokens,
            timed=timed,
        ),
        OPTIONS,
    )  # fmt: skip
    text = " ".join(said)
    assert 1 <= len(said) <= 3
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in said)
    losses = [loss for _, loss in val]
    if "Validation rose" in text:
        step = int(re.search(r"since step (\d+)", text)[1])
        assert dict(val)[step] == min(losses) < losses[-1]
    if "still falling" in text:
        step = int(re.search(r"falling.* at step (\d+)", text)[1])
        assert losses[-1] < dict(val)[step]
        assert "Validation rose" not in text
    if "leveled off" in text:
        step = int(re.search(r"the loss at step (\d+)", text)[1])
        assert 0.99 * dict(val)[step] <= losses[-1] <= 1.01 * min(losses)
    if "by heart" in text or "while the training loss fell" in text:
        assert train[-1][1] < max(loss for _, loss in train)
    assert ("--time" in text) <= timed
    assert ("--steps" in text) <= (not timed)


def test_the_advice_is_spelled_for_the_library_and_for_the_command_line():
    short = replace(SOUND, val=((25, 5.0), (50, 4.1), (75, 3.9), (100, 3.7)))
    assert diagnose(short)[0].endswith(": more seconds should lower it further.")
    assert diagnose(short, OPTIONS)[0].endswith(": more --time should lower it further.")
    assert diagnose(replace(SOUND, val=RISING))[0].endswith("More text or dropout 0.1 should help.")


def test_the_curves_are_read_from_the_metrics():
    lines = [
        {"kind": "step", "step": 5, "steps": 9, "loss": 3.0},
        {"kind": "eval", "step": 5, "best": True, "nats_per_token": 3.5},
        {"kind": "sample", "step": 5, "text": "x"},
        {"kind": "final", "step": 5, "nats_per_token": 3.4},
    ]
    assert curves(lines) == (((5, 3.0),), ((5, 3.5),))


def test_a_smoothed_curve_has_the_means_of_the_last_losses():
    assert smoothed([(1, 4.0), (2, 2.0), (3, 6.0)], 2) == ((1, 4.0), (2, 3.0), (3, 4.0))
    assert smoothed([], 2) == ()
