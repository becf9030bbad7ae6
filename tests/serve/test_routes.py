"""What is asked: the next token, the models, the runs."""

import json
import math
import zlib
from dataclasses import replace

import pytest
import torch

from attncli.checkpoint.directory import METRICS
from attncli.checkpoint.load import load_model as merged
from attncli.checkpoint.save import write_checkpoint
from attncli.config import SampleConfig
from attncli.explain.model_heads import scores_by_part
from attncli.explain.page.cuts import LiveCut, cut_effect
from attncli.explain.page.document import page_document
from attncli.explain.page.recomputed import UncutPass
from attncli.explain.reading import Reading
from attncli.library import load as load_model
from attncli.render.page.assemble import live_page
from attncli.render.page.payload import payload
from attncli.serve.models import KEPT, Models
from attncli.serve.routes.page import policy_of
from attncli.serve.worker import ModelThread
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.adapters import write_adapter
from tests.support.checkpoints import CPU, checkpoint, without_manifest, write_random_model, write_random_translator
from tests.support.commands import ask
from tests.support.encoders import write_bert
from tests.support.serving import PAGE, served
from tests.support.texts import story
from tests.support.translation import artificial_tokenizer


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Returns the user's folder of models, which is empty."""
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("ATTNCLI_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


def drawn(one, count, **fields):
    """Draws tokens one after another; returns the answers."""
    answers = []
    while len(answers) < count and not (answers and answers[-1]["ends"]):
        ids = [answer["token"]["id"] for answer in answers]
        answer = one.post("/api/next", {"ids": ids, **fields})
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
    return answers


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0}, {"temperature": 1.4, "top_k": 9, "top_p": 0.8, "min_p": 0}]
)
def test_the_tokens_are_those_of_generate_with_the_same_seed(settings, here):
    text = "Once upon a time"
    (sample,) = load_model("m").generate_all(text, seed=5, max_new_tokens=30, **settings)
    answers = drawn(here, 30, text=text, seed=5, **settings)
    assert tuple(answer["token"]["id"] for answer in answers) == sample.ids
    assert answers[-1]["written"] == sample.text
    assert [answer["step"] for answer in answers] == list(range(len(answers)))


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.2, "seed": 3}])
def test_a_translation_is_drawn_as_generate_writes_it(settings, here, own):
    """It ends with the token that the model forces at the end of its context."""
    write_random_translator(own / "t", artificial_tokenizer(), context=12)
    (sample,) = load_model("t").generate_all("dog", max_new_tokens=50, **settings)
    answers = drawn(here, 50, text="dog", model="t", **settings)
    assert tuple(answer["token"]["id"] for answer in answers) == sample.ids
    assert (answers[-1]["ends"], answers[-1]["written"]) == (True, sample.text)
    too_many = here.post("/api/next", {"text": "dog", "model": "t", "ids": [5] * 12})
    assert too_many.status_code == 400


def test_an_answer_has_what_the_token_was_drawn_from(here):
    answer = here.post("/api/next", {"text": "Once", "seed": 1, "top_k": 3, "min_p": 0, "count": 8}).json()
    chances = answer["chances"]
    assert answer["left"] == sum(chance["drawn"] > 0 for chance in chances) == 3
    assert sum(chance["drawn"] for chance in chances) == pytest.approx(1)
    assert [chance["model"] for chance in chances] == sorted((chance["model"] for chance in chances), reverse=True)
    assert answer["token"]["id"] in {chance["id"] for chance in chances if chance["drawn"] > 0}
    assert answer["settings"] == {"temperature": 1.0, "top_k": 3, "top_p": 1.0, "min_p": 0.0, "seed": 1}
    assert 0 <= answer["uniform"] < 1
    assert answer["model"] == "m"


def test_without_a_seed_one_is_drawn_and_told(here):
    seeds = {here.post("/api/next", {"text": "Once"}).json()["settings"]["seed"] for _ in range(8)}
    assert len(seeds) > 1
    seed = seeds.pop()
    answers = [here.post("/api/next", {"text": "Once", "seed": seed}).json() for _ in range(2)]
    assert answers[0] == answers[1]


def test_an_encoder_alone_continues_no_text(here, own):
    write_bert(own / "bert")
    answer = here.post("/api/next", {"text": "The [MASK] barked.", "model": "bert"})
    assert answer.status_code == 400
    assert "encoder alone" in answer.json()["error"]["message"]


# Models


