"""The plan and the reports of a run as plain lines."""

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from attncli.render.training import TrainingScreen, plan_table, translation_text
from attncli.training.reports import Translation
from tests.support.explanations import GOLDEN_FINDINGS
from tests.support.first_screens import explained
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE
from tests.support.training import PLAN, reports

# Training


@pytest.mark.parametrize("width", [40, 80])
def test_a_plan_fits_and_shows_the_model_the_steps_the_time_and_the_memory(width):
    drawn = shown(plan_table(PLAN, HOSTILE, f"{HOSTILE} 1.1 MB"), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    said = " ".join(drawn.split())
    for fact in (
        "124M parameters: 12 layers x 12 heads, width 768 (for 5 minutes on this machine)",
        "vocabulary 50,257",
        "5m 00s: about 1,830 steps, 15M tokens, 30.0 epochs, 0.1 tokens per parameter",
        "8 windows of 1024 tokens, in 2 parts",
        "Muon at 0.03 on matrices, AdamW at 0.003 on the rest",
        "weight decay 0.1, dropout 0.1, seed 1 (the text is seen 30.0 times)",
        "cpu, float32",
        "about 120 ms a step, 123.5 MB of memory",
    ):
        assert fact in said
    early = " ".join(shown(plan_table(replace(PLAN, most_steps=1830), "stories", "text"), width).split())
    assert "at most 5m 00s: about 1,830 steps" in early
    steps = " ".join(shown(plan_table(replace(PLAN, seconds=None), "stories", "text"), width).split())
    assert "training about 3m 42s: 1,830 steps, 15M tokens" in steps
    slow = replace(PLAN, seconds=None, compiled=True, step_seconds=14.5)
    steps = " ".join(shown(plan_table(slow, "stories", "text"), width).split())
    assert "training up to 7h 22m: 1,830 steps" in steps
    assert "about 14.50 s a step" in steps


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_reason_is_beside_its_setting(width):
    reasons = {"size": "because S", "context": "because C", "steps": "because T", "dropout": "because D", "odd": "no"}
    drawn = shown(plan_table(replace(PLAN, reasons=reasons), "stories", "text"), width)
    rows = re.split(r"^(?=\w)", drawn, flags=re.MULTILINE)
    beside = {row.split()[0]: re.findall(r"because (\w)", " ".join(row.split())) for row in rows if row}
    assert beside == {
        "Training": [], "text": [], "model": ["S"], "tokens": [], "training": ["T"], "step": ["C"], "rates": [],
        "recipe": ["D"], "machine": [], "needs": [],
    }  # fmt: skip


@pytest.mark.parametrize("environment", [None, {"TERM": "dumb"}])
def test_without_a_terminal_each_evaluation_and_sample_is_a_line(environment):
    console = Console(
        file=io.StringIO(), width=200, force_terminal=environment is not None, color_system=None, markup=False,
        _environ=environment or {},
    )  # fmt: skip
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 24
    assert re.fullmatch(
        r"step 25/300  25s  train 4\.\d{3} \(\d\.\d{3}\)  val 4\.\d{3} nats/token \(\d\.\d{3} bits/byte\)  "
        r"15\.7k tok/s  best",
        lines[0],
    )
    assert lines[1].startswith("  writes  ROMEO: ␛[2J␛]52;c;aGk=␇")
    assert cell_len(lines[1]) <= 80
    assert harmless("\n".join(lines))


def test_the_line_of_suggestions_names_as_many_options_as_fit():
    def last(width):
        return explained(GOLDEN_FINDINGS, width).rstrip().split("\n")[-1].rstrip()

    assert last(79) == "More: --token 2 · --head 1.0 · --view grid · --view logit · --view lens"
    assert last(120).endswith("--json · --view steps · --view rollout")
    assert last(40) == "More: --token 2 · --head 1.0 · --json"


def test_a_translation_without_text_is_called_empty():
    assert translation_text(Translation("A dog runs.", "", "Ein Hund rennt.")) == "A dog runs. → (empty)"
    assert translation_text(Translation("A dog runs.", "Ein", "Ein Hund rennt.")) == "A dog runs. → Ein"
