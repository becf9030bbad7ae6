"""Head scores equal their definition, on weights made by hand and on models."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from attncli.config import ModelConfig
from attncli.errors import BadInput, UsageProblem
from attncli.explain.heads import HEAD_KINDS, HeadScores, chance, fitted, head_scores, patterns, repeats, score
from attncli.model.mask import causal_mask
from attncli.model.transformer import Transformer
from attncli.render.heads import heads_document, heads_screen
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.checkpoints import write_random_model
from tests.support.commands import ask
from tests.support.models import Recorder, tiny_config, tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE, story

N = 9
IDS = repeats(0, N, 40, torch.Generator().manual_seed(3))
CPU = torch.device("cpu")


def looks(columns):
    """Returns the weights (T, T) of a head that attends to one column in each row."""
    return torch.eye(len(columns), dtype=torch.float64)[torch.tensor(columns)]


def even(size, window=None):
    allowed = causal_mask(size, size, window, CPU).double()
    return allowed / allowed.sum(-1, keepdim=True)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_perfect_head_scores_one_and_only_on_its_own_pattern(kind):
    rows = range(len(IDS))
    columns = {
        "previous": [max(row - 1, 0) for row in rows],
        "duplicate": [row - N if row > N else 0 for row in rows],
        "induction": [row - N + 1 if row > N else 0 for row in rows],
        "sink": [0 for _ in rows],
    }[kind]
    found = dict(zip(HEAD_KINDS, score(looks(columns), IDS).tolist(), strict=True))
    assert found[kind] == 1
    by_hand = {  # the share of rows after row 0 that attend to token 0
        "previous": {"sink": 1 / (2 * N)},
        "duplicate": {"sink": N / (2 * N), "previous": 1 / (2 * N)},
        "induction": {"sink": N / (2 * N), "previous": 1 / (2 * N)},
        "sink": {"previous": 1 / (2 * N)},
    }[kind]
    assert {other: found[other] for other in HEAD_KINDS if found[other] and other != kind} == pytest.approx(by_hand)


@pytest.mark.parametrize("window", [None, 4, N + 1, 14])
def test_uniform_attention_scores_exactly_chance(window):
    size = len(IDS)
    found, by_hand = chance(IDS, window), {kind: [] for kind in HEAD_KINDS}
    for row in range(size):
        seen = range(max(0, row + 1 - (window or size)), row + 1)
        for kind, columns in (
            ("previous", [row - 1]),
            ("duplicate", [at for at in range(row) if IDS[at] == IDS[row]]),
            ("induction", [at + 1 for at in range(row) if IDS[at] == IDS[row]]),
            ("sink", [0] if row else []),
        ):
            if hits := set(columns) & set(seen):
                by_hand[kind].append(len(hits) / len(seen))
    for kind, value in zip(HEAD_KINDS, found.tolist(), strict=True):
        expected = by_hand[kind]
        assert math.isnan(value) if not expected else value == pytest.approx(sum(expected) / len(expected), abs=1e-12)
    assert torch.equal(score(even(size, window), IDS, window), found) or bool(found.isnan().any())


def test_only_rows_in_which_a_pattern_is_possible_count():
    ids = torch.tensor([7, 1, 2, 1, 3])  # only row 3 repeats a token, the token at 1
    weights = torch.zeros(5, 5, dtype=torch.float64)
    weights[3, 1], weights[3, 2], weights[3, 3] = 0.5, 0.3, 0.2
    found = dict(zip(HEAD_KINDS, score(weights, ids).tolist(), strict=True))
    assert (found["duplicate"], found["induction"]) == (0.5, 0.3)
    assert torch.isnan(score(weights, torch.arange(5))[1])  # no token is repeated
    assert not patterns(ids, window=2)[1].any()  # the window is too short
    assert not patterns(ids).triu(1).any()


def test_random_tokens_differ_and_are_repeated_once():
    ids = repeats(5, 20, 21, torch.Generator().manual_seed(0))
    assert ids[0] == 5
    assert ids[1:21].tolist() == ids[21:].tolist()
    assert sorted(ids[:21].tolist()) == list(range(21))


def test_scores_of_every_family_equal_means_of_its_attention_weights(family):
    model = tiny_model(dtype=torch.float64, **family)
    found = head_scores(model, 3, 97, length=6, sequences=2, seed=4)
    generator = torch.Generator().manual_seed(4)
    means = torch.zeros(4, 3, 4, dtype=torch.float64)
    for _ in range(2):
        ids, seen = repeats(3, 6, 97, generator), Recorder()
        with torch.no_grad():
            model(ids[None], observe=seen)
        for layer, steps in seen.steps.items():
            for head, weights in enumerate(steps.weights[0]):
                rows = range(7, 13)
                means[0, layer, head] += sum(weights[row, row - 1] for row in range(1, 13)) / 12 / 2
                means[1, layer, head] += sum(weights[row, row - 6] for row in rows) / 6 / 2
                means[2, layer, head] += sum(weights[row, row - 5] for row in rows) / 6 / 2
                sinks = range(1, min(13, model.config.window_of(layer) or 13))
                means[3, layer, head] += sum(weights[row, 0] for row in sinks) / len(sinks) / 2
    np.testing.assert_allclose(found.scores, means.numpy(), atol=1e-12)


def induction_circuit(tokens, context):
    """Returns a model with weights set by hand: head 0.0 copies the previous token, head 1.0 looks for it.

    The circuit is the induction circuit of Olsson et al. (2022).
    """
    width = 2 * tokens + context  # dimensions for the token, the previous token and the position
    config = ModelConfig(
        vocab_size=tokens, layers=2, width=width, heads=1, kv_heads=1, head_width=width, feed_forward_width=4,
        context=context, positions="learned", qk_norm=False, gated=False, activation="gelu_tanh", tied=False,
    )  # fmt: skip
    model = Transformer(config).double()
    now, before, at = slice(tokens), slice(tokens, 2 * tokens), slice(2 * tokens, width)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.embedding.weight[:, now] = torch.eye(tokens, dtype=torch.float64)
        model.position.weight[:, at] = torch.eye(context, dtype=torch.float64)
        first, second = (block.attention for block in model.blocks)
        first.query.weight[at, at] = torch.eye(context, dtype=torch.float64).roll(-1, 0) * 1e3
        first.key.weight[at, at] = torch.eye(context, dtype=torch.float64)
        first.value.weight[now, now] = torch.eye(tokens, dtype=torch.float64)
        first.output.weight[before, now] = torch.eye(tokens, dtype=torch.float64)
        second.query.weight[now, now] = torch.eye(tokens, dtype=torch.float64) * 1e3
        second.key.weight[now, before] = torch.eye(tokens, dtype=torch.float64)
    return model.eval()


def test_an_induction_circuit_set_by_hand_scores_one():
    model = induction_circuit(12, 21)
    found = head_scores(model, 0, 12, length=10, sequences=2)
    assert found.score("previous", 0, 0) == pytest.approx(1, abs=1e-9)
    assert found.score("induction", 1, 0) == pytest.approx(1, abs=1e-9)
    assert found.best("induction") == (1, 0)
    assert found.score("induction", 0, 0) == pytest.approx(0, abs=1e-9)


def test_a_model_with_uniform_attention_scores_chance():
    model = tiny_model(window=7, window_from=1)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query.weight.zero_()
    found = head_scores(model, 1, 97, length=5)
    np.testing.assert_allclose(found.scores, np.broadcast_to(found.chances[..., None], found.scores.shape), atol=1e-6)
    assert found.chance("previous", 0) != found.chance("previous", 1)  # the window is shorter


def test_the_length_fits_context_windows_and_vocabulary():
    assert fitted(tiny_config(), 97) == 47
    assert fitted(tiny_config(context=512), 600) == 50
    assert fitted(tiny_config(), 31) == 30
    assert fitted(tiny_config(window=7, window_from=1), 97) == 6
    found = head_scores(tiny_model(window=7, window_from=1), 1, 97)
    assert np.isfinite(found.scores).all()
    far = head_scores(tiny_model(window=7, window_from=1), 1, 97, length=20)
    assert np.isnan(far.scores[1, 1:]).all()  # a duplicate is 20 tokens back
    assert np.isfinite(far.scores[:, 0]).all()
    assert far.best("duplicate")[0] == 0
    with pytest.raises(BadInput, match="too few to repeat"):
        fitted(tiny_config(context=4), 97)


@pytest.mark.parametrize(("length", "sequences", "words"), [(1, 2, "2 to 47"), (48, 2, "2 to 47"), (5, 0, "repeats 0")])
def test_lengths_and_repeats_out_of_range_are_refused(length, sequences, words):
    with pytest.raises(UsageProblem, match=words):
        head_scores(tiny_model(), 1, 97, length=length, sequences=sequences)


def test_the_error_of_a_score_is_the_standard_error_over_texts():
    found = head_scores(tiny_model(), 1, 97, length=8, sequences=5, seed=2)
    generator = torch.Generator().manual_seed(2)
    each = np.stack([scored(tiny_model(), repeats(1, 8, 97, generator)).numpy() for _ in range(5)])
    np.testing.assert_allclose(found.errors, each.std(0, ddof=1) / np.sqrt(5), rtol=1e-4, atol=1e-7)
    assert head_scores(tiny_model(), 1, 97, length=8, sequences=1).errors is None


@torch.no_grad()
def scored(model, ids):
    seen = Recorder()
    model(ids[None], observe=seen)
    return torch.stack([score(seen.steps[layer].weights[0], ids) for layer in range(3)], 1)


def test_scores_are_a_function_of_the_seed():
    first, again, other = (head_scores(tiny_model(), 1, 97, seed=seed).scores for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# The screen

SCORES = HeadScores(
    scores=np.array(
        [[[0.1, 0.95], [0.2, 0.1]], [[0.05, 0.0], [0.1, 0.3]], [[0.04, 0.02], [0.875, 0.1]], [[0.5, 0.0], [0.2, 0.9]]]
    ),
    chances=np.array([[0.09, 0.09], [0.03, 0.03], [0.03, 0.03], [0.09, 0.09]]),
    length=24, sequences=4, seed=7, errors=np.full((4, 2, 2), 0.0123),
)  # fmt: skip
GOLDEN = """\
m · 2 layers x 2 heads
mean weight ± standard error, 4 texts of 24 random tokens, twice · seed 7

