"""The commands as a user meets them: real runs on small text, bad input, signals, pipes."""

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from attncli.checkpoint import directory
from attncli.cli import clock, finding
from attncli.cli.main import run
from attncli.cli.options import parse_count, parse_seconds
from tests.support.commands import QUICK, ask, start
from tests.support.texts import story


def test_train_plans_reports_and_sums_up(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(3000))
    code, out, err = ask(capsys, "train", "story.txt", *QUICK)
    assert code == 0
    for figure in ("nats per token", "bits per byte", "nats per character", "checkpoints/story", "A sample"):
        assert figure in out
    for line in ("Training checkpoints/story", "step 30/30", "attncli generate -m story", "attncli explain -m story"):
        assert line in err
    assert {path.name for path in Path("checkpoints").iterdir()} == {"story"}


def test_train_json_is_the_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(3000))
    code, out, _ = ask(capsys, "train", "story.txt", *QUICK, "--json", "--out", "here")
    document = json.loads(out)
    assert code == 0
    assert (document["path"], document["steps"], document["finished"]) == ("here", 30, True)
    assert document["validation"]["bits_per_byte"] > 0


def test_a_name_that_is_taken_is_not_overwritten(at_home, capsys):
    before = (at_home / "checkpoints/story/manifest.json").read_bytes()
    code, _, err = ask(capsys, "train", "story.txt", *QUICK)
    assert code == 2
    assert all(word in err for word in ("exists", "--name", "--force"))
    assert "--resume" not in err  # it has finished
    assert (at_home / "checkpoints/story/manifest.json").read_bytes() == before


