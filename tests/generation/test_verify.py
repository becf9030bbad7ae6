"""--verify executes every way of generating, and a fault in one way appears in the row of that way."""

import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli.main import run
from attncli.config import SampleConfig
from attncli.generation.engine import EngineConfig, generate
from attncli.generation.events import Check, Difference, Sample
from attncli.generation.samples import SampleCollector
from attncli.generation.verify import Original, _windows, as_float32, compare_logits, verify
from attncli.model import native
from attncli.model.backend import TorchBackend
from attncli.model.device import dtype_name
from attncli.render.verify import verification_document, verification_head, verification_legend, verification_row
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE, story

TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
MODEL = tiny_model(vocab_size=320, context=24, layers=2)  # more rows than tokens
PROMPTS = [[5, 6, 7], [9, 8]]
CONFIG = SampleConfig(temperature=0.9, min_p=0.0, num_samples=2, seed=2**63 - 5, max_new_tokens=30)
REPEATING = SampleConfig(temperature=0, max_new_tokens=20)
WAYS = ["alone", "batch", "uncached", "guesses", "decoded", "threads", "pytorch"]


class Prefixes(dict):
    """The tokens that each sequence has read."""

    nbytes = 0

    def copy(self, source, target, length):
        self[target] = self[source][:length]


@cache
@torch.inference_mode()
def logits_after(model, ids):
    """Returns the logits after a prefix that is read alone.

    They are cached, because several checks read equal prefixes.
    """
    return model(torch.tensor([ids]))[0, -1]


class RowByRow:
    """A backend that is exact because it reads every prefix alone. It errs where `wrong` returns True."""

    exact = True
    device = torch.device("cpu")

    def __init__(self, model=MODEL, wrong=lambda segment, segments: False):
        self.model, self.config, self.wrong = model, model.config, wrong
        self.types, self.description = TorchBackend(model).types, "row by row"
        self.prefixes = []

    def new_cache(self, sequences, positions=1):
        return Prefixes()

    def read(self, cache, segments):
        rows = []
        for segment in segments:
            read = cache[segment.sequence] = [*cache.get(segment.sequence, [])[: segment.start], *segment.ids]
            assert len(read) == segment.end
            for end in range(segment.end - segment.logit_count + 1, segment.end + 1):
                self.prefixes.append(read[:end])
                logits = logits_after(self.model, tuple(read[:end]))
                rows.append(logits.roll(1) if self.wrong(segment, segments) else logits)
        return torch.stack(rows)


def generation(config=CONFIG, prompts=PROMPTS, backend=None, how=None):
    end_ids = frozenset({TOKENIZER.end_of_text})
    kept = SampleCollector()
    events = generate(backend or RowByRow(), TOKENIZER, prompts, config, end_ids, how=how or EngineConfig())
    assert sum(1 for _ in kept.collect(events))
    return Original(TOKENIZER, prompts, config, end_ids, kept.samples)


def checks(made, backend, pytorch=None, on_threads=None):
    found = list(verify(made, backend, pytorch or TorchBackend(backend.model), on_threads or (lambda count: backend)))
    assert [check.name for check in found] == WAYS
    return found


def test_an_exact_backend_gives_the_same_in_every_way():
    made = generation()
    assert len({one.ids for one in made.samples}) == 4
    for check in checks(made, RowByRow()):
        assert (check.differing, check.difference) == (0, None)
        assert (check.samples, check.tokens) == (4, sum(len(one.ids) for one in made.samples))
        assert check.required == (check.name != "pytorch")
        assert check.batch == (10 if check.name == "batch" else None)
        assert check.threads == ((1, 2) if check.name == "threads" else None)