def test_the_models_are_those_of_the_command(here, own, capsys):
    write_random_model(own / "other", byte_tokenizer())
    answer = here.client.get("/api/models").json()
    listed = json.loads(ask(capsys, "models", "--json")[1])
    assert answer["first"] == "m"
    assert [one["name"] for one in answer["models"]] == [one["name"] for one in listed] == ["other", "m"]
    for ours, theirs in zip(answer["models"], listed, strict=True):
        assert ours.pop("kind") == "decoder"
        assert ours.pop("context") == 96
        assert ours.pop("loaded") == (ours["name"] == "m")
        theirs.pop("path")
        assert ours == theirs


def test_a_few_models_stay_in_memory(here, own):
    for number in range(KEPT + 1):
        write_random_model(own / f"x{number}", byte_tokenizer())
        assert here.post("/api/next", {"text": "a", "model": f"x{number}"}).json()["model"] == f"x{number}"
    assert here.service.models.loaded == {f"x{number}" for number in range(1, KEPT + 1)}
    assert here.post("/api/next", {"text": "a"}).json()["model"] == "m"
    assert "x1" not in here.service.models.loaded
    assert "m" in here.service.models.loaded


def test_a_model_that_was_saved_again_is_read_again(here, own):
    path = own / "run"
    fields = {"text": "Once", "model": "run", "seed": 1, "count": 3}
    answers = []
    for seed in (1, 1, 2):
        write_checkpoint(path, checkpoint(seed))
        answers.append(here.post("/api/next", fields).json()["chances"])
    assert answers[0] == answers[1] != answers[2]


def test_a_model_whose_adapter_was_saved_again_is_read_again(own):
    write_random_model(own / "m", byte_tokenizer())
    write_adapter(own / "a", own / "m", seed=1)
    thread = ModelThread(1)
    try:
        models = Models(merged(own / "m", CPU, torch.float32, own / "a"), thread)
        first = models.get(None)
        assert models.get(None) is first
        write_adapter(own / "a", own / "m", seed=2)
        again = models.get(None)
        assert again.loaded.adapter == own / "a"
        weights = (one.loaded.model.blocks[0].attention.query.weight for one in (first, again))
        assert not torch.equal(*weights)
    finally:
        thread.end()


# Runs


@pytest.fixture
def training(at_home):
    with served(at_home, "story") as one:
        yield one


def test_a_run_has_the_curves_of_plot(training, capsys):
    (plotted,) = json.loads(ask(capsys, "plot", "story", "--json")[1])["runs"]
    plotted.pop("path")
    listed = training.client.get("/api/runs").json()
    assert listed == {"runs": [{"name": "story", "status": "finished"}]}
    answer = training.client.get("/api/runs/story").json()
    assert answer == plotted | {"status": "finished"}
    steps = answer["train"]["step"]
    assert len(steps) > 2
    later = training.client.get("/api/runs/story", params={"after": steps[1]}).json()
    assert later["train"]["step"] == steps[2:]
    assert later["train"]["seconds"] == answer["train"]["seconds"][2:]
    assert later["final_validation"] == answer["final_validation"]
    assert training.client.get("/api/runs/story", params={"after": steps[-1]}).json()["train"]["step"] == []


def test_a_run_of_another_name_and_a_bad_step_are_refused(training):
    for name in ("x", "..", "%2e%2e", "..%2f..%2fetc", "story%00", "story.jsonl", "checkpoints%2fstory"):
        answer = training.client.get(f"/api/runs/{name}")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]
    for after in ("x", "-2", "1.5", "", "9" * 16, "１"):
        assert training.client.get("/api/runs/story", params={"after": after}).status_code == 400


def test_a_run_without_measurements_is_asked_again_later(here, own):
    path = own / "young"
    write_checkpoint(path, checkpoint())
    (without_manifest(path) / METRICS).write_text("")
    assert [one["name"] for one in here.client.get("/api/runs").json()["runs"]] == ["young"]
    answer = here.client.get("/api/runs/young")
    assert (answer.status_code, answer.headers["Retry-After"]) == (404, "5")


# Bugs


