"""Command lines that fail end with an exit code and at most two lines; no command uses the network."""

from pathlib import Path

import pytest

from attncli.checkpoint import catalog
from attncli.cli.main import run
from tests.support.commands import ask, start
from tests.support.forking import ForkedCommand

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
    (["train", "story.txt", "--val-file", "./story.txt", "--name", "n"], 2, "measure memorized text"),
    (["explain", "The cat", "-t", "inf", "--json"], 2, "--temperature is inf, and must be a finite number"),
    (["explain", "The cat", "--plain", "--compare-weights"], 2, "--plain prints sentences"),
    (["explain", "The cat", "--view", "logit", "--target", "#" + "9" * 5000], 2, "not one token"),
    (["heads", "story", "-m", "other"], 2, "two models"),
    (["train", "story.txt", "--time", "1m", "--steps", "3", "--name", "n"], 2, "each set the length"),
    (["train", "story.txt", "--compile", "--no-compile", "--name", "n"], 2, "exclude each other"),
    (["train", "story.txt", "--lr", "-1", "--name", "n"], 2, "--lr is -1.0, and must be above 0 and at most 1e+36."),
    (["train", "story.txt", "--lr", "1e40", "--name", "n"], 2, "--lr is 1e+40, and must be above 0 and at most 1e+36."),
    (["train", "story.txt", "--vocab-size", "-5", "--name", "n"], 2, "must be a whole number from 257 to 1,048,576"),
    (["train", "story.txt", "--size", "huge", "--name", "n"], 2, "not a size"),
    (["train", "story.txt", "--vocab-size", "5", "--name", "n"], 2, "must be a whole number from 257 to 1,048,576"),
    (["tokenize", "--train", "story.txt", "--vocab-size", "2M", "--tokenizer", "char", "--out", "y"], 2, "from 257 to"),
    (["train", "story.txt", "--tokenizer", "word", "--name", "n"], 2, "must be bpe, char or byte"),
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
    (["generate", "a", "--prompts", "story.txt"], 2, "There is a prompt and a file of prompts"),
    (["generate", "--prompts", "nothing.txt"], 3, "nothing.txt"),
    (["generate", "the", "cat"], 2, "in quotes"),
    (["tokenize", "empty"], 3, "is an empty file"),
    (["tokenize", "folder"], 3, "is a directory"),
    (["train", "story.txt", "--encoding", "klingon", "--name", "n"], 2, "not an encoding"),
    (["train", "story.txt", "--context", "1M", "--name", "n"], 3, "the text to train on has"),
    (["train", "--resume", "--name", "story"], 3, "fine-tune its model: attncli train FILE --from story --name NEW\n"),
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
    (["generate", "x", "-n", "-5"], 2, "--max-new-tokens is -5, and must be a whole number of at least 1."),
    (["generate", "x", "--lookup", "--no-lookup"], 2, "exclude each other"),
    (["generate", "x", "--stop", ""], 2, "--stop"),
    (["generate", "x", "--device", "abacus"], 2, "not available"),
    (["generate", "x", "--dtype", "int3"], 2, "not a type"),
    (["explain"], 2, "no text"),
    (["explain", ""], 3, "The text is empty"),
    (["explain", "the cat", "--theme", "dark"], 2, "--theme is for pictures"),
    (["explain", "the cat", "--force"], 2, "Add --csv, --npz, --page, --svg or --html with a file."),
    (["explain", "the cat", "--layer", "-1"], 2, "--layer is -1, and must be a whole number of at least 0"),
    (["neighbors", "cat", "--force"], 2, "--force replaces a file"),
    (["plot", "--force"], 2, "Add --out with a file."),
    (["plot", "--heads", "--y", "bits"], 2, "Leave --y out."),
    (["ablate", "the cat", "--edge", "1:0", "--with", "mean"], 2, "so --with cannot be given"),
    (["ablate"], 2, "no text"),
    (["next", "the cat", "--temperature", "1"], 2, "Did you mean --temperatures?"),
    (["explain", "the cat", "--head", "0.7"], 2, "There are 1: 0 to 0"),
    (["explain", "the cat", "--head", "a.b"], 2, "is not a head"),
    (["explain", "the cat", "--layer", "9"], 2, "no layer 9"),
    (["explain", "the cat", "--token", "dog"], 2, "no token 'dog'"),
    (["explain", "the cat", "--weights", "magic"], 2, "norm or raw"),
    (["explain", "the cat", "--weights", "raw", "--compare-weights"], 2, "Leave --weights out"),
    (["explain", "the cat", "--view", "moon"], 2, "Use bars, map, "),
    (["explain", "the cat", "--view", "lens", "--head", "0.0"], 2, "--head does not go with --view lens"),
    (["explain", "the cat", "--words", "--view", "grid"], 2, "--words does not go with --view grid"),
    (["explain", "the cat", "--target", "cat"], 2, "It goes with --view logit"),
    (["explain", "the cat", "--view", "logit", "--target", "zq zq"], 2, "not one token"),
    (["tokenize", "--decode", "1 2 x"], 3, "not a token id"),
    (["tokenize", "--decode", "999999"], 3, "no token 999999"),
    (["tokenize", "x", "--out", "y"], 2, "go with --train"),
    (["tokenize", "x", "--ids", "--json"], 2, "so --json cannot be given"),
    (["tokenize", "1", "--ids", "--decode"], 2, "so --decode cannot be given"),
    (["tokenize", "--train", "story.txt", "--out", "y", "-m", "story"], 2, "so --model cannot be given"),
    (["info", "--preset", "gpt9"], 2, "no preset"),
    (["info", "--preset", "gpt3", "-m", "story"], 2, "so --model cannot be given"),
    (["info", "story", "--preset", "gpt3"], 2, "so story cannot be given"),
    (["info", "nothing"], 3, "no model"),
    (["fly"], 2, "No such command"),
    (["generate", "x", "--wings"], 2, "There is no option --wings"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[" ".join(case[0])[:60] for case in BAD])
def test_an_error_has_one_or_two_lines(at_home, capsys, arguments, code, message):
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

    monkeypatch.setattr(catalog, "list_models", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["models"])
    with pytest.raises(ZeroDivisionError):
        run(["models", "--debug"])


@pytest.mark.parametrize("command", [["tokenize"], ["generate", "-t", "0"], ["generate", "-t", "0", "--json"]])
def test_a_full_standard_output_is_an_error_with_an_exit_code(at_home, command):
    begin = start if command == ["tokenize"] else ForkedCommand  # a new interpreter also flushes its streams at the end
    with Path("/dev/full").open("w") as full, begin(*command, "The cat", folder=at_home, stdout=full) as process:
        err = process.stderr.read()
    assert process.returncode == 4
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_no_command_opens_a_connection(at_home, monkeypatch, capsys):
    import socket

    monkeypatch.delenv("HF_HUB_OFFLINE")

    def refuse(*args, **options):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    assert ask(capsys, "generate", "The cat", "-n", "2", "--seed", "1")[0] == 0
    assert ask(capsys, "explain", "The cat")[0] == 0