def test_guesses_are_counted():
    made = generation(REPEATING, [[5, 6, 7, 5, 6, 7]])
    (found,) = (check for check in checks(made, RowByRow()) if check.name == "guesses")
    assert found.guesses
    assert found.differing == 0


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda segment, segments: len(segments) == 1 and segment.end > 8, {"alone", "guesses"}),
        (lambda segment, segments: len(segments) == 2 and segment.end > 8, {"uncached", "threads"}),
        (lambda segment, segments: len(segments) > 2 and segment.end > 8, {"batch"}),
        (lambda segment, segments: segment.start == 0 and segment.end > 8, {"uncached"}),
        (lambda segment, segments: segment.logit_count > 1, {"guesses"}),
    ],
)
def test_a_faulty_backend_fails_the_checks_that_use_the_fault(wrong, expected):
    made = generation(replace(REPEATING, max_new_tokens=16), [[5, 6, 7, 5, 6, 7], [8, 9, 8, 9, 8, 9]])
    assert {len(one.ids) for one in made.samples} == {16}
    failing = [check for check in checks(made, RowByRow(wrong=wrong), RowByRow()) if check.required and check.fails]
    assert {check.name for check in failing} == expected
    for check in failing:
        first = check.difference
        assert made.samples[first.sample].ids[first.token] == first.expected != first.found
        assert first.token == 3 or expected == {"guesses"}  # the first token that is drawn from more than eight tokens


def test_another_number_of_threads_that_differs_is_found_whichever_it_is():
    made, other = generation(), RowByRow(tiny_model(1, vocab_size=320, context=24, layers=2))
    for wrong in (1, 2):
        found = checks(made, RowByRow(), on_threads=lambda count, wrong=wrong: other if count == wrong else RowByRow())
        assert [check.name for check in found if check.fails] == ["threads"]
        assert found[-2].differing == 4