def test_a_bug_is_answered_and_told_on_standard_error_and_the_server_goes_on(here, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("a secret of the server \x1b[2J")

    with monkeypatch.context() as patched:
        patched.setattr("attncli.serve.routes.next._drawn", fail)
        answer = here.post("/api/next", {"text": "a"})
        patched.setattr("attncli.serve.routes.models.list_known", fail)
        assert here.client.get("/api/models").status_code == 500
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {
            "message": "This is a bug of attncli.",
            "hint": "The server goes on. The traceback is on its standard error.",
        }
    }
    told = capsys.readouterr().err
    assert told.count("ZeroDivisionError: a secret of the server") == 2
    assert "\x1b" not in told
    assert here.post("/api/next", {"text": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (MemoryError, 503),
        (RuntimeError("CUDA out of memory"), 503),
        (RuntimeError("illegal memory access"), 500),
        (OSError, 422),
    ],
)
def test_a_machine_without_room_is_told(problem, status, here, monkeypatch):
    def fail(*_):
        raise problem

    monkeypatch.setattr("attncli.serve.routes.next._drawn", fail)
    answer = here.post("/api/next", {"text": "a"})
    assert answer.status_code == status
    assert ("Retry-After" in answer.headers) == (status == 503)


# Cuts


CUTS = [
    ({"kind": "edge", "edges": [[3, 1], [2, 0]]}, LiveCut(edges=((3, 1), (2, 0)))),
    ({"kind": "edge", "edges": [[3, 1]], "heads": [[0, 1], [2, 3]]}, LiveCut(edges=((3, 1),), heads=((0, 1), (2, 3)))),
    ({"kind": "row", "row": 3}, LiveCut(rows=(3,))),
    ({"kind": "column", "column": 1, "heads": [[1, 0]]}, LiveCut(columns=(1,), heads=((1, 0),))),
    ({"kind": "head", "heads": [[1, 2]]}, LiveCut(heads=((1, 2),))),
]


@pytest.mark.parametrize(("fields", "cut"), CUTS)
def test_a_cut_has_the_effect_that_is_measured_for_a_file(fields, cut, here):
    loaded, text = here.service.models.get(None).loaded, "Once upon a time there"
    uncut = UncutPass(Reading.of(loaded.model, loaded.pieces(text)), loaded.tokenizer)
    expected = cut_effect(uncut, "decoder", cut, 4)
    answer = here.post("/api/cut", {"text": text, "measured": 4, **fields}).json()
    assert answer["candidates"] == expected.candidates.tolist()
    assert answer["before"] == expected.before.tolist()
    assert answer["kept"] == expected.kept.tolist()
    assert answer["after"] == [
        list(pair) for pair in zip(expected.ids.tolist(), expected.probabilities.tolist(), strict=True)
    ]
    assert set(answer["vocabulary"]) == {str(id_) for id_ in (*expected.candidates.tolist(), *expected.ids.tolist())}
    assert here.post("/api/cut", {"text": text, "measured": 4, **fields}).json() == answer  # from the remembered pass
    other = here.post("/api/cut", {"text": f"{text} was", "measured": 4, **fields}).json()
    assert other["candidates"] == answer["candidates"]  # later tokens change no earlier row
    assert here.post("/api/cut", {"text": "Twice", "measured": 0, "kind": "row", "row": 0}).status_code == 200


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
def test_a_translation_is_cut_in_each_attention(part, here, own):
    write_random_translator(own / "t", artificial_tokenizer())
    fields = {"text": "dog", "model": "t", "target": "Hund", "part": part, "measured": 1}
    for cut in ({"kind": "head", "heads": [[1, 2]]}, {"kind": "column", "column": 0}):
        answer = here.post("/api/cut", fields | cut)
        assert answer.status_code == 200, answer.text
        assert answer.json()["kept"] != answer.json()["before"]


BAD_CUTS = [
    {}, {"kind": "edge"}, {"kind": "x", "row": 1}, {"kind": "row", "column": 1}, {"kind": "row", "row": 1, "edges": []},
    {"kind": "head"}, {"kind": "head", "heads": []}, {"kind": "head", "heads": [[1]]},
    {"kind": "head", "heads": [[9, 9]]},
    {"kind": "row", "row": 99}, {"kind": "row", "row": -1}, {"kind": "column", "column": 99},
    {"kind": "edge", "edges": [[1, 99]]}, {"kind": "edge", "edges": [[1, 0]] * 10_001},
    {"kind": "edge", "edges": [[1, 0], [1, 2]]}, {"kind": "row", "row": 0, "part": "cross"},
    {"kind": "row", "row": 0, "text": ""}, {"kind": "row", "row": 0, "measured": 99},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_CUTS, ids=lambda fields: str(fields)[:50])
