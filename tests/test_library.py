"""The library computes what the commands compute; the examples of docs/library.md run."""

import json
import re
import subprocess
import sys

import pytest

import attncli
from attncli.checkpoint import catalog
from attncli.config import SampleConfig
from attncli.training.reports import EvalReport, Result
from attncli.views import VIEWS, ViewOptions
from tests.support.commands import ask
from tests.support.places import ROOT
from tests.support.texts import story

PAGE = ROOT / "docs" / "library.md"
TEXT = "The little cat sat on the old mat. The little"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def model():
    return attncli.Model(ROOT / "checkpoints" / "stories", "cpu")


def printed(capsys, *arguments):
    """Returns the JSON document that a command prints for the shipped model."""
    code, out, err = ask(capsys, *arguments, "-m", str(ROOT / "checkpoints" / "stories"), "--json")
    assert code == 0, err
    return json.loads(out)


def test_importing_the_library_imports_no_large_module():
    heavy = ("torch", "numpy", "typer", "rich", "typing", "dataclasses", "tokenizers", "attncli.library")
    code = f"import sys; import attncli; sys.exit(str([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_every_public_name_exists():
    assert set(attncli.__all__) <= set(dir(attncli))
    assert all(getattr(attncli, name) is not None for name in attncli.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        attncli.lode  # noqa: B018


def test_the_same_seed_gives_the_same_text_as_the_command(capsys, model):
    document = printed(capsys, "generate", "Once upon", "-n", "30", "--seed", "7", "-t", "0.8", "--top-k", "20")
    settings = {"max_new_tokens": 30, "seed": 7, "temperature": 0.8, "top_k": 20}
    pieces = list(model.generate("Once upon", **settings))
    assert len(pieces) > 1
    (sample,) = model.generate_all("Once upon", **settings)
    assert "".join(pieces) == sample.text == document["samples"][0]["text"]
    tokens = list(model.generate("Once upon", tokens=True, top=2, **settings))
    assert tuple(token.id for token in tokens) == sample.ids
    assert all(len(token.top) == 2 and token.logprob <= token.top[0].logprob <= 0 for token in tokens)


def test_samples_of_several_prompts_are_in_order(model):
    samples = model.generate_all(["The dog", "The cat"], num_samples=2, seed=3, max_new_tokens=12)
    assert len(samples) == 4
    alone = model.generate_all("The cat", num_samples=2, seed=3, max_new_tokens=12)
    assert samples[2:] == alone
    with pytest.raises(attncli.UsageProblem, match="streams one text"):
        model.generate("The dog", num_samples=2)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: str(view.name))
def test_every_view_returns_the_record_that_the_command_shows(capsys, model, view):
    options = {"head": "1.2"} if "head" in view.takes else {}
    document = printed(
        capsys, "explain", TEXT, *(("--view", view.name) if view.name else ()), *options and ("--head", "1.2")
    )
    finding = model.explain(TEXT, view=view.name, **options)
    assert json.loads(json.dumps(view.load(ViewOptions(**options)).document(finding, model.name))) == document


def test_a_text_can_be_explained_with_its_continuation(model):
    finding = model.explain("Once upon", generate=3, token=1, check=False)
    assert len(finding.pieces) == 5


def test_a_page_equals_the_page_of_the_command(capsys, model, tmp_path):
    printed(capsys, "explain", TEXT, "--head", "1.2", "--token", "2", "--page", str(tmp_path / "page.html"))
    assert model.page(TEXT, head="1.2", token=2) == (tmp_path / "page.html").read_text()
    with pytest.raises(attncli.UsageProblem, match="no setting 'csv'"):
        model.page(TEXT, csv="x.csv")


def test_a_score_equals_the_score_of_the_command(capsys, model, tmp_path):
    text = "The girl went to the park with her mom. They saw a big dog there.\n"
    (tmp_path / "text.txt").write_text(text)
    document = printed(capsys, "eval", str(tmp_path / "text.txt"))
    score = model.score(text)
    assert document["scored_tokens"] == score.scored
    assert {name: document[name] for name in score.figures()} == score.figures()
    with pytest.raises(attncli.BadInput, match="no token to score"):
        model.score("")