previous  looks at the token before
    0.1 .95 ±.012 ██████████████████████████████████████   chance .09
    1.0 .20 ±.012 ████████                                 chance .09
    0.0 .10 ±.012 ████                                     chance .09

duplicate  looks at the same token, before
    1.1 .30 ±.012 ████████████                             chance .03
    1.0 .10 ±.012 ████                                     chance .03
    0.0 .05 ±.012 ██                                       chance .03

induction  looks at what followed the same token before
    1.0 .88 ±.012 ███████████████████████████████████      chance .03
    1.1 .10 ±.012 ████                                     chance .03
    0.0 .04 ±.012 █▋                                       chance .03

sink  looks at the first token
    1.1 .90 ±.012 ████████████████████████████████████     chance .09
    0.0 .50 ±.012 ████████████████████                     chance .09
    1.0 .20 ±.012 ████████                                 chance .09

Every head  % of its attention
        previous duplicate induction   sink
    0.0      10%        5%        4%    50%
    0.1      95%        0%        2%     0%
    1.0      20%       10%       88%    20%
    1.1      10%       30%       10%    90%
 chance       9%        3%        3%     9%

Look next at head 0.1  95% of its attention is on the token before, by chance 9%
  attncli explain "The cat sat on the mat. The cat" --head 0.1 -m m