def test_a_cut_that_is_none_is_refused(fields, here):
    answer = here.post("/api/cut", {"text": "Once upon", "measured": 1} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")


def test_a_masked_edge_is_refused_by_the_name_of_its_field(here):
    fields = {"text": "Once upon a time", "measured": 3, "kind": "edge"}
    answer = here.post("/api/cut", fields | {"edges": [[1, 0], [1, 2]]})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "edges contains [1, 2], and row 1 cannot attend to source 2, which comes after it.",
        "hint": "Cut an edge to an earlier source.",
    }


# The page


def header(data):
    """Returns the JSON of a payload."""
    plain = zlib.decompress(data)
    length = int.from_bytes(plain[:4], "little")
    return json.loads(plain[4 : 4 + length])


def stored(data, reference):
    """Returns the numbers of an array of a payload, as bytes."""
    array, plain = reference["array"], zlib.decompress(data)
    length = int.from_bytes(plain[:4], "little")
    at = -(-(4 + length) // 8) * 8 + array["at"]
    return array["shape"], plain[at : at + math.prod(array["shape"]) * int(array["type"][1:]) // 8]


def test_the_page_is_served_with_its_policy(here):
    answer = here.client.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.text == PAGE
    assert here.client.get("/favicon.ico").status_code == 204


def test_the_live_page_may_ask_its_own_server_and_nobody_else():
    policy = policy_of(live_page())
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'" in policy
    assert policy.endswith("; frame-ancestors 'none'")
    assert "unsafe" not in policy


def test_the_data_of_a_text_are_those_of_the_file(here):
    loaded = here.service.models.get(None).loaded
    text, fields = "Once upon a time", {"row": 2, "temperature": 0.5}
    answer = here.post("/api/page", {"text": text, **fields})
    assert answer.headers["Content-Type"] == "application/octet-stream"
    document = page_document(loaded, loaded.pieces(text), token=2, kinds=scores_by_part(loaded))
    document = replace(document, start=replace(document.start, temperature=0.5, min_p=SampleConfig().min_p))
    assert zlib.decompress(answer.content) == zlib.decompress(payload([document]))
    (found,) = header(answer.content)["documents"]
    assert found["model"] == "m"
    assert found["start"]["row"] == 2


@pytest.mark.parametrize("words", [2, 60])
def test_numbers_stay_the_same_without_those_of_other_views(words, here):
    whole, brief = (
        here.post("/api/page", {"text": story(words), "lens": parts, "steps": parts}).content for parts in (True, False)
    )
    (found,), (expected,) = header(brief)["documents"], header(whole)["documents"]
    assert found["attentions"][0]["steps"] is None
    assert (found["predictions"]["lens"] is None) == (words == 60)
    for name in ("ids", "logits", "tail", "probability_of_kept", "actual", "entropy"):
        assert stored(brief, found["predictions"][name]) == stored(whole, expected["predictions"][name])
    for name in ("raw", "norm", "layer_shares", "rollout"):
        assert stored(brief, found["attentions"][0][name]) == stored(whole, expected["attentions"][0][name])


def test_the_data_of_a_translation_have_three_attentions(here, own):
    write_random_translator(own / "t", artificial_tokenizer())
    answer = here.post("/api/page", {"text": "dog", "model": "t", "target": "Hund", "part": "encoder"})
    assert answer.status_code == 200, answer.text
    (found,) = header(answer.content)["documents"]
    assert [one["part"] for one in found["attentions"]] == ["encoder", "decoder", "cross"]
    assert found["start"]["part"] == "encoder"
    for part, rows in (("encoder", found["source"]), ("cross", found["tokens"])):
        fields = {"text": "dog", "model": "t", "target": "Hund", "part": part}
        for row in (0, len(rows) - 1):
            (one,) = header(here.post("/api/page", fields | {"row": row}).content)["documents"]
            assert (one["start"]["part"], one["start"]["row"]) == (part, row)
        assert here.post("/api/page", fields | {"row": len(rows)}).status_code == 400
    own_translation = here.post("/api/page", {"text": "dog", "model": "t"})
    assert header(own_translation.content)["documents"][0]["start"]["part"] == "cross"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"text": ""}, 400), ({"text": "a", "row": 99}, 400), ({"text": "a", "row": -1}, 400),
        ({"text": "a", "part": "cross"}, 400), ({"text": "a", "part": "x"}, 400), ({"text": "a", "pair": "b"}, 400),
        ({"text": "zq " * 500}, 422), ({"text": "a", "temperature": -1}, 400), ({"text": "a", "model": "x"}, 404),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_shown_is_refused(fields, status, here):
    answer = here.post("/api/page", fields)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
