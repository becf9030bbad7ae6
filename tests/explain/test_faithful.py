"""Faithfulness of rankings: invariants of cuts, the definition of each ranking, the verdict, the screen."""

import json

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from attncli.errors import BadInput
from attncli.explain.defaults import LEAST_TEXTS
from attncli.explain.faithful import (
    LEAST_TOKENS,
    SIZES,
    Faithfulness,
    drops_without,
    faithfulness,
    logit_direction,
    source_scores,
)
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.student import t_quantile
from attncli.explain.verdict import RANKINGS
from attncli.model.attention import Observer
from attncli.render.faithful import faithful_document, faithful_screen
from attncli.text import passages
from attncli.text.documents import Documents
from attncli.text.passages import draw_passages
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.checkpoints import write_random_model
from tests.support.commands import ask
from tests.support.explanations import contributions
from tests.support.models import FAMILIES, Recorder, ids_of, tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE, story

LENGTH = 14
IDS = ids_of(LENGTH)[0]
SOURCES = LENGTH - 1


def model_of(family):
    return tiny_model(dtype=torch.float64, **family)


def drops(model, *cuts):
    with torch.inference_mode():
        return drops_without(model, IDS, cuts)


def test_an_empty_cut_drops_nothing_and_full_cuts_in_any_order_drop_the_same(family):
    model = model_of(family)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(SOURCES, generator=generator).tolist() for _ in range(4)]
    assert drops(model, [], *([] for _ in range(4))) == pytest.approx(0, abs=1e-12)
    everything = drops(model, *orders)
    assert everything == pytest.approx(everything[0], abs=1e-12)
    assert abs(everything[0]) > 1e-3


def test_cuts_agree_batched_and_alone(family):
    model = model_of(family)
    cuts = [[3], [0, 5, 12], [1, 2, 3, 4]]
    together = drops(model, *cuts)
    for cut, drop in zip(cuts, together, strict=True):
        assert drops(model, cut)[0] == pytest.approx(drop, abs=1e-9)
        with torch.no_grad():
            before, after = (
                model(IDS[None], observe=observe)[0, -1].log_softmax(-1)
                for observe in (None, Knockout([Cut(frozenset((SOURCES, source) for source in cut))]))
            )
        target = before.argmax()
        assert drop == pytest.approx(float(before[target] - after[target]), abs=1e-9)


def test_a_cut_source_has_no_direct_effect():
    """A model of one layer has no other path, so replacing a source whose edge is cut changes nothing."""
    model = tiny_model(layers=1, dtype=torch.float64)
    cut = Knockout([Cut(frozenset({(SOURCES, 4)}))])
    other = IDS.clone()
    other[4] = (other[4] + 1) % 97
    with torch.no_grad():
        first, second = (model(ids[None], observe=cut)[0, -1] for ids in (IDS, other))
        whole, replaced = (model(ids[None])[0, -1] for ids in (IDS, other))
    assert torch.equal(first, second)
    assert not torch.allclose(whole, replaced)