def test_next_tokens_equal_the_next_tokens_of_the_command(capsys, model):
    document = printed(capsys, "next", TEXT)
    following = model.next(TEXT)
    assert [token.text for token in following.tokens] == [token["text"] for token in document["tokens"]]
    assert [list(token.probabilities) for token in following.tokens] == [
        token["probabilities"] for token in document["tokens"]
    ]
    assert len(model.next(TEXT, temperatures=(0.7,), count=3).tokens) == 3


def test_methods_share_weights_of_the_same_type():
    model = attncli.Model(ROOT / "checkpoints" / "stories", "cpu")
    model.next(TEXT)
    model.explain(TEXT)
    model.score(TEXT)
    assert list(model._loaded) == ["float32"]


def test_int8_and_float32_weights_give_slightly_different_scores(model):
    rounded = attncli.Model(model.path, "cpu", "int8")
    assert model.score(TEXT).nats != rounded.score(TEXT).nats == pytest.approx(model.score(TEXT).nats, rel=0.05)


def test_training_gives_the_same_weights_as_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog ran to the cat\n" * 200)
    run = attncli.train("text.txt", "own", steps=4, size="nano", seed=2, tokenizer="char")
    reports = list(run)
    assert isinstance(reports[-1], Result)
    assert run.result == reports[-1]
    assert any(isinstance(report, EvalReport) for report in reports)
    code, _, err = ask(
        capsys, "train", "text.txt", "--out", "theirs", "--steps", "4", "--size", "nano", "--seed", "2",
        "--tokenizer", "char",
    )  # fmt: skip
    assert code == 0, err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("own", "theirs")]
    assert weights[0] == weights[1]
    trained = run.finish()
    assert trained.path == run.path
    assert "".join(trained.generate("the", max_new_tokens=5))
    with pytest.raises(attncli.UsageProblem, match="own exists") as raised:
        attncli.train("text.txt", "own", steps=4).finish()
    assert raised.value.hint == "Keep it: choose another name or out. Replace it: force=True."


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: model.generate("a", temprature=1), "Did you mean temperature"),
        (lambda model: model.generate("a", temperature=-1), "temperature is -1"),
        (lambda model: model.generate("a", logit_bias=(("two words", 1),)), "logit_bias: 'two words' is"),
        (lambda model: model.explain("a", heads=1), "Did you mean head"),
        (lambda model: model.explain("a", csv="x"), "There is no setting 'csv'"),
        (lambda model: model.explain("a", view="lenz"), "view 'lenz' is not a view"),
        (lambda model: model.explain("a", view="lens", head="0.0"), "head does not go with view lens"),
        (lambda model: model.explain("a", layer=-1), "layer is -1, and must be a whole number of at least 0"),
        (lambda model: model.generate("a", at_once=0), "at_once is 0, and must be a whole number of at least 1"),
        (lambda model: model.score("a \ud800"), "not valid Unicode at character 2"),
        (lambda model: model.score(b"a"), "not a string"),
        (lambda model: model.generate(5), "not a string"),
        (lambda model: attncli.train("x", stepz=1), "Did you mean steps"),
        (lambda model: attncli.train("nothing.txt", steps=1), "nothing.txt"),
        (lambda model: attncli.load("nothing"), "nothing"),
        (lambda model: attncli.load(model.path, device="tpu"), "device 'tpu' is not available"),
        (lambda model: attncli.load(model.path, dtype="int7"), "dtype 'int7' is not a type"),
        (lambda model: attncli.load(model.path, revision="main"), "revision is for models of the hub"),
        (lambda model: model.generate("a" * 10_000), "the model reads at most"),
    ],
)
def test_an_error_is_raised_by_the_call_and_names_the_alternatives(model, call, told):
    with pytest.raises(attncli.AttnError) as raised:
        call(model)
    assert told in f"{raised.value.message} {raised.value.hint}"
    assert "--" not in f"{raised.value.message} {raised.value.hint}"