"""


def test_the_screen_looks_as_expected():
    drawn = shown(heads_screen(SCORES, "m", 80, everyone=True, named=" -m m"), 80)
    assert "".join(f"{line.rstrip()}\n" for line in drawn.splitlines()) == GOLDEN


def test_all_bars_begin_in_one_column():
    scores, errors = SCORES.scores.copy(), SCORES.errors.copy()
    scores[3, 1, 1], errors[2, 1, 0] = 1, 0.0001
    drawn = shown(heads_screen(replace(SCORES, scores=scores, errors=errors), "m", 80), 80)
    assert " ±<.001 █" in drawn
    assert " 1.00 ±" in drawn
    assert len({line.index("█") for line in drawn.splitlines() if "█" in line}) == 1


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("missing", [False, True])
def test_the_screen_fits_its_width_and_escapes_hostile_text(width, missing):
    scores = SCORES.scores.copy()
    if missing:
        scores[1:] = np.nan
    found = HeadScores(scores, SCORES.chances, 24, 4, 7)
    drawn = shown(heads_screen(found, HOSTILE, width, everyone=True, named=f" -m {HOSTILE}"), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    assert ("lower --length" in drawn) == missing


def test_heads_at_chance_are_not_worth_a_look():
    flat = HeadScores(np.broadcast_to(SCORES.chances[..., None], (4, 2, 2)), SCORES.chances, 24, 4, 7)
    assert flat.worth_a_look() is None
    assert "No head stands out" in shown(heads_screen(flat, "m", 80), 80)
    sinks = HeadScores(flat.scores * np.array([1, 1, 1, 9.0])[:, None, None], SCORES.chances, 24, 4, 7)
    assert sinks.worth_a_look() is None  # sinks are not worth a look
    assert SCORES.worth_a_look() == ("previous", 0, 1)


def test_the_document_has_every_score():
    scores = SCORES.scores.copy()
    scores[1] = np.nan
    document = json.loads(
        json.dumps(heads_document(HeadScores(scores, SCORES.chances, 24, 4, 7), "m"), allow_nan=False)
    )
    assert list(document) == ["model", "layers", "heads", "length", "sequences", "seed", "next", "kinds"]
    assert document["kinds"]["induction"]["scores"] == SCORES.scores[2].tolist()
    assert document["kinds"]["induction"]["best"] == {"layer": 1, "head": 0, "score": 0.875, "standard_error": None}
    best = heads_document(SCORES, "m")["kinds"]["induction"]
    assert (best["best"]["standard_error"], best["standard_errors"]) == (0.0123, [[0.0123] * 2] * 2)
    assert document["kinds"]["duplicate"] == {
        "best": None, "chance": [0.03, 0.03], "scores": [[None] * 2] * 2, "standard_errors": [[None] * 2] * 2,
    }  # fmt: skip
    assert document["next"] == {"kind": "previous", "layer": 0, "head": 1}


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("heads")
    tokenizer = train_tokenizer([story(500)], "bpe", 300)
    write_random_model(place / "checkpoints/m", tokenizer)
    return place


def test_the_command_scores_the_model(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code, out, err = ask(capsys, "heads", "m", "--seed", "3", "--repeats", "2", "--all")
    assert (code, err) == (0, "")
    assert "m · 3 layers x 4 heads" in out
    assert "2 texts of 47 random tokens, twice · seed 3" in out
    assert "Every head" in out
    assert max(map(cell_len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "heads", "--seed", "3", "--repeats", "2", "--json")[1])
    expected = head_scores(tiny_model(vocab_size=300), 1, 300, sequences=2, seed=3)
    np.testing.assert_allclose(document["kinds"]["sink"]["scores"], expected.scores[3], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["heads", "nothing"], 3, "no model 'nothing'"),
        (["heads", "m", "--length", "1k"], 2, "length 1,000 is not from 2 to 47"),
        (["heads", "m", "--repeats", "0"], 2, "repeats 0"),
    ],
)
def test_an_error_has_at_most_two_lines(folder, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(folder)
    found, out, err = ask(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 2


def test_a_context_too_small_to_repeat_tokens_is_refused():
    with pytest.raises(BadInput):
        head_scores(Transformer(tiny_config(context=3)), 1, 97)