@torch.no_grad()
def test_the_rankings_equal_their_definitions(family):
    model = model_of(family)
    seen = Recorder()
    logits = model(IDS[None], observe=seen)[0, -1]
    scores = source_scores(model, IDS)
    weights = torch.stack([seen.steps[layer].weights[0] for layer in range(3)])  # (L, H, T, T)
    torch.testing.assert_close(scores["raw"], weights[:, :, -1].mean((0, 1)))
    rolled = torch.eye(LENGTH, dtype=torch.float64)
    for layer in weights:
        rolled = (0.5 * layer.mean(0) + 0.5 * torch.eye(LENGTH, dtype=torch.float64)) @ rolled
    torch.testing.assert_close(scores["rollout"], rolled[-1])
    assert float(scores["rollout"].sum()) == pytest.approx(1, abs=1e-9)
    assert float(scores["norm"].sum()) == pytest.approx(1, abs=1e-5)
    direction = logit_direction(model, int(logits.argmax()))
    vectors = sum(contributions(model, seen.steps[layer], layer)[:, -1].sum(0) for layer in range(3))  # (S, C)
    torch.testing.assert_close(scores["logit"], vectors @ direction, rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_direction_of_a_logit_is_the_derivative_of_the_logit(family):
    """If the scale sigma of the final norm is frozen, logit - mean = u . x / sigma for the stream x."""
    model = model_of(family)
    stream = []

    class Last(Observer):
        def residual(self, layer, x):
            stream.append(x[0, -1].clone())

    logits = model(IDS[None], observe=Last())[0, -1]
    target, final = int(logits.argmax()), stream[-1]
    centered = final - final.mean() if model.config.norm == "layer" else final
    sigma = (centered.square().mean() + model.config.norm_eps).sqrt()
    bias = model.norm.bias if model.config.norm == "layer" and model.norm.bias is not None else 0 * final
    matrix = model.embedding.weight if model.head is None else model.head.weight
    offset = (matrix[target] - matrix.mean(0)) @ bias
    found = logit_direction(model, target) @ final / sigma + offset
    assert float(found) == pytest.approx(float(logits[target] - logits.mean()), abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_scored(name):
    texts = [ids_of(LENGTH + at % 3, seed=at)[0].tolist() for at in range(9)]
    found = faithfulness(model_of(FAMILIES[name]), texts, seed=1)
    assert found.comprehensiveness.shape == found.sufficiency.shape == (9, len(RANKINGS), len(SIZES))
    assert (found.texts, found.mean_tokens) == (9, LENGTH + 1)
    model = model_of(FAMILIES[name])
    with torch.inference_mode():
        order = source_scores(model, torch.tensor(texts[0]))["norm"][:SOURCES].argsort(descending=True).tolist()
        cut, kept = drops_without(model, torch.tensor(texts[0]), [order[:2], order[2:]])
    assert found.comprehensiveness[0, 1, 1] == pytest.approx(cut, abs=1e-9)
    assert found.sufficiency[0, 1, 1] == pytest.approx(kept, abs=1e-9)


def test_the_seed_affects_only_the_random_ranking():
    first, again, other = (faithfulness(model_of({}), [IDS.tolist()] * LEAST_TEXTS, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.comprehensiveness, again.comprehensiveness)
    assert np.array_equal(first.comprehensiveness[:, :-1], other.comprehensiveness[:, :-1])
    assert not np.array_equal(first.comprehensiveness[:, -1], other.comprehensiveness[:, -1])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "8 texts of at least 10 tokens are needed; the number given is 0"),
        ([[1] * 20] * 7, "the number given is 7"),
        ([[1] * 9] * 8, "9 tokens"),
        ([[1] * 97] * 8, "from 10 to 96"),
    ],
)
def test_too_few_texts_and_texts_of_unsupported_lengths_are_refused(texts, message):
    with pytest.raises(BadInput, match=message):
        faithfulness(tiny_model(), texts)


# Passages


def test_passages_are_beginnings_of_paragraphs():
    tokenizer = byte_tokenizer()
    paragraphs = [f"Paragraph {at} begins like this and goes on for a while." for at in range(9)]
    documents = Documents.of(("\n\n".join([*paragraphs, "Short."]),))
    found = draw_passages(documents, tokenizer, count=6, shortest=10, longest=30, seed=3)
    assert len(found) == 6
    assert all(10 <= len(ids) <= 30 for ids in found)
    texts = [tokenizer.decode(ids) for ids in found]
    assert len({text[:11] for text in texts}) == 6  # no paragraph is drawn twice
    assert all(any(paragraph.startswith(text) for paragraph in paragraphs) for text in texts)
    assert found == draw_passages(documents, tokenizer, count=6, shortest=10, longest=30, seed=3)
    assert found != draw_passages(documents, tokenizer, count=6, shortest=10, longest=30, seed=4)
    assert len(draw_passages(documents, tokenizer, count=60, shortest=10, longest=30, seed=3)) == 9
    lines = Documents.of(("\n".join(paragraphs),))
    assert len(draw_passages(lines, tokenizer, count=60, shortest=10, longest=30, seed=3)) == 9


# The screen


def made(texts=20):
    noise = np.random.default_rng(0).normal(0, 0.05, (2, texts, 5, 4))
    cut = np.array([0.2, 0.6, 0.3, 0.5, 0.1])[:, None] * np.array([0.5, 1, 1.5, 2])
    kept = np.array([0.9, 0.4, 0.8, 0.5, 1.0])[:, None] * np.array([2, 1.5, 1, 0.5])
    return Faithfulness(SIZES, noise[0] + cut, noise[1] + kept, 31.6, 7)


