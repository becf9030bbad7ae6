"""`attncli generate` and `attncli next`: prompts from arguments and files, and their output."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.cells import cell_len

from attncli.checkpoint import catalog
from attncli.cli import clock, resolving
from tests.support.commands import ask
from tests.support.forking import ForkedCommand


def test_generate_is_a_function_of_the_seed(at_home, capsys):
    texts = [ask(capsys, "generate", "The cat", "-n", "30", "--seed", seed)[1] for seed in "112"]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The cat")
    assert ask(capsys, "generate", "The cat", "-n", "30", "--seed", "1", "--no-stream")[1] == texts[0]


def test_generate_draws_a_seed_and_prints_it(at_home, capsys):
    _, out, err = ask(capsys, "generate", "The cat", "-n", "20")
    seed = err.split("seed ")[1].split()[0]
    assert ask(capsys, "generate", "The cat", "-n", "20", "--seed", seed)[1] == out


def test_generate_says_that_a_stop_string_left_no_text(at_home, capsys):
    told = [ask(capsys, "generate", "The cat", "--stop", letter, "--seed", "1", "-n", "1")[2] for letter in " abcdefgh"]
    assert any("began with a stop string" in err for err in told)
    assert not any("ended the text at once" in err for err in told)


def test_greedy_decoding_prints_no_seed_and_samples_are_numbered(at_home, capsys):
    _, out, err = ask(capsys, "generate", "The cat", "-n", "5", "-t", "0", "--num-samples", "2")
    assert "seed" not in err
    first, second = out.split("── sample 1 ──")[1].split("── sample 2 ──")
    assert first.strip() == second.strip()


def test_generate_notes_once_that_the_context_was_exceeded(at_home, capsys):
    _, out, err = ask(capsys, "generate", "The cat", "-n", "120", "--seed", "1")
    assert err.count("past the context of 32 tokens: went on from the most recent 16") == 1
    assert len(out) > 120


def test_generate_json_has_the_prompt_the_settings_and_the_samples(at_home, capsys):
    code, out, _ = ask(
        capsys, "generate", "The", "-n", "8", "--seed", "3", "--num-samples", "2", "--stop", "zzz", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["prompt"] == "The"
    assert document["settings"]["seed"] == 3
    assert [len(sample["ids"]) for sample in document["samples"]] == [8, 8]
    assert {sample["finish_reason"] for sample in document["samples"]} == {"length"}


def test_a_token_with_a_bias_of_minus_infinity_is_never_generated(at_home, capsys):
    greedy = ("generate", "The cat", "-n", "1", "-t", "0", "--json")
    (first,) = json.loads(ask(capsys, *greedy)[1])["samples"][0]["ids"]
    code, out, _ = ask(capsys, *greedy, "--logit-bias", f"#{first}=-inf", "--logit-bias", "a=0.5")
    document = json.loads(out)
    assert code == 0
    assert document["samples"][0]["ids"] != [first]
    assert document["settings"]["logit_bias"][0] == {"id": first, "bias": "-inf"}
    assert document["settings"]["logit_bias"][1]["bias"] == 0.5


def test_generate_reports_the_log_probabilities_and_the_trace_of_every_token(at_home, capsys, monkeypatch):
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


def test_generate_colors_a_terminal_and_says_why_other_output_has_no_colors(at_home, capsys, monkeypatch):
    greedy = ("generate", "The cat", "-n", "9", "-t", "0")
    plain = ask(capsys, *greedy)[1]
    code, out, err = ask(capsys, *greedy, "--color")
    assert (code, out) == (0, plain)
    assert "no colors: standard output is no terminal" in err
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    code, out, err = ask(capsys, *greedy, "--color")
    assert "48;2;" in out
    assert "surprise in bits" in out
    assert "no colors" not in err
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, err = ask(capsys, *greedy, "--color")
    assert "48;2;" not in out
    assert "NO_COLOR is set" in err


def test_generate_continues_every_line_of_a_file_like_a_single_prompt(at_home, tmp_path, capsys):
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


def test_an_error_names_the_line_of_a_prompt_that_is_too_long(at_home, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the king\n" + "the king " * 40 + "\n")
    code, _, err = ask(capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"))
    assert code == 3
    assert "prompts.txt, line 2: The prompt has" in err


def test_options_of_speed_and_display_change_no_text(at_home, capsys):
    same = ["generate", "the king", "--seed", "7", "-n", "40", "--repetition-penalty", "1.2"]
    _, expected, _ = ask(capsys, *same, "--no-stream")
    for how in ("--no-cache", "--lookup", "--no-lookup", "--stats", "--stream"):
        code, out, err = ask(capsys, *same, how)
        assert (code, out) == (0, expected), how
        assert ("tokens, " in err and " a second" in err) == (how == "--stats")


def test_generate_reports_its_throughput(at_home, capsys):
    _, out, err = ask(capsys, "generate", "the king", "-n", "20", "--seed", "1", "--stats", "--json")
    found = json.loads(out)["throughput"]
    assert found["prompt_tokens"] == len(json.loads(ask(capsys, "tokenize", "the king", "--json")[1])["tokens"])
    assert (found["new_tokens"], found["later_tokens"]) == (20, 19)
    assert found["rate"] == pytest.approx(19 / found["later_seconds"])
    assert 0 < found["prompt_seconds"] < found["first_token_seconds"]
    assert "20 tokens, " in err
    assert " a second · " in err


def test_the_time_to_the_first_token_starts_with_the_command(at_home, monkeypatch, capsys):
    ask(capsys, "generate", "the king", "-n", "1", "--seed", "1")
    start_clock = clock.start

    def start_earlier():
        start_clock()
        clock.started -= 1000

    monkeypatch.setattr(clock, "start", start_earlier)
    found = json.loads(ask(capsys, "generate", "the king", "-n", "1", "--seed", "1", "--stats", "--json")[1])
    assert found["throughput"]["first_token_seconds"] > 1000


def test_generate_in_int8_needs_the_compiled_library(at_home, monkeypatch, capsys):
    code, out, _ = ask(capsys, "generate", "the king", "-n", "20", "--seed", "1", "--dtype", "int8", "--json")
    assert code == 0
    assert len(json.loads(out)["samples"][0]["ids"]) == 20
    monkeypatch.setattr("attncli.model.native._functions", lambda: None)
    code, _, err = ask(capsys, "generate", "the king", "--dtype", "int8")
    assert code == 2
    assert "a C compiler" in err


def test_generate_continues_the_content_of_a_file(at_home, tmp_path, monkeypatch, capsys):
    """A missing file and a URL are used as text, with a note. A directory is refused."""
    file, options = tmp_path / "begun.txt", ("-n", "8", "--seed", "1")
    file.write_text("the king\n")
    expected = ask(capsys, "generate", "the king", *options)[1]
    assert ask(capsys, "generate", str(file), *options)[:2] == (0, expected)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert ask(capsys, "generate", "-i", str(file), *options)[1].startswith(expected.rstrip("\n"))
    code, out, err = ask(capsys, "generate", "missing.txt", *options)
    assert (code, out.startswith("missing.txt")) == (0, True)
    assert "there is no file missing.txt, so the name itself is used as the text" in err
    assert "is a URL, which is not fetched" in ask(capsys, "generate", "https://a.org/b.txt", *options)[2]
    code, _, err = ask(capsys, "generate", str(tmp_path), *options)
    assert (code, "is a directory" in err) == (3, True)


def test_a_prompt_longer_than_the_context_is_truncated_only_with_truncate(at_home, tmp_path, monkeypatch, capsys):
    long, greedy = "the cat sat " * 20 + "on the king", ("-n", "4", "-t", "0")
    code, _, err = ask(capsys, "generate", long, *greedy)
    assert (code, "characters fit. With --truncate, only this end is read." in err) == (3, True)
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
    code, _, err = ask(capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"), *greedy)
    assert (code, "prompts.txt, line 2: The prompt has" in err, "With --truncate" in err) == (3, True, True)
    for options in ((), ("--truncate",)):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{long}\n"))
        code, out, err = ask(capsys, "generate", "-i", *greedy, *options)
        assert (code, out.startswith(kept), "With --truncate" in err) == (
            (0, True, False) if options else (3, False, True)
        )
    code, _, err = ask(capsys, "next", long)
    assert (code, "With --truncate" in err) == (3, True)
    code, out, err = ask(capsys, "next", long, "--truncate", "--json")
    assert (code, json.loads(out)["text"], "truncated" in err) == (0, kept, True)


def test_generate_without_a_prompt_begins_a_text(at_home, capsys):
    code, out, _ = ask(capsys, "generate", "-n", "20", "--seed", "1")
    assert code == 0
    assert out.strip()


def test_a_closed_pipe_ends_a_text_without_an_error(at_home):
    """The reader closes the pipe in the middle of a text, as `| head -1` does."""
    with ForkedCommand("generate", "The cat", "-n", "100k", "--seed", "1", folder=at_home) as process:
        assert process.stdout.readline().startswith("The cat")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_closed_standard_output_ends_a_text_without_an_error(at_home):
    """Standard output is closed as by `>&-`. A new interpreter has to open its streams, so it is tested too."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    words = ["generate", "The cat", "-m", "story", "-n", "5", "-t", "0"]
    arguments = [sys.executable, "-m", "attncli", *words]
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    found = subprocess.run(command, cwd=at_home, env=environment, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    closed = "import os, sys; os.close(1); sys.stdout = None"
    with ForkedCommand(*words, "--json", folder=at_home, before=closed) as process:
        assert process.communicate()[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("named", "status", "said"),
    [
        ((), "finished", "model story, the newest in ./checkpoints\n"),
        ((), "stopped", "model story, the newest in ./checkpoints, its run stopped\n"),
        (("-m", "story"), "finished", ""),
    ],
)
def test_the_chosen_model_is_named_if_there_are_several(at_home, capsys, monkeypatch, named, status, said):
    greedy = ("generate", "The cat", "-n", "3", "-t", "0", *named)
    assert ask(capsys, *greedy)[2] == ""
    (entry,) = catalog.list_models()
    monkeypatch.setattr(resolving, "known_models", lambda: [entry, entry])
    monkeypatch.setattr(resolving, "newest_model", lambda: replace(entry, status=status))
    assert ask(capsys, *greedy)[2] == said


def test_a_top_k_above_the_vocabulary_size_keeps_all_tokens(at_home, capsys):
    drawn = ("generate", "The cat", "-n", "20", "--seed", "1")
    assert ask(capsys, *drawn, "--top-k", "1000000") == ask(capsys, *drawn)


def test_next_shows_the_probabilities_at_the_requested_temperatures(at_home, capsys):
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


def test_the_prompts_of_a_jsonl_file_join_its_prompt_and_text_fields(at_home, tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "the "}\n\n{"text": "king"}\n{"prompt": "a ", "text": "queen"}\n')
    code, out, _ = ask(capsys, "generate", "--prompts", str(file), "-n", "1", "--json")
    assert (code, [sample["prompt"] for sample in json.loads(out)["samples"]]) == (0, ["the ", "king", "a queen"])
    file.write_text('{"prompt": "the "}\nking\n')
    code, _, err = ask(capsys, "generate", "--prompts", str(file))
    assert (code, "p.jsonl, line 2 is not a JSON object" in err) == (3, True)
    file.write_text("the king\n")
    assert ask(capsys, "generate", "--prompts", str(file), "-n", "1")[1].startswith("the king")