def test_force_replaces_a_model_and_nothing_else(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text((home / "story.txt").read_text())
    for _ in range(2):
        assert ask(capsys, "train", "story.txt", *QUICK, "--out", "m", "--force")[0] == 0
        Path("m/README.md").write_text("a model card")
    assert ask(capsys, "train", "story.txt", *QUICK, "--out", "m", "--force")[0] == 0
    assert Path("m/README.md").read_text() == "a model card"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    Path("file").write_text("mine too")
    for place in ("mine", "file"):
        code, _, err = ask(capsys, "train", "story.txt", *QUICK, "--out", place, "--force")
        assert code == 2
        assert place in err
    assert Path("mine/thesis.txt").read_text() == "years of work"
    assert Path("file").read_text() == "mine too"
    Path("m/notes.txt").write_text("kept")
    assert ask(capsys, "train", "story.txt", *QUICK, "--out", "m", "--force")[0] == 2
    assert Path("m/notes.txt").read_text() == "kept"


def test_a_folder_of_text_does_not_hide_the_model_made_from_it(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes/a.txt").write_text((home / "story.txt").read_text())
    assert ask(capsys, "train", "notes", *QUICK)[0] == 0
    assert ask(capsys, "generate", "The", "-m", "notes", "-n", "2", "-t", "0")[0] == 0


def test_generate_is_a_function_of_the_seed(at_home, capsys):
    texts = [ask(capsys, "generate", "The cat", "-n", "30", "--seed", seed)[1] for seed in "112"]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The cat")
    assert ask(capsys, "generate", "The cat", "-n", "30", "--seed", "1", "--no-stream")[1] == texts[0]


def test_generate_draws_and_tells_its_seed(at_home, capsys):
    _, out, err = ask(capsys, "generate", "The cat", "-n", "20")
    seed = err.split("seed ")[1].split()[0]
    assert ask(capsys, "generate", "The cat", "-n", "20", "--seed", seed)[1] == out


def test_greedy_needs_no_seed_and_samples_are_numbered(at_home, capsys):
    _, out, err = ask(capsys, "generate", "The cat", "-n", "5", "-t", "0", "--num-samples", "2")
    assert "seed" not in err
    first, second = out.split("── sample 1 ──")[1].split("── sample 2 ──")
    assert first.strip() == second.strip()


def test_generate_past_the_context_says_so_once(at_home, capsys):
    _, out, err = ask(capsys, "generate", "The cat", "-n", "120", "--seed", "1")
    assert err.count("past the context of 32 tokens: went on from the most recent 16") == 1
    assert len(out) > 120


def test_generate_json_has_everything(at_home, capsys):
    code, out, _ = ask(
        capsys, "generate", "The", "-n", "8", "--seed", "3", "--num-samples", "2", "--stop", "zzz", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["prompt"] == "The"
    assert document["settings"]["seed"] == 3
    assert [len(sample["ids"]) for sample in document["samples"]] == [8, 8]
    assert {sample["finish_reason"] for sample in document["samples"]} == {"length"}


def test_generate_bans_what_it_is_told_to_ban(at_home, capsys):
    greedy = ("generate", "The cat", "-n", "1", "-t", "0", "--json")
    (first,) = json.loads(ask(capsys, *greedy)[1])["samples"][0]["ids"]
    code, out, _ = ask(capsys, *greedy, "--logit-bias", f"#{first}=-inf", "--logit-bias", "a=0.5")
    document = json.loads(out)
    assert code == 0
    assert document["samples"][0]["ids"] != [first]
    assert document["settings"]["logit_bias"][0] == {"id": first, "bias": "-inf"}
    assert document["settings"]["logit_bias"][1]["bias"] == 0.5


def test_generate_tells_of_every_token(at_home, capsys, monkeypatch):
    greedy = ("generate", "The cat", "-n", "4", "-t", "0", "--stop", "zzz")
    plain = ask(capsys, *greedy)[1]
    document = json.loads(ask(capsys, *greedy, "--logprobs", "2", "--trace", "--json")[1])
    (sample,) = document["samples"]
    assert [token["id"] for token in sample["tokens"]] == sample["ids"]
    for token in sample["tokens"]:
        assert token["top"][0] == {key: token[key] for key in ("id", "text", "logprob")}
        assert token["trace"]["probability"] == 1
        assert [step["name"] for step in token["trace"]["steps"]] == ["model", "temperature"]
    for width in ("40", "80", "120"):
        monkeypatch.setenv("COLUMNS", width)
        for report, mark in ((("--trace",), "drawn at 100%"), (("--logprobs", "3"), " -")):
            code, out, err = ask(capsys, *greedy, *report)
            assert (code, err) == (0, "")
            assert out.endswith("\n\n" + plain)
            assert out.count(mark) >= 4
            assert max(map(cell_len, out.removesuffix(plain).split("\n"))) <= int(width)


def test_generate_colors_a_terminal_and_says_why_nothing_else(at_home, capsys, monkeypatch):
    greedy = ("generate", "The cat", "-n", "9", "-t", "0")
    plain = ask(capsys, *greedy)[1]
    code, out, err = ask(capsys, *greedy, "--color")
    assert (code, out) == (0, plain)
    assert "no colours: standard output is no terminal" in err
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    code, out, err = ask(capsys, *greedy, "--color")
    assert "48;2;" in out
    assert "surprise in bits" in out
    assert "no colours" not in err
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, err = ask(capsys, *greedy, "--color")
    assert "48;2;" not in out
    assert "NO_COLOR is set" in err


def test_generate_continues_every_line_of_a_file_as_if_it_were_alone(at_home, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the king\nOnce upon a time\n\nthe king\n")
    options = ["--seed", "3", "-n", "12", "--num-samples", "2", "--jsonl"]
    code, out, err = ask(capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"), *options)
    records = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(one["index"], one["sample"]) for one in records] == [(i, i % 2) for i in range(8)]
    assert [one["prompt"] for one in records[::2]] == ["the king", "Once upon a time", "", "the king"]
    for prompt, pair in (("the king", records[:2]), ("Once upon a time", records[2:4]), ("the king", records[6:])):
        _, out, _ = ask(capsys, "generate", prompt, *options[:-1], "--json")
        alone = json.loads(out)["samples"]
        assert [one["ids"] for one in alone] == [one["ids"] for one in pair]
        assert [one["text"] for one in alone] == [one["text"] for one in pair]
    code, out, _ = ask(capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"), "-n", "3", "--seed", "1")
    assert [line for line in out.splitlines() if line.startswith("──")] == [f"── prompt {i} ──" for i in (1, 2, 3, 4)]


def test_a_prompt_of_a_file_that_is_too_long_is_named(at_home, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the king\n" + "the king " * 40 + "\n")
    code, _, err = ask(capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"))
    assert code == 3
    assert "prompts.txt, line 2: The prompt has" in err


def test_how_generate_goes_about_it_changes_no_text(at_home, capsys):
    same = ["generate", "the king", "--seed", "7", "-n", "40", "--repetition-penalty", "1.2", "--no-stream"]
    _, expected, _ = ask(capsys, *same)
    for how in ("--no-cache", "--lookup", "--no-lookup", "--stats", "--stream"):
        code, out, err = ask(capsys, *same, how)
        assert (code, out) == (0, expected), how
        assert ("tokens, " in err and " a second" in err) == (how == "--stats")


def test_generate_says_how_fast_it_went(at_home, capsys):
    _, out, err = ask(capsys, "generate", "the king", "-n", "20", "--seed", "1", "--stats", "--json")
    found = json.loads(out)["throughput"]
    assert found["prompt_tokens"] == len(json.loads(ask(capsys, "tokenize", "the king", "--json")[1])["tokens"])
    assert (found["new_tokens"], found["later_tokens"]) == (20, 19)
    assert found["rate"] == pytest.approx(19 / found["later_seconds"])
    assert 0 < found["prompt_seconds"] < found["first_token_seconds"]
    assert "20 tokens, " in err
    assert " a second · " in err


@pytest.mark.parametrize("view", [[], ["--view", "steps"], ["--plain"]])
def test_no_head_is_the_busiest_for_the_first_token_which_sees_no_other(at_home, capsys, view):
    code, out, _ = ask(capsys, "explain", "The small cat", "--token", "0", *view)
    assert (code, "Busiest" in out, "brings most" in out) == (0, False, False)
    assert "ead 0.0" in out


def test_the_time_to_the_first_token_is_that_of_its_own_command(at_home, monkeypatch, capsys):
    ask(capsys, "generate", "the king", "-n", "1", "--seed", "1")
    start_clock = clock.start

    def start_earlier():
        start_clock()
        clock.started -= 1000

    monkeypatch.setattr(clock, "start", start_earlier)
    found = json.loads(ask(capsys, "generate", "the king", "-n", "1", "--seed", "1", "--stats", "--json")[1])
    assert found["throughput"]["first_token_seconds"] > 1000


def test_generate_in_eight_bits_needs_the_library(at_home, monkeypatch, capsys):
    code, out, _ = ask(capsys, "generate", "the king", "-n", "20", "--seed", "1", "--dtype", "int8", "--json")
    assert code == 0
    assert len(json.loads(out)["samples"][0]["ids"]) == 20
    monkeypatch.setattr("attncli.model.native._functions", lambda: None)
    code, _, err = ask(capsys, "generate", "the king", "--dtype", "int8")
    assert code == 2
    assert "a C compiler" in err


def test_generate_continues_the_content_of_a_file(at_home, tmp_path, monkeypatch, capsys):
    """With the notes of the commands that look into a text; in a conversation too."""
    file, options = tmp_path / "begun.txt", ("-n", "8", "--seed", "1")
    file.write_text("the king\n")
    expected = ask(capsys, "generate", "the king", *options)[1]
    assert ask(capsys, "generate", str(file), *options)[:2] == (0, expected)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert ask(capsys, "generate", "-i", str(file), *options)[1].startswith(expected.rstrip("\n"))
    code, out, err = ask(capsys, "generate", "missing.txt", *options)
    assert (code, out.startswith("missing.txt")) == (0, True)
    assert "there is no file missing.txt, so this is taken as a text" in err
    assert "is a URL, which is not fetched" in ask(capsys, "generate", "https://a.org/b.txt", *options)[2]
    code, _, err = ask(capsys, "generate", str(tmp_path), *options)
    assert (code, "is a directory" in err) == (3, True)


def test_a_prompt_longer_than_the_context_is_truncated_where_that_is_asked_for(at_home, tmp_path, monkeypatch, capsys):
    long, greedy = "the cat sat " * 20 + "on the king", ("-n", "4", "-t", "0")
    code, _, err = ask(capsys, "generate", long, *greedy)
    assert (code, "--truncate" in err) == (3, True)
    code, out, err = ask(capsys, "generate", long, *greedy, "--truncate", "--json")
    kept = json.loads(out)["prompt"]
    assert (code, long.endswith(kept), len(kept) < len(long)) == (0, True, True)
    left_out, of = map(
        int, re.search(r"truncated the prompt: the first (\d+) of (\d+) tokens are left out", err).groups()
    )
    assert (of - left_out, left_out > 0) == (32, True)
    assert json.loads(ask(capsys, "generate", kept, *greedy, "--json")[1])["samples"] == json.loads(out)["samples"]
    (tmp_path / "prompts.txt").write_text(f"the king\n{long}\n")
    code, out, err = ask(
        capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"), *greedy, "--truncate", "--jsonl"
    )
    assert (code, "truncated 1 of 2 prompts; of line 2: the first" in err) == (0, True)
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["the king", kept]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{long}\n"))
    code, out, _ = ask(capsys, "generate", "-i", *greedy, "--truncate")
    assert (code, out.startswith(kept)) == (0, True)
    assert ask(capsys, "next", long)[0] == 3
    code, out, err = ask(capsys, "next", long, "--truncate", "--json")
    assert (code, json.loads(out)["text"], "truncated" in err) == (0, kept, True)


def test_generate_without_a_prompt_begins_a_text(at_home, capsys):
    code, out, _ = ask(capsys, "generate", "-n", "20", "--seed", "1")
    assert code == 0
    assert out.strip()


def test_explain_shows_bars_map_and_next_tokens(at_home, capsys):
    code, out, _ = ask(capsys, "explain", "The small cat sat near the river")
    assert code == 0
    for part in ("1 layer x 1 head", "get its information?", "Busiest head 0.0", "Next token", "temperature 1"):
        assert part in out
    assert max(map(len, out.splitlines())) <= 80


def test_explain_json_is_stable(at_home, capsys):
    _, out, _ = ask(capsys, "explain", "The small cat", "--token", "0", "--head", "0.0", "--weights", "raw", "--json")
    document = json.loads(out)
    assert list(document) == [
        "model",
        "layers",
        "heads",
        "tokens",
        "sources",
        "map",
        "temperature",
        "next_tokens",
        "checks",
    ]
    assert document["sources"]["shares"][0] == 1
    assert document["sources"]["weights"] == "raw"


@pytest.mark.parametrize("view", ["bars", "map", "grid", "steps", "lens", "logit", "rollout"])
def test_explain_has_views(view, at_home, capsys):
    code, out, err = ask(capsys, "explain", "The small cat sat near the river", "--token", "3", "--view", view)
    assert (code, err) == (0, "")
    assert "1 layer x 1 head" in out
    assert max(map(len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "explain", "The small cat", "--view", view, "--json")[1])
    assert document["tokens"][0]["text"] == "The"
    assert view == "bars" or document["view"] == view


def test_explain_checks_edges_unless_told_not_to(at_home, capsys):
    _, out, _ = ask(capsys, "explain", "The small cat sat near the river")
    assert "cut: P(" in out
    assert out.count("a random cut: ") == 1
    _, out, _ = ask(capsys, "explain", "The small cat sat near the river", "--no-check")
    assert "cut: " not in out


def test_explain_counts_words(at_home, capsys):
    _, out, _ = ask(capsys, "explain", "The small cat sat near the river", "--words", "--token", "cat", "--json")
    document = json.loads(out)
    assert [word["text"] for word in document["words"]] == [
        "The",
        *[" small", " cat", " sat", " near", " the", " river"],
    ]
    assert document["sources"]["focus"] == 2
    assert len(document["sources"]["shares"]) == 7


def test_explain_compares_weights(at_home, capsys):
    code, out, _ = ask(capsys, "explain", "The small cat sat near the river", "--compare-weights")
    assert code == 0
    assert "information" in out
    assert "raw weight" in out
    document = json.loads(ask(capsys, "explain", "The small cat", "--compare-weights", "--json")[1])
    assert document["checks"]["cuts"]
    assert json.loads(ask(capsys, "explain", "The small cat", "--no-check", "--json")[1])["checks"] is None


def test_explain_counts_a_logit_from_another(at_home, capsys):
    asked = ["explain", "The small cat", "--view", "logit", "--json", "--target", "#7", "--against", "#9"]
    document = json.loads(ask(capsys, *asked)[1])
    assert (document["target"]["id"], document["against"]["id"]) == (7, 9)
    assert abs(document["remainder"]) < 1e-3


def test_tokenize_and_decode_are_inverse(at_home, capsys):
    text = "The cat\u2028said: <|endoftext|> naïve 東京 🎉"
    _, ids, _ = ask(capsys, "tokenize", text, "--ids")
    assert ask(capsys, "tokenize", "--decode", ids)[1] == text + "\n"
    assert ask(capsys, "tokenize", "--decode", *ids.split())[1] == text + "\n"
    document = json.loads(ask(capsys, "tokenize", text, "--json")[1])
    assert [token["id"] for token in document["tokens"]] == [int(i) for i in ids.split()]
    assert document["bytes"] == len(text.encode())


def test_tokenize_reads_a_file_and_shows_totals(at_home, capsys):
    _, out, _ = ask(capsys, "tokenize", "story.txt")
    size = (at_home / "story.txt").stat().st_size
    assert f"{size:,} bytes" in out
    assert "characters per token" in out


def test_a_tokenizer_can_be_made_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(500))
    assert ask(capsys, "tokenize", "--train", "story.txt", "--vocab-size", "0.3k", "--out", "made")[0] == 0
    code, out, err = ask(capsys, "tokenize", "The cat", "-m", "made")
    assert (code, err) == (0, "")
    assert "made" in out
    code, _, err = ask(capsys, "tokenize", "--train", "story.txt", "--out", "made")
    assert code == 2
    assert "--force" in err


def test_tokenize_without_a_model_shows_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = ask(capsys, "tokenize", "é", "--ids")
    assert (code, out) == (0, "195 169\n")
    assert "no model yet" in err


def test_info_and_models_tell_what_is_there(at_home, capsys):
    _, out, _ = ask(capsys, "info", "story")
    assert all(
        part in out
        for part in ("feed-forward", "in attention", "cache per token", "trained on", "story.txt", "30 steps")
    )
    document = json.loads(ask(capsys, "info", "--json")[1])
    assert document["parameters"]["total"] == sum(
        v for k, v in document["parameters"].items() if k not in ("in_attention", "total")
    )
    assert "story ←" in ask(capsys, "models")[1]
    assert json.loads(ask(capsys, "models", "--json")[1])[0]["default"] is True


def test_gpt3_is_counted(capsys):
    assert "57,982,058,496" in ask(capsys, "info", "--preset", "gpt3")[1]


BAD = [
    (["train", "missing.txt"], 3, "no file missing.txt"),
    (["train", "empty.txt"], 3, "is empty"),
    (["train", "word.txt"], 3, "too short"),
    (["train", "folder"], 3, "directory without text"),
    (["train", "binary.txt"], 3, "byte 2 is 0x00"),
    (["train", "latin.txt"], 3, "byte 3 is 0xe9"),
    (["train"], 2, "no text to train on"),
    (["train", "story.txt", "--time", "soon"], 2, "not a time"),
    (["train", "story.txt", "./story.txt", "--name", "n"], 2, "story.txt is given more than once"),
    (["train", "story.txt", "--val-file", "./story.txt", "--name", "n"], 2, "learned by heart"),
    (["explain", "The cat", "-t", "inf", "--json"], 2, "not a finite number"),
    (["explain", "The cat", "--plain", "--compare-weights"], 2, "--plain has none"),
    (["explain", "The cat", "--view", "logit", "--target", "#" + "9" * 5000], 2, "not one token"),
    (["heads", "story", "-m", "other"], 2, "two models"),
    (["train", "story.txt", "--compile", "--no-compile", "--name", "n"], 2, "exclude one another"),
    (["train", "story.txt", "--time", "1m", "--steps", "3", "--name", "n"], 2, "each set the length"),
    (["train", "story.txt", "--size", "huge", "--name", "n"], 2, "not a size"),
    (["train", "story.txt", "--vocab-size", "12", "--name", "n"], 2, "from 257"),
    (["train", "story.txt", "--tokenizer", "word", "--name", "n"], 2, "not a kind of tokenizer"),
    (["train", "story.txt", "--name", "../n"], 2, "not a plain name"),
    (["train", "story.txt", "--name", ""], 2, "not a plain name"),
    (
        ["train", "story.txt", "--batch-size", "100M", "--size", "nano", "--steps", "1", "--name", "n"],
        4,
        "GB of memory",
    ),
    (["train", "", "--name", "n"], 2, "path of a text is empty"),
    (["train", "story.txt", "--val-file", "", "--name", "n"], 2, "path of a text is empty"),
    (["eval", ""], 2, "path of a text is empty"),
    (["eval", "story", ""], 2, "path of a text is empty"),
    (["eval", "", "story.txt"], 2, "path of a text is empty"),
    (["eval", "story.txt", "--train-file", ""], 2, "path of a text is empty"),
    (["generate", "a", "--prompts", "story.txt"], 2, "There is a prompt, and a file of prompts"),
    (["generate", "--prompts", "nothing.txt"], 3, "nothing.txt"),
    (["generate", "the", "cat"], 2, "in quotes"),
    (["tokenize", "empty"], 3, "is empty"),
    (["tokenize", "folder"], 3, "is a directory"),
    (["train", "story.txt", "--encoding", "klingon", "--name", "n"], 2, "not an encoding"),
    (["train", "story.txt", "--context", "1M", "--name", "n"], 3, "the text to train on has"),
    (["train", "--resume", "--name", "story"], 3, "no state to resume from"),
    (["train", "--resume", "--name", "nothing"], 3, "no run to resume"),
    (["train", "--resume", "--name", "story", "--lr", "1"], 2, "keeps its plan, so --lr"),
    (["generate", "x", "-m", "nothing"], 3, "no model 'nothing'"),
    (["generate", "x", "-m", "story.txt"], 3, "is a file"),
    (["generate", "x", "-m", "foreign"], 3, "holds no config.json"),
    (["generate", "x", "-m", "pickled"], 3, "pickled weights can run code"),
    (["generate", "the cat sat " * 20], 3, "the model reads at most 32"),
    (["generate", "x", "-t", "nan"], 2, "--temperature is nan"),
    (["generate", "x", "-t", "inf"], 2, "--temperature is inf"),
    (["generate", "x", "-t", "-1"], 2, "--temperature is -1"),
    (["generate", "x", "--top-p", "0"], 2, "--top-p is 0"),
    (["generate", "x", "--top-k", "-1"], 2, "--top-k is -1"),
    (["generate", "x", "--min-p", "2"], 2, "--min-p is 2"),
    (["generate", "x", "--repetition-penalty", "0"], 2, "--repetition-penalty is 0"),
    (["generate", "x", "--trace", "--logprobs", "1"], 2, "two reports on the same tokens"),
    (["generate", "x", "--logprobs", "-1"], 2, "--logprobs"),
    (["generate", "x", "--typical", "0"], 2, "--typical is 0"),
    (["generate", "x", "--presence-penalty", "inf"], 2, "--presence-penalty is inf"),
    (["generate", "x", "--logit-bias", "x"], 2, "--logit-bias 'x' is not a token, an equals sign and a number"),
    (["generate", "x", "--logit-bias", "#1=inf"], 2, "--logit-bias is inf"),
    (["generate", "x", "--logit-bias", "#99999=1"], 2, "no token #99999"),
    (["generate", "x", "--logit-bias", "zzzz=1"], 2, "tokens: 'z' #"),
    (["generate", "x", "--logit-bias", "x=1", "--logit-bias", "x=2"], 2, "twice"),
    (["generate", "x", "-n", "0"], 2, "--max-new-tokens is 0"),
    (["generate", "x", "--stop", ""], 2, "--stop"),
    (["generate", "x", "--device", "abacus"], 2, "not available"),
    (["generate", "x", "--dtype", "int3"], 2, "not a type"),
    (["explain"], 3, "no text"),
    (["explain", ""], 3, "no text"),
    (["explain", "the cat", "--head", "0.7"], 2, "There are 1: 0 to 0"),
    (["explain", "the cat", "--head", "a.b"], 2, "is not a head"),
    (["explain", "the cat", "--layer", "9"], 2, "no layer 9"),
    (["explain", "the cat", "--token", "dog"], 2, "no token 'dog'"),
    (["explain", "the cat", "--weights", "magic"], 2, "norm or raw"),
    (["explain", "the cat", "--weights", "raw", "--compare-weights"], 2, "Leave --weights out"),
    (["explain", "the cat", "--view", "moon"], 2, "Use bars, map, grid, steps, lens, logit or rollout"),
    (["explain", "the cat", "--view", "lens", "--head", "0.0"], 2, "--head does not go with --view lens"),
    (["explain", "the cat", "--words", "--view", "grid"], 2, "--words does not go with --view grid"),
    (["explain", "the cat", "--target", "cat"], 2, "It goes with --view logit"),
    (["explain", "the cat", "--view", "logit", "--target", "zq zq"], 2, "not one token"),
    (["tokenize", "--decode", "1 2 x"], 3, "not a token id"),
    (["tokenize", "--decode", "999999"], 3, "no token 999999"),
    (["tokenize", "x", "--out", "y"], 2, "go with --train"),
    (["info", "--preset", "gpt9"], 2, "no preset"),
    (["info", "nothing"], 3, "no model"),
    (["fly"], 2, "No such command"),
    (["generate", "x", "--wings"], 2, "There is no option --wings"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[" ".join(case[0])[:60] for case in BAD])
def test_bad_input_is_one_or_two_clear_lines(at_home, capsys, arguments, code, message):
    Path("empty.txt").write_text("\n \n")
    Path("empty").write_text("")
    Path("word.txt").write_text("word")
    Path("binary.txt").write_bytes(b"ab\0c")
    Path("latin.txt").write_bytes("caf\xe9s".encode("latin-1"))
    for folder in ("folder", "foreign", "pickled"):
        Path(folder).mkdir(exist_ok=True)
    Path("pickled/config.json").write_text(Path("checkpoints/story/config.json").read_text())
    Path("pickled/tokenizer.json").write_text(Path("checkpoints/story/tokenizer.json").read_text())
    Path("pickled/pytorch_model.bin").write_bytes(b"x")
    found, out, err = ask(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == ["story"]


def test_a_bug_shows_its_traceback(monkeypatch, capsys):
    from attncli.checkpoint import directory

    monkeypatch.setattr(directory, "list_models", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["models"])
    with pytest.raises(ZeroDivisionError):
        run(["models", "--debug"])


def test_out_of_memory_is_said_with_what_to_do(at_home, monkeypatch, capsys):
    from attncli.training import measure

    def exhausted(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(measure, "measure_step", exhausted)
    code, _, err = ask(capsys, "train", "story.txt", *QUICK, "--name", "big")
    assert code == 4
    assert "--batch-size" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(home, tmp_path, number):
    arguments = ["--steps", "100k", "--size", "1x32", "--context", "32", "--seed", "1"]
    process = start("train", str(home / "story.txt"), *arguments, folder=tmp_path)
    for line in process.stderr:
        if line.startswith("machine"):  # the plan's last line: the loop comes next
            break
    while not (tmp_path / "checkpoints/story/manifest.json").exists():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "attncli train --resume --name story" in err
    run_file = json.loads((tmp_path / "checkpoints/story/run.json").read_text())
    assert run_file["status"] == "stopped"
    with start("train", str(home / "story.txt"), folder=tmp_path) as again:
        err = again.stderr.read()
    assert again.returncode == 2
    assert all(word in err for word in ("exists", "--resume", "--name", "--force"))
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left <= {"story", ".story.previous"}  # no lock, nothing half written


@contextmanager
def interrupted(after):
    """A run notices an interrupt when it has asked for signals so many times."""
    import attncli.cli.training_run as module

    class Watched:
        asked = itertools.count()
        received = (signal.SIGINT,)

        def __bool__(self):
            return next(self.asked) >= after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "StopRequests", lambda: nullcontext(Watched()))
        yield


def test_a_stopped_run_is_resumed_to_its_end(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text((home / "story.txt").read_text())
    with interrupted(after=10):
        assert ask(capsys, "train", "story.txt", *QUICK)[0] == 130
    code, out, _ = ask(capsys, "train", "--resume")
    assert code == 0
    assert "30 steps" in out
    assert (home / "checkpoints/story/model.safetensors").read_bytes() == Path(
        "checkpoints/story/model.safetensors"
    ).read_bytes()


def test_a_forced_run_that_is_stopped_before_a_score_keeps_the_model(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "checkpoints", "checkpoints")
    before = Path("checkpoints/story/manifest.json").read_bytes()
    with interrupted(after=0):
        code, _, err = ask(capsys, "train", str(home / "story.txt"), *QUICK, "--force")
    assert code == 130
    assert "nothing is saved" in err
    assert "--resume" not in err
    assert Path("checkpoints/story/manifest.json").read_bytes() == before


def test_a_run_killed_between_the_renames_of_a_save_is_found_without_its_name(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with interrupted(after=10):
        assert ask(capsys, "train", str(home / "story.txt"), *QUICK)[0] == 130
    shutil.rmtree("checkpoints/.story.previous", ignore_errors=True)
    Path("checkpoints/story").rename("checkpoints/.story.previous")
    assert "story ←" in ask(capsys, "models")[1]
    assert ask(capsys, "generate", "The", "-n", "2", "-t", "0")[0] == 0
    assert ask(capsys, "train", "--resume")[0] == 0
    assert [path.name for path in Path("checkpoints").iterdir()] == ["story"]


def test_a_run_on_the_folder_that_holds_its_model_is_resumed(tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("story.txt").write_text(story(3000))
    assert ask(capsys, "train", "story.txt", *QUICK)[0] == 0
    with interrupted(after=10):
        assert ask(capsys, "train", ".", *QUICK, "--name", "all")[0] == 130
    assert ask(capsys, "train", "--resume")[0] == 0
    weights = [Path(f"checkpoints/{name}/model.safetensors").read_bytes() for name in ("story", "all")]
    assert weights[0] == weights[1]


def test_a_run_on_other_text_is_not_resumed(home, tmp_path, monkeypatch, capsys):
    process = start(
        "train", str(home / "story.txt"), "--steps", "100k", "--size", "1x32", "--out", "m", folder=tmp_path
    )
    while not (tmp_path / "m/manifest.json").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text(story(3000, seed=9))
    code, _, err = ask(capsys, "train", "other.txt", "--resume", "--out", "m")
    assert code == 3
    assert "not the one that m was trained on" in err


def test_piped_text_comes_before_the_argument(at_home):
    process = start("tokenize", "sat", "--ids", folder=at_home, stdin=subprocess.PIPE)
    both, _ = process.communicate("The cat\n")
    alone, _ = start("tokenize", "The cat sat", "--ids", folder=at_home).communicate()
    assert both == alone
    process = start("tokenize", "-", "--ids", folder=at_home, stdin=subprocess.PIPE)
    assert process.communicate("The cat sat\n")[0] == alone


def test_a_closed_pipe_ends_quietly(at_home):
    with start("tokenize", "story.txt", "--json", folder=at_home) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_reader_that_leaves_ends_a_text_quietly(at_home):
    """As `| head -1` does, in the middle of a text."""
    with start("generate", "The cat", "-n", "100k", "--seed", "1", folder=at_home) as process:
        assert process.stdout.readline().startswith("The cat")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_text_without_a_standard_output_ends_without_a_traceback(at_home, options):
    """As `>&-` does."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    arguments = [sys.executable, "-m", "attncli", "generate", "The cat", "-m", "story", "-n", "5", "-t", "0", *options]
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    found = subprocess.run(command, cwd=at_home, env=environment, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("named", "status", "said"),
    [
        ((), "finished", "model story, the newest in ./checkpoints\n"),
        ((), "stopped", "model story, the newest in ./checkpoints, its run stopped\n"),
        (("-m", "story"), "finished", ""),
    ],
)
def test_which_model_was_taken_is_told_where_there_are_others(at_home, capsys, monkeypatch, named, status, said):
    greedy = ("generate", "The cat", "-n", "3", "-t", "0", *named)
    assert ask(capsys, *greedy)[2] == ""
    (entry,) = directory.list_models()
    monkeypatch.setattr(finding, "known_models", lambda: [entry, entry])
    monkeypatch.setattr(finding, "newest_model", lambda: replace(entry, status=status))
    assert ask(capsys, *greedy)[2] == said


def test_more_candidates_than_there_are_tokens_are_all_of_them(at_home, capsys):
    drawn = ("generate", "The cat", "-n", "20", "--seed", "1")
    assert ask(capsys, *drawn, "--top-k", "1000000") == ask(capsys, *drawn)


@pytest.mark.parametrize("command", [["tokenize"], ["generate", "-t", "0"], ["generate", "-t", "0", "--json"]])
def test_a_full_output_is_an_error_with_a_code(at_home, command):
    with Path("/dev/full").open("w") as full, start(*command, "The cat", folder=at_home, stdout=full) as process:
        err = process.stderr.read()
    assert process.returncode == 4
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_no_connection_is_tried(at_home, monkeypatch, capsys):
    import socket

    monkeypatch.delenv("HF_HUB_OFFLINE")

    def refuse(*args, **options):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    assert ask(capsys, "generate", "The cat", "-n", "2", "--seed", "1")[0] == 0
    assert ask(capsys, "explain", "The cat")[0] == 0


@pytest.mark.parametrize("text", ["500", "0.5k", "1M", "25.6k", "1_000", "2,000", "2.01k"])
def test_counts_are_read(text):
    expected = {"500": 500, "0.5k": 500, "1M": 10**6, "25.6k": 25600, "1_000": 1000, "2,000": 2000, "2.01k": 2010}
    assert parse_count(text) == expected[text]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("7", 7), ("0.5m", 30)]
)
def test_times_are_read(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "k", "1.5", "-3", "1e3", "x", "0.0001k"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(Exception, match="not a positive whole number"):
        parse_count(text)


# Trains until two steps after so many saves, then kills itself.
KILLED = """
import itertools, os, signal, sys
from attncli.__main__ import main
from attncli.training import loop, saver
saves, steps = int(sys.argv.pop()), itertools.count()
write, step, saved = saver.write_checkpoint, loop._take_step, []
def writing(*given):
    write(*given)
    saved.append(given)
def stepping(*given):
    if len(saved) > saves and next(steps) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given)
saver.write_checkpoint, loop._take_step = writing, stepping
main()
"""


@pytest.mark.parametrize("saves", [1, 3])
def test_killed_without_warning_a_run_resumes_and_ends_with_the_same_bits(home, tmp_path, monkeypatch, capsys, saves):
    monkeypatch.chdir(tmp_path)
    command = ["train", str(home / "story.txt"), *QUICK, "--name", "killed", str(saves)]
    assert subprocess.run([sys.executable, "-c", KILLED, *command], check=False).returncode == -signal.SIGKILL
    assert ask(capsys, "generate", "The", "-n", "3", "-t", "0", "-m", "killed")[0] == 0
    assert "interrupted" in ask(capsys, "models")[1]
    code, _, err = ask(capsys, "train", "--resume", "--name", "killed")
    assert code == 0
    assert "going on at step" in err
    weights = [path / "model.safetensors" for path in (home / "checkpoints/story", Path("checkpoints/killed"))]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [path.name for path in Path("checkpoints").iterdir()] == ["killed"]


def test_a_prompt_longer_than_the_context_is_no_reason_to_stop(tmp_path, monkeypatch, capsys):
    """The sample that a run shows of itself begins with words of the text, which a small context may not hold."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(story(1500))
    small = ("--context", "8", "--tokenizer", "char", "--steps", "24", "--size", "1x32")
    assert ask(capsys, "train", "t.txt", *small)[0] == 0


def test_a_plan_is_printed_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(story(1500))
    code, out, _ = ask(capsys, "train", "t.txt", "--steps", "24", "--size", "1x32", "--plan", "--name", "p")
    assert code == 0
    assert "1 layer x 1 head, width 32" in out
    code, out, _ = ask(capsys, "train", "t.txt", "--tokens", "5k", "--size", "1x32", "--plan", "--json")
    assert json.loads(out)["model"]["layers"] == 1
    assert not Path("checkpoints/p").exists()


def test_a_run_goes_on_from_a_model_and_refuses_what_the_model_brings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(story(1500))
    Path("u.txt").write_text(story(900, seed=1))
    small = ("--context", "16", "--steps", "24")
    assert ask(capsys, "train", "t.txt", *small, "--size", "1x32")[0] == 0
    code, _, err = ask(capsys, "train", "u.txt", *small, "--from", "t")
    assert code == 0
    assert "cuts this text" not in err
    assert re.search(r"went on from +(checkpoints/)?t\b", ask(capsys, "info", "u")[1])
    Path("w.txt").write_text("река и лес у дороги " * 60)
    assert "into pieces of 1.0 bytes" in ask(capsys, "train", "w.txt", *small, "--from", "t", "--plan")[2]
    code, _, err = ask(capsys, "train", "u.txt", "--from", "t", "--size", "2x32", "--name", "v")
    assert code == 2
    assert "--size cannot be given" in err
    code, _, err = ask(capsys, "train", "u.txt", "--from", "t", "--adam-lr", "0.1", "--name", "v")
    assert code == 2
    assert "--adam-lr" in err


def test_time_counts_from_the_command_however_old_the_process_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clock, "started", clock.started - 1e6)
    Path("t.txt").write_text(story(1500))
    code, out, _ = ask(capsys, "train", "t.txt", "--time", "2m", "--size", "1x32", "--plan", "--json")
    assert (code, json.loads(out)["seconds"]) == (0, 120)


def test_next_shows_what_may_come_next_at_the_temperatures_asked_for(at_home, capsys):
    code, out, _ = ask(capsys, "next", "The cat", "--temperatures", "0,1.5", "-k", "3", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["temperatures"] == [0, 1.5]
    assert document["tokens"][0]["probabilities"][0] == 1
    assert len(document["tokens"]) == 3
    _, out, _ = ask(capsys, "next", "The cat", "--temperatures", "0,1.5", "-k", "3")
    assert "T 0" in out
    assert "T 1.5" in out
    code, _, err = ask(capsys, "next", "The cat", "--temperatures", "1,warm")
    assert code == 2
    assert "not a list of numbers" in err


def test_a_text_is_explained_with_what_the_model_goes_on_with(at_home, capsys):
    whole = json.loads(ask(capsys, "generate", "The cat", "-n", "5", "-t", "0", "--json")[1])
    code, out, err = ask(capsys, "explain", "The cat", "--generate", "5", "--json")
    assert code == 0
    document = json.loads(out)
    prompt = document["prompt_tokens"]
    assert f"generated, from token {prompt} on" in err
    assert document["sources"]["focus"] == len(document["tokens"]) - 1
    assert [token["id"] for token in document["tokens"][prompt:]] == whole["samples"][0]["ids"]


def test_a_file_is_explained_as_its_text(at_home, capsys):
    Path("short.txt").write_text("The cat sat\n")
    documents = [json.loads(ask(capsys, "explain", text, "--json")[1]) for text in ("short.txt", "The cat sat")]
    assert documents[0] == documents[1]


def test_json_holds_nothing_that_a_terminal_would_obey(at_home, capsys):
    hostile = "a\x9b31m\u202eb\x7f\u2028\u200b"
    out = ask(capsys, "explain", hostile, "--json")[1]
    assert set("".join(token["text"] for token in json.loads(out)["tokens"])) == set(hostile)
    assert not [char for char in out if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")]


def test_a_plan_says_when_its_run_would_be_refused(at_home, capsys):
    plan = ("train", "story.txt", *QUICK, "--plan")
    assert "would be refused: checkpoints/story exists" in ask(capsys, *plan)[2]
    for free in (("--force",), ("--name", "other")):
        code, _, err = ask(capsys, *plan, *free)
        assert code == 0
        assert "refused" not in err


@pytest.mark.parametrize("how", [[], ["--plain"]])
def test_of_one_token_no_other_token_and_no_head_is_offered(at_home, capsys, how):
    code, out, _ = ask(capsys, "explain", "a", *how)
    assert (code, "--token" in out, "--head" in out, "Busiest" in out) == (0, False, False, False)
    assert how or "Head 0.0: there is only one token" in out


def test_prompts_of_a_jsonl_file_are_its_prompts_and_texts(at_home, tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "the "}\n\n{"text": "king"}\n{"prompt": "a ", "text": "queen"}\n')
    code, out, _ = ask(capsys, "generate", "--prompts", str(file), "-n", "1", "--json")
    assert (code, [sample["prompt"] for sample in json.loads(out)["samples"]]) == (0, ["the ", "king", "a queen"])
    file.write_text('{"prompt": "the "}\nking\n')
    code, _, err = ask(capsys, "generate", "--prompts", str(file))
    assert (code, "p.jsonl, line 2 is not a JSON object" in err) == (3, True)
    file.write_text("the king\n")
    assert ask(capsys, "generate", "--prompts", str(file), "-n", "1")[1].startswith("the king")