def test_the_best_ranking_is_significantly_ahead_of_random():
    found = made()
    assert found.verdict.best == "norm"
    mean, error = found.verdict.advantage("norm")
    ahead = (found.comprehensiveness[:, 1] - found.comprehensiveness[:, 4]).mean(-1)
    assert mean == pytest.approx(ahead.mean())
    assert error == pytest.approx(ahead.std(ddof=1) / np.sqrt(20))
    assert found.verdict.advantage("norm", sufficient=True)[0] > 0
    even = Faithfulness(SIZES, *(np.random.default_rng(1).normal(0, 1, (2, 30, 5, 4))), 30, 7)
    assert even.verdict.best is None
    assert made(LEAST_TEXTS).verdict.best == "norm"


def verdicts(texts, runs, gain):
    """Yields verdicts on synthetic texts. Drops are skewed, like real drops, and each ranking is better by its gain."""
    generator = np.random.default_rng(texts)
    for _ in range(runs):
        scale = generator.lognormal(0, 1, (2, texts, 1, 1))  # in some texts, every cut has a large effect
        drawn = scale * generator.exponential(1, (2, texts, 9, 1))
        cut, kept = np.concatenate([drawn[:, :, :4], drawn[:, :, 4:].mean(2, keepdims=True)], 2)
        better = np.array([*gain, 0])[:, None]
        yield Faithfulness((1,), cut + better, kept - better, 30, 0)


@pytest.mark.parametrize("texts", [LEAST_TEXTS, 50])
def test_a_random_ranking_wins_in_at_most_5_percent_of_runs(texts):
    """The wins in 600 runs at 5 % have a mean of 30 and a standard deviation of 5.3; the limit is 5 deviations more."""
    runs = 600
    won = sum(found.verdict.best is not None for found in verdicts(texts, runs, (0, 0, 0, 0)))
    assert won <= runs * 0.05 + 5 * np.sqrt(runs * 0.05 * 0.95)


def test_a_verdict_between_two_equal_rankings_is_given_in_at_most_5_percent_of_runs():
    runs = 300
    found = list(verdicts(20, runs, (5, 5, 0, 0)))
    assert {one.verdict.best for one in found} == {"raw", "norm"}  # a large gain is always found
    assert sum(
        not {"raw", "norm"} <= {one.verdict.best, *one.verdict.rivals} for one in found
    ) <= runs * 0.05 + 5 * np.sqrt(runs * 0.05)


@pytest.mark.parametrize(
    ("probability", "degrees", "tabulated"),
    [(0.975, 7, 2.3646), (0.995, 7, 3.4995), (0.9975, 7, 4.0293), (0.975, 9, 2.2622), (0.995, 9, 3.2498),
     (0.995, 19, 2.8609), (0.9975, 19, 3.1737), (0.975, 49, 2.0096), (0.995, 120, 2.6174), (0.5, 9, 0)],
)  # fmt: skip
def test_quantiles_of_student_s_t_equal_the_tabulated_values(probability, degrees, tabulated):
    assert t_quantile(probability, degrees) == pytest.approx(tabulated, abs=2e-3)


def test_a_ranking_that_ties_with_the_best_is_named():
    found = made()
    assert found.verdict.rivals == ()
    # The drops of the best ranking, with noise that is positive and negative in turn.
    cut = found.comprehensiveness.copy()
    cut[:, RANKINGS.index("raw")] = cut[:, RANKINGS.index("norm")] + 0.01 * (-1.0) ** np.arange(20)[:, None]
    kept = found.sufficiency.copy()
    kept[:, RANKINGS.index("raw")] = kept[:, RANKINGS.index("norm")]
    even = Faithfulness(SIZES, cut, kept, 31.6, 7)
    assert {even.verdict.best, *even.verdict.rivals} == {"raw", "norm"}
    assert "cannot be told apart on 20 texts" in shown(faithful_screen(even, "m", "seed 7", 80), 80)


GOLDEN = """\
m · 20 texts of 32 tokens, drawn from b.txt · seed 7

Nats lost, the first k sources cut  more is better
           k=1   k=2   k=4   k=8
raw       0.10  0.20  0.30  0.38  attention weight, mean of all heads
norm      0.30  0.59  0.90  1.21  length of the contributed vector
rollout   0.14  0.30  0.44  0.60  weights multiplied through the layers
logit     0.26  0.50  0.75  1.00  direct effect on the predicted logit
random    0.05  0.10  0.12  0.23  mean of several random rankings

Nats lost, all but the first k cut  less is better
           k=1   k=2   k=4   k=8
raw       1.79  1.35  0.90  0.46  attention weight, mean of all heads
norm      0.82  0.59  0.39  0.20  length of the contributed vector
rollout   1.61  1.20  0.80  0.39  weights multiplied through the layers
logit     1.01  0.74  0.51  0.24  direct effect on the predicted logit
random    1.99  1.51  0.98  0.51  mean of several random rankings

Ahead of random, nats ± standard error
                   cut          kept
raw       +0.12 ± 0.01  +0.12 ± 0.01
norm      +0.63 ± 0.01  +0.75 ± 0.01
rollout   +0.25 ± 0.01  +0.24 ± 0.01
logit     +0.50 ± 0.01  +0.62 ± 0.01

norm is the view to believe: ahead of a random ranking and of every other view.
Ahead: by a one-sided t test over the texts, at 5% for all 20 comparisons.
logit knows which token is predicted, the other views do not.
Cut: edges from the last token to others, in all heads and layers.
"""