def test_the_fields_of_the_configs_are_the_settings(model):
    with pytest.raises(attncli.UsageProblem) as raised:
        model.generate("a", nonsense=1)
    assert all(name in raised.value.hint for name in (*SampleConfig.__dataclass_fields__, "cached"))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: model.generate("a", max_new_tokens=4.5), "max_new_tokens is 4.5, and must be a whole number"),
        (lambda model: model.generate("a", top_k=40.0), "top_k is 40.0"),
        (lambda model: model.generate("a", seed=1.5), "seed is 1.5"),
        (lambda model: model.generate("a", stop=["", "a"]), "stop is '', and must be at least one character"),
        (lambda model: model.generate("a", temperature=10**400), "temperature is an integer of over 40 digits"),
        (lambda model: model.explain(TEXT, head=3.1), "head is the number 3.1"),
        (lambda model: model.next("a", count=-1), "count is -1"),
        (lambda model: model.next("a", temperatures=()), "the number of temperatures is 0"),
        (lambda model: model.next("a", temperatures=(-1.0,)), "temperatures is -1.0"),
        (lambda model: attncli.train("x", steps=6.0), "steps is 6.0"),
        (lambda model: attncli.train("x", size=384), "384"),
        (lambda model: attncli.train(out="m", resume=True, lr=0.1), "keeps its plan, so lr cannot be given"),
        (
            lambda model: attncli.train("x", start="stories", size="2x64"),
            "keeps its shape and tokenizer, so size cannot be given",
        ),
    ],
)
def test_an_invalid_value_of_a_setting_is_refused(model, call, told):
    with pytest.raises(attncli.UsageProblem, match=re.escape(told)):
        call(model)


def test_a_stop_can_be_one_text_and_a_bias_a_dictionary(model):
    (whole,) = model.generate_all("Once upon a time", temperature=0, max_new_tokens=20)
    (stopped,) = model.generate_all("Once upon a time", temperature=0, max_new_tokens=20, stop="there")
    assert stopped.text == whole.text.partition("there")[0] != whole.text
    (biased,) = model.generate_all("Once upon a", temperature=0, max_new_tokens=1, logit_bias={" cat": 1000.0})
    assert biased.text == " cat"


def test_a_closed_run_unlocks_its_directory_and_a_failed_run_has_no_model(tmp_path):
    (tmp_path / "text.txt").write_text(story(400))
    settings = {"steps": 6, "size": "1x32", "context": 16, "batch_size": 2, "vocab_size": 300, "device": "cpu"}
    run = attncli.train(tmp_path / "text.txt", tmp_path / "m", **settings)
    next(iter(run))
    run.close()
    assert attncli.train(tmp_path / "text.txt", tmp_path / "m", force=True, **settings).finish().path == tmp_path / "m"
    taken = attncli.train(tmp_path / "text.txt", tmp_path / "m", **settings)
    with pytest.raises(attncli.UsageProblem, match="exists"):
        taken.finish()
    with pytest.raises(attncli.UsageProblem, match="without a result"):
        taken.finish()


def test_a_model_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "_SHIPPED_FOLDERS", (ROOT / "checkpoints",))
    monkeypatch.chdir(tmp_path)
    assert attncli.load("stories").path == ROOT / "checkpoints" / "stories"
    assert attncli.load().name == "stories"
    with pytest.raises(attncli.BadCheckpoint):
        attncli.load("nothing")


def test_the_examples_of_the_page_can_be_executed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNCLI_MODELS", str(ROOT / "checkpoints"))
    names = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/library.md", "exec"), names)
        assert capsys.readouterr().out
    assert len([line for line in EXAMPLES[0].splitlines() if line]) <= 12


@pytest.mark.skipif(not (ROOT / ".mypy_cache").exists(), reason="takes long where the package was not checked before")
def test_the_examples_of_the_page_are_typed(tmp_path):
    """The examples pass mypy --strict as a script."""
    script = tmp_path / "examples.py"
    script.write_text("\n".join(EXAMPLES))
    command = [sys.executable, "-m", "mypy", "--strict", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
