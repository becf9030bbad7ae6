"""`attncli generate`, `next` and `bench` with a model that translates, and the same through the library."""

import json

import pytest

import attncli
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import UsageProblem
from attncli.text.tokenizer_training import train_pair_tokenizer
from tests.support.commands import ask
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.texts import story

TEXTS = ["A dog runs.", "Two cats sleep on the old mat.", "The sun"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("translating") / "translator"
    tokenizer = train_pair_tokenizer([story(300)], "bpe", 300)
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300})
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, 40, end_ids=frozenset({2})))
    return path


@pytest.fixture
def translate(folder, capsys, at_home):
    return lambda *arguments: ask(capsys, "generate", *arguments, "-m", str(folder), "-n", "12")


def test_a_translation_is_greedy_and_does_not_show_the_source(translate, folder):
    code, out, err = translate(TEXTS[0])
    assert (code, "seed" in err) == (0, False)
    assert TEXTS[0] not in out
    model = attncli.load(folder)
    assert out == "".join(model.generate(TEXTS[0], max_new_tokens=12)) + "\n"
    assert translate(TEXTS[0], "--temperature", "0", "--no-stream")[1] == out


@pytest.mark.parametrize("option", [(), ("--beams", "3")])
def test_each_line_of_a_file_has_its_translation(translate, tmp_path, option):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    alone = [translate(text, *option)[1] for text in TEXTS]
    assert translate("--prompts", str(tmp_path / "texts.txt"), *option)[1] == "".join(alone)
    records = translate("--prompts", str(tmp_path / "texts.txt"), "--jsonl", *option)[1].splitlines()
    assert [json.loads(line)["text"] + "\n" for line in records] == alone


def test_an_option_that_asks_for_sampling_samples(translate):
    _, out, err = translate(TEXTS[1], "--num-samples", "2", "--min-p", "0")
    assert "seed" in err
    assert "── sample 2 ──" in out
    settings = json.loads(translate(TEXTS[1], "--seed", "3", "--json")[1])["settings"]
    assert (settings["temperature"], settings["seed"]) == (1.0, 3)
    assert json.loads(translate(TEXTS[1], "--json")[1])["settings"]["temperature"] == 0


def test_the_library_finds_the_texts_of_the_beams(translate, folder):
    found = attncli.load(folder).generate_all(TEXTS, beams=3, num_samples=2, max_new_tokens=12)
    document = json.loads(translate(TEXTS[0], "--beams", "3", "--num-samples", "2", "--json")[1])
    assert [sample["text"] for sample in document["samples"]] == [sample.text for sample in found[:2]]


def test_every_way_of_translating_is_verified(translate):
    assert "same" in translate(TEXTS[0], "--verify")[1]


def test_a_long_text_is_refused_or_cut(translate):
    long = "The little cat sat on the old mat. " * 30
    code, _, err = translate(long)
    assert (code, "The text has" in err, "--truncate" in err) == (3, True, True)
    code, out, err = translate(long, "--truncate", "--json")
    assert code == 0
    assert long.endswith(json.loads(out)["prompt"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "translates, and there is no text"),
        (("A", "--beams", "3", "--temperature", "1"), "--temperature cannot be given"),
        (("A", "--beams", "3", "--seed", "1"), "--seed cannot be given"),
        (("A", "--beams", "3", "--top-k", "4"), "Leave out --top-k, or --beams"),
        (("A", "--beams", "3", "--trace"), "--trace"),
        (("A", "--length-penalty", "2"), "Give --beams 2 or more, or leave --length-penalty out"),
        (("A", "--beams", "3", "--verify"), "--verify"),
        (("A", "--beams", "3", "--num-samples", "4"), "at least --beams 4"),
    ],
)
def test_options_that_do_not_fit_a_translation_are_refused(translate, arguments, message):
    code, _, err = translate(*arguments)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_session_translates_line_by_line(translate, monkeypatch, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{TEXTS[0]}\n\n/add more\n{TEXTS[2]}\n/again\n")
    alone = [translate(text)[1] for text in TEXTS]
    with lines.open() as opened:
        monkeypatch.setattr("sys.stdin", opened)
        code, out, err = translate("-i")
    assert (code, out) == (2, alone[0] + alone[2] + alone[2])
    assert "no text to translate" in err
    assert "this model translates" in err


def test_next_shows_the_next_token_of_the_translation(folder, capsys, at_home):
    text = attncli.load(folder).generate_all(TEXTS[0], max_new_tokens=4)[0]
    begun = attncli.load(folder).tokenizer.decode(text.ids[:3])
    for target, id_ in (("", text.ids[0]), (begun, text.ids[3])):
        command = ["next", TEXTS[0], "-m", str(folder), "--target", target]
        document = json.loads(ask(capsys, *command, "--json")[1])
        assert document["target"] == target
        if attncli.load(folder).tokenizer.encode(target) == list(text.ids[: 3 if target else 0]):
            assert document["tokens"][0]["id"] == id_
        assert ("→" in ask(capsys, *command)[1]) == bool(target)
    code, _, err = ask(capsys, "next", "The cat", "--target", "Die")
    assert (code, "does not translate" in err) == (2, True)
    with pytest.raises(UsageProblem, match="target is the beginning"):
        attncli.load().next("The cat", target="Die")


def test_bench_says_that_it_does_not_measure_translations(folder, capsys):
    code, _, err = ask(capsys, "bench", str(folder))
    assert code == 2
    assert "measures models that continue a text" in err
    assert "--stats" in err


def test_special_tokens_have_names_for_other_programs(folder):
    described = json.loads((folder / "tokenizer_config.json").read_text())
    names = {name: described[f"{name}_token"] for name in ("bos", "unk", "pad", "eos")}
    assert names == {"bos": "<s>", "unk": "<unk>", "pad": "<pad>", "eos": "</s>"}


def test_the_library_refuses_to_score_one_text_by_a_model_that_translates(folder):
    with pytest.raises(attncli.UsageProblem, match="translates, and score scores one text") as refused:
        attncli.load(folder).score("The cat sat.")
    assert "attncli eval" in refused.value.hint