def test_pytorch_may_differ_and_its_logits_are_compared_token_by_token():
    made, other = generation(), tiny_model(1, vocab_size=320, context=24, layers=2)
    found = checks(made, RowByRow(), TorchBackend(other))[-1]
    assert (found.differing, found.required, found.logits_differ, found.fails) == (4, False, True, True)
    largest = 0.0
    with torch.no_grad():
        for at, one in enumerate(made.samples):
            window = list(PROMPTS[at // 2])
            for id_ in one.ids:
                ours, theirs = (logits_after(model, tuple(window))[:300] for model in (MODEL, other))
                largest = max(largest, float((ours - theirs).abs().max()))
                window.append(id_)
                window = window[-12:] if len(window) > 24 else window
    assert found.logit_difference == pytest.approx(largest, rel=1e-5)
    same = checks(made, RowByRow())[-1]
    assert same.logit_difference < 1e-4 < same.logit_tolerance
    assert not same.fails


def test_logits_that_are_no_numbers_differ_without_limit():
    broken = tiny_model(vocab_size=320, context=24)
    with torch.no_grad():
        broken.norm.weight[0] = math.nan
    assert compare_logits(generation(), RowByRow(), RowByRow(broken))[0] == math.inf


@settings(deadline=None, max_examples=40)
@given(prompt=st.integers(1, 8), count=st.integers(1, 40), context=st.sampled_from([1, 2, 3, 8]))
def test_the_windows_are_those_that_the_engine_reads(prompt, count, context):
    ids = [10 + at % 7 for at in range(min(prompt, context))]
    backend = RowByRow(tiny_model(vocab_size=320, context=context, layers=1))
    config = SampleConfig(temperature=1, seed=count, max_new_tokens=count)
    kept = SampleCollector()
    list(kept.collect(generate(backend, TOKENIZER, [ids], config, frozenset(), how=EngineConfig(cached=False))))
    read = [
        tokens[: len(tokens) - wanted + at + 1]
        for tokens, wanted in _windows(ids, kept.samples[0].ids, context)
        for at in range(wanted)
    ]
    assert read == backend.prefixes


def test_decoding_at_once_heeds_stops_ends_and_parts_of_characters():
    text = "the cat sat. naïve 東京 🎉 and then"
    ids = (*TOKENIZER.encode(text), TOKENIZER.end_of_text)
    config = replace(CONFIG, num_samples=1, stop=("🎉", "京 🎉"))
    made = Original(TOKENIZER, [[1]], config, frozenset({TOKENIZER.end_of_text}), [Sample(ids, "")])
    assert made.redecode() == [Sample(ids, "the cat sat. naïve 東")]
    plain = replace(made, config=replace(config, stop=()))
    assert plain.redecode() == [Sample(ids, text)]
    cut = replace(plain, samples=[Sample(ids, text.replace("東", "x"))])
    found = next(check for check in verify(cut, RowByRow(), RowByRow()) if check.name == "decoded")
    at = found.difference.token
    assert found.fails
    assert found.difference.expected == found.difference.found == ids[at]
    assert "東" in TOKENIZER.decode(ids[: at + 1])
    assert "東" not in TOKENIZER.decode(ids[:at])


def test_text_that_ended_earlier_differs_at_its_end():
    made = generation(REPEATING, [[5, 6]])
    shorter = replace(made, samples=[Sample(made.samples[0].ids[:7], "")])
    found = next(verify(shorter, RowByRow(), RowByRow()))
    assert found.difference == Difference(0, 7, None, made.samples[0].ids[7])


def test_with_pytorch_only_the_decoding_must_be_equal():
    backend = TorchBackend(MODEL)
    made = generation(replace(CONFIG, max_new_tokens=12), backend=backend)
    found = list(verify(made, backend, backend))
    assert [check.name for check in found if check.required] == ["decoded"]
    assert "threads" not in [check.name for check in found]


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
def test_pytorch_has_the_weights_that_the_backend_has(dtype, int8, family):
    model = tiny_model(dtype=dtype, vocab_size=320, context=24, **family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wide = as_float32(model, int8=int8)
    assert (wide is model) == (dtype == torch.float32 and not int8)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if not native.available():
        return
    backend = native.NativeBackend(model, int8=int8)
    made = generation(replace(CONFIG, max_new_tokens=8), backend=backend)
    difference = compare_logits(made, backend, TorchBackend(wide))[0]
    assert difference < 1e-3
    if int8:  # the weights that are not quantized are other weights
        assert compare_logits(made, backend, TorchBackend(as_float32(model)))[0] > 10 * difference


# The screen

BASE = Check(name="alone", required=True, samples=1, tokens=30, differing=0, difference=None)
OFF = replace(BASE, differing=1, difference=Difference(0, 11, 7, 9))
TEXTS = {7: " the", 9: " a"}
ROWS = [
    (BASE, "  each alone           same"),
    (replace(BASE, name="batch", batch=4), "  in a batch of 4      same"),
    (replace(BASE, name="guesses", guesses=0), "  guessing ahead       same  nothing to guess"),
    (replace(BASE, name="guesses", guesses=12), "  guessing ahead       same  12 tokens guessed"),
    (replace(BASE, name="threads", threads=(1, 8)), "  on 1 and 8 threads   same"),
    (OFF, "  each alone           from token 12 on  ␣a, not ␣the"),
    (
        replace(OFF, samples=3, difference=Difference(1, 11, None, 9)),
        "  each alone           from token 12 on  ␣a, not the end  1 of 3 samples\n    sample 2",
    ),
    (
        replace(OFF, name="pytorch", required=False, logit_difference=1.234e-6),
        "  PyTorch, float32     from token 12 on  ␣a, not ␣the  logits within 1.2e-06",
    ),
]


@pytest.mark.parametrize(("check", "expected"), ROWS)
def test_a_verification_row(check, expected):
    assert verification_row(check, TEXTS.get, 80).plain == expected


def test_a_difference_in_a_required_check_is_red():
    assert "bold red" in str(verification_row(OFF, TEXTS.get, 80).spans)
    assert "red" not in str(verification_row(replace(OFF, required=False), TEXTS.get, 80).spans)


@settings(deadline=None, max_examples=50)
@given(width=st.integers(40, 120), text=st.sampled_from([HOSTILE, "東京" * 20, "\N{REPLACEMENT CHARACTER}", ""]))
def test_the_screen_fits_and_is_harmless(width, text):
    rows = [replace(check, tokens=10**6, samples=1000, differing=999) for check, _ in ROWS]
    drawn = "\n".join(
        shown(part, width)
        for part in (
            verification_head(width),
            *(verification_row(check, lambda id_: text, width) for check in rows),
            verification_legend(rows, False, width),
        )
    )
    assert harmless(drawn)
    assert widest(drawn) <= width


def test_the_legend_gives_the_reasons_for_differences():
    differing = replace(OFF, name="pytorch", required=False, logit_difference=0.5)
    assert "in another order" not in verification_legend([BASE], True, 80).plain
    assert "in another order" in verification_legend([BASE, differing], True, 80).plain
    assert "batch size" not in verification_legend([BASE, differing], True, 80).plain
    assert "batch size" in verification_legend([BASE, differing], False, 80).plain


def test_every_key_is_on_the_page_and_every_number_is_one():
    checks = [OFF, replace(BASE, name="pytorch", logit_difference=math.inf), replace(BASE, threads=(1, 2))]
    document = json.loads(json.dumps(verification_document(checks, True), allow_nan=False))
    assert document["holds"] is False
    assert document["checks"][0]["first_difference"] == {"sample": 0, "token": 11, "expected": 7, "found": 9}
    assert document["checks"][1]["logit_difference"] is None
    assert document["checks"][2]["threads"] == [1, 2]
    page = (Path(__file__).parent.parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", page))
    assert {*document, *document["checks"][0], *document["checks"][0]["first_difference"]} <= explained
    assert verification_document([replace(OFF, required=False)], True)["holds"] is True


# The command


@pytest.fixture
def at_model(tmp_path, monkeypatch):
    """Makes a folder with a random model the working directory."""
    weights = tiny_model(vocab_size=300, context=64)
    folder = tmp_path / "checkpoints" / "tiny"
    write_checkpoint(folder, Checkpoint(weights.config, weights.state_dict(), TOKENIZER, start_of_text=1))
    monkeypatch.chdir(tmp_path)


def test_the_command_shows_the_text_then_the_table(at_model, capsys):
    arguments = ["generate", "The cat", "-n", "12", "-s", "3", "--num-samples", "2"]
    assert run(arguments) == 0
    plain = capsys.readouterr().out
    assert run([*arguments, "--verify"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(plain + "\nGenerated again in other ways\n  each alone           same\n")
    assert run([*arguments, "--verify", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verify"]["holds"] is True
    assert document["verify"]["exact"] == native.available()
    assert [check["name"] for check in document["verify"]["checks"]] == [
        way for way in WAYS if way != "threads" or native.available()
    ]


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_text_that_is_not_the_same_is_a_failure(more, at_model, capsys, monkeypatch):
    read = native.NativeBackend.read

    def wrong(self, cache, segments):
        logits = read(self, cache, segments)
        return logits.roll(1, -1) if len(segments) == 5 else logits

    monkeypatch.setattr(native.NativeBackend, "read", wrong)
    code = run(["generate", "The cat", "-n", "12", "-t", "0.3", "-s", "3", "--num-samples", "2", "--verify", *more])
    captured = capsys.readouterr()
    assert code == 1
    assert "error: The text differs in 1 of 7 checks: in a batch of 5.\n" in captured.err
    assert "Traceback" not in captured.err
    if more:
        assert json.loads(captured.out)["verify"]["holds"] is False
    else:
        assert re.search(r"in a batch of 5 +from token \d on", captured.out)


@pytest.mark.usefixtures("in_c")
def test_logits_further_apart_than_rounding_are_a_failure_though_the_text_is_the_same(at_model, capsys, monkeypatch):
    read = native.NativeBackend.read
    monkeypatch.setattr(native.NativeBackend, "read", lambda self, *given: read(self, *given) + 0.36)
    assert run(["generate", "The cat", "-n", "12", "-s", "3", "--verify"]) == 1
    captured = capsys.readouterr()
    assert re.search(
        r"The logits differ from those of PyTorch by 0\.36, and rounding explains at most 0\.0", captured.err
    )
    assert re.search(r"PyTorch, float32 +same  logits 0\.36 apart, at most 0\.\d+ is rounding", captured.out)
