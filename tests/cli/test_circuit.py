"""The group attncli circuit: its help, and commands from prompts to screens and files."""

import json
import re

import numpy as np
import pytest
from typer.main import get_command

from attncli.circuits import defaults
from attncli.cli.main import app
from attncli.render.circuit_ends import doubt_lines
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import write_random_model, write_random_translator
from tests.support.commands import ask
from tests.support.models import FAMILIES

COMMANDS = get_command(app).commands["circuit"].commands
PROMPTS = ["a red cat", "a fed cot"]
NAMED = ["--target", "#40", "--against", "#41"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder / "m", byte_tokenizer(), **FAMILIES["gpt2"])
    return str(folder / "m")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_sentence_and_two_examples(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for page in ("--help", "--help-all"):
        code, out, _ = ask(capsys, "circuit", name, page)
        assert code == 0
        assert out.count(f"\n  attncli circuit {name}") == 2
        assert max(map(len, out.splitlines())) <= 80
        assert page == "--help-all" or len(out.splitlines()) <= 44
    assert COMMANDS[name].help.strip().split("\n\n")[0].endswith(".")


def test_the_group_lists_its_commands_and_suggests_options(capsys):
    for words in ([], ["--help"], ["help"]):
        code, out, _ = ask(capsys, "circuit", *words)
        assert code == 0
        assert re.findall(r"^  (\w+)  ", out.split("Commands")[1], re.MULTILINE) == list(COMMANDS)
    code, _, error = ask(capsys, "circuit", "find", "--tsk", "induction")
    assert code == 2
    assert "--task" in error


def test_patch_writes_a_screen_a_document_and_arrays(model, capsys, tmp_path):
    words = ["circuit", "patch", *PROMPTS, "-m", model, *NAMED]
    code, out, _ = ask(
        capsys, *words, "--at", "mlp", "--npz", str(tmp_path / "a.npz"), "--svg", str(tmp_path / "a.svg")
    )
    assert code == 0
    assert "The output of the MLP" in out
    arrays = np.load(tmp_path / "a.npz")
    assert arrays["mlp"].shape == (3, 9)
    code, out, _ = ask(capsys, *words, "--json", "--direction", "noising")
    assert json.loads(out)["shares"].keys() == {"residual", "head"}


def test_find_and_compose_and_tasks_and_why_print_documents(model, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "PAIRS", 1)
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"clean": PROMPTS[0], "corrupt": PROMPTS[1], "target": "#40", "against": "#41"}) + "\n"
    )
    code, out, error = ask(
        capsys, "circuit", "find", "--pairs", str(tmp_path / "pairs.jsonl"), "-m", model, "--keep", "0.5", "--json",
        "--npz", str(tmp_path / "b.npz"),
    )  # fmt: skip
    assert code == 0
    assert "patched runs, about" in error
    found = json.loads(out)
    assert found["method"] == "exact"
    assert found["curve"]["faithfulness"][-1] == pytest.approx(1, abs=1e-3)  # float32, of a small difference of logits
    assert len(np.load(tmp_path / "b.npz")["effects"]) == found["edges"]
    code, out, _ = ask(
        capsys,
        "circuit",
        "find",
        *PROMPTS,
        *NAMED,
        "-m",
        model,
        "--method",
        "eap",
        "--no-prune",
        "--graph",
        str(tmp_path / "graph.svg"),
    )
    assert code == 0
    assert "output" in (tmp_path / "graph.svg").read_text()
    assert "EAP: one gradient" in out
    code, out, _ = ask(capsys, "circuit", "why", PROMPTS[0], "-m", model, "--head", "2.1", "--edge", "8:cat", "--json")
    assert code == 0
    assert json.loads(out)["source"] == 8
    code, out, _ = ask(capsys, "circuit", "compose", "-m", model, "--no-check", "--json")
    assert code == 0
    assert len(json.loads(out)["key"]) == 48
    code, out, _ = ask(capsys, "circuit", "tasks", "-m", model, "--task", "induction", "--count", "1", "--json")
    assert code == 0
    assert json.loads(out)["tasks"][0]["task"] == "induction"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["find"], "Give two prompts"),
        (["find", "a"], "Give two prompts"),
        (["find", "a", "b", "--task", "induction"], "Give two prompts"),
        (["find", "--task", "induction", "--target", "#4"], "own answers"),
        (["find", "a", "b", "--graph", "g.png"], "does not end in .svg"),
        (["why", "a red cat"], "--head is missing"),
        (["why", "a red cat", "--head", "2.9"], "no head 9"),
        (["why", "a red cat", "--head", "2.1", "--edge", "3"], "not an edge"),
        (["patch", "a cat", "a cats"], "--align word"),
    ],
)
def test_mistakes_are_named(words, told, model, capsys):
    code, _, error = ask(capsys, "circuit", *words, "-m", model)
    assert code in (2, 3)
    assert told in error


def test_edges_of_an_encoder_decoder_are_refused_and_its_encoder_is_patched(tmp_path, capsys):
    write_random_translator(tmp_path / "t", byte_tokenizer())
    code, _, error = ask(capsys, "circuit", "find", *PROMPTS, "-m", str(tmp_path / "t"))
    assert code == 2
    assert "encoder-decoder" in error
    code, out, _ = ask(capsys, "circuit", "patch", *PROMPTS, *NAMED, "-m", str(tmp_path / "t"))
    assert code == 0
    assert "of the encoder" in out


def test_by_token_of_pairs_with_different_lengths_is_said_to_show_nothing(model, capsys, tmp_path):
    pairs = [PROMPTS, ["a cat", "a cot"]]
    lines = [json.dumps({"clean": one, "corrupt": two, "target": "#40", "against": "#41"}) for one, two in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    words = ["--pairs", str(tmp_path / "pairs.jsonl"), "-m", model, "--method", "eap", "--no-prune", "--by-token"]
    code, _, error = ask(capsys, "circuit", "find", *words)
    assert code == 0
    assert "--by-token shows nothing" in error


@pytest.mark.parametrize(
    ("clean", "corrupt", "compares", "told"),
    [
        (2.0, -1.0, True, ""),
        (2.0, 1.0, False, ""),
        (1.0, 2.0, False, "exchange the prompts"),
        (-1.0, -2.0, True, "does not do this task"),
        (2.0, 1.0, True, "only a part"),
    ],
)
def test_a_run_that_does_not_have_the_answer_is_told(clean, corrupt, compares, told):
    lines = [line.plain for line in doubt_lines(clean, corrupt, 40, compares=compares)]
    assert told in " ".join(lines)
    assert bool(lines) == bool(told)
    assert all(len(line) <= 40 for line in lines)
