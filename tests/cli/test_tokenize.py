"""`attncli tokenize`, also with piped text."""

import json
import subprocess
from pathlib import Path

from tests.support.commands import ask, start
from tests.support.forking import ForkedCommand, run_forked
from tests.support.texts import story


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


def test_a_tokenizer_can_be_trained_without_a_model(tmp_path, monkeypatch, capsys):
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


def piped(text, *words, folder):
    """Runs the command with this text as its standard input; returns its exit code, standard output and error."""
    with ForkedCommand("tokenize", *words, folder=folder, stdin=subprocess.PIPE) as process:
        written = process.communicate(text)
    return process.returncode, *written


def test_piped_text_precedes_the_argument(at_home):
    alone = run_forked("tokenize", "The cat sat", "--ids", folder=at_home).stdout
    assert piped("The cat\n", "sat", "--ids", folder=at_home) == (0, alone, "")
    assert piped("The cat sat\n", "-", "--ids", folder=at_home) == (0, alone, "")


def test_an_empty_pipe_is_bad_input(at_home):
    for words in ([], ["-"]):
        code, _, err = piped("", *words, folder=at_home)
        assert code == 3
        assert "The text is empty." in err


def test_a_closed_pipe_ends_the_command_without_an_error(at_home):
    with start("tokenize", "story.txt", "--json", folder=at_home) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