def test_the_screen_looks_as_expected():
    drawn = shown(faithful_screen(made(), "m", "drawn from b.txt · seed 7", 80), 80)
    assert "".join(f"{line.rstrip()}\n" for line in drawn.splitlines()) == GOLDEN


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("texts", [LEAST_TEXTS, 20])
def test_the_screen_fits_its_width_and_escapes_hostile_text(width, texts):
    drawn = shown(faithful_screen(made(texts), HOSTILE, HOSTILE, width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)


def test_the_document_has_the_drops_of_every_text():
    found = made()
    document = json.loads(json.dumps(faithful_document(found, "m", ["b.txt"]), allow_nan=False))
    assert list(document) == [
        "model", "sources", "characters_read", "texts", "mean_tokens", "seed", "k", "comparisons",
        "standard_errors_needed", "best", "rivals", "rankings",
    ]  # fmt: skip
    assert document["rankings"]["logit"]["sufficiency"]["by_text"] == found.sufficiency[:, 3].tolist()
    assert document["standard_errors_needed"] == pytest.approx(3.1737, abs=2e-3)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("faithful")
    tokenizer = train_tokenizer([story(400)], "bpe", 300)
    write_random_model(place / "checkpoints/m", tokenizer)
    (place / "b.txt").write_text(story(300))
    (place / "short.txt").write_text("Too short.")
    return place


def test_the_command_scores_files_and_texts(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code, out, err = ask(capsys, "faithful", "b.txt", "--seed", "2", "--limit", "9")
    assert (code, err) == (0, "")
    assert "m · 9 texts of" in out
    assert "drawn from b.txt · seed 2" in out
    assert max(map(cell_len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "faithful", "b.txt", "--seed", "2", "--limit", "9", "--json")[1])
    assert (document["texts"], document["sources"], document["seed"]) == (9, ["b.txt"], 2)
    texts = ["the small grey cat sat on the old mat and the dog ran" + " and ran" * at for at in range(LEAST_TEXTS)]
    document = json.loads(ask(capsys, "faithful", *texts, "--seed", "2", "--json")[1])
    assert (document["texts"], document["sources"]) == (LEAST_TEXTS, [])


def test_a_note_says_how_much_of_a_large_file_is_read(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    arguments = ["faithful", "b.txt", "--seed", "2", "--limit", "8", "--json"]
    characters = len((folder / "b.txt").read_text())
    whole = ask(capsys, *arguments)
    assert (whole[2], json.loads(whole[1])["characters_read"]) == ("", characters)
    monkeypatch.setattr(passages, "MOST_READ", 1000)
    code, out, err = ask(capsys, *arguments)
    assert (code, err) == (0, f"passages are drawn from the first 1,000 of {characters:,} characters\n")
    assert json.loads(out)["characters_read"] == 1000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no text"),
        (["short.txt"], 3, f"8 texts of at least {LEAST_TOKENS} tokens are needed; the number given is 0."),
        (["b.txt", "--limit", "4"], 2, "8 texts are needed; the number given is 4.\n  Give more texts, or a file and"),
        (["b.txt", "The cat", "--limit", "6", "-m", "nothing"], 2, "8 texts are needed; the number given is 7."),
        (["The cat"], 2, "8 texts are needed; the number given is 1."),
        (["b.txt", "The cat", "--limit", "7"], 3, "must have from 10 to 96"),
        (["b.txt", "--limit", "0"], 2, "--limit is 0"),
    ],
)
def test_an_error_has_at_most_two_lines(folder, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(folder)
    if code == 2:  # refused before a model is loaded
        monkeypatch.setattr("attncli.cli.bodies.faithful.load", None)
    found, out, err = ask(capsys, "faithful", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 2
