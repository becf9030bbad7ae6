"""`attncli eval`: its figures equal those of transformers, and its screen shows them and fits the terminal."""

import io
import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import tokenizers
import torch

from attncli.checkpoint import catalog
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.evaluation.baselines import Baselines, measure
from attncli.evaluation.evaluate import evaluate
from attncli.evaluation.excerpt import Excerpt, ends_of, first_of
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.memorization import Memorization, Overlap
from attncli.evaluation.score import Score
from attncli.render.evaluation import comparison, evaluation_screen, judgement_document, measured_on, memorization_lines
from attncli.text.documents import Documents
from attncli.text.parts import Part
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from attncli.text.tokens import tokens_of
from tests.support.checkpoints import write_random_model
from tests.support.commands import ask
from tests.support.lazily import transformers
from tests.support.models import tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE, story

TEXT = story(1200, seed=5) + "naïve 東京 🎉\n"
TRAINING = story(2500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with texts and a random model in ./checkpoints; the texts are far longer than the model's context."""
    place = tmp_path_factory.mktemp("eval")
    tokenizer = train_tokenizer([TRAINING], "bpe", 300)
    write_random_model(place / "checkpoints/m", tokenizer, context=48)
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    (place / "training.txt").write_text(TRAINING, encoding="utf-8")
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def independent(path, text):
    """Scores a text with transformers, in windows that do not overlap: nats, tokens, characters and bytes.

    The tokens that the tokenizer puts before the text are not scored. If there are none, the first token of the text is
    not scored.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    asked = tokenizer(text, return_special_tokens_mask=True)
    ids, scored = torch.tensor(asked["input_ids"]), 1 - torch.tensor(asked["special_tokens_mask"])
    unread = ids[: scored[0]]  # the first token of the text; in the vocabulary, each byte is written as one character
    spelled, shown = "".join(tokenizer.convert_ids_to_tokens(unread.tolist())), tokenizer.decode(unread)
    scored[0] = 0
    nats, context = 0.0, model.config.max_position_embeddings
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, context):
            rows = ids[start : start + context + 1]
            logits = model(rows[None, :-1]).logits[0]
            each = torch.nn.functional.cross_entropy(logits, rows[1:], reduction="none")
            nats += (each * scored[start + 1 : start + context + 1]).sum().item()
    characters = len(text) - len(shown.replace("\N{REPLACEMENT CHARACTER}", ""))
    return nats, int(scored.sum()), characters, len(text.encode()) - len(spelled)


def compare_with_transformers(found, path, text):
    nats, scored, characters, size = independent(path, text)
    assert (found["scored_tokens"], found["characters"], found["bytes"]) == (scored, characters, size)
    expected = {
        "nats_per_token": nats / scored,
        "perplexity": math.exp(nats / scored),
        "nats_per_character": nats / characters,
        "bits_per_byte": nats / math.log(2) / size,
    }
    for key, figure in expected.items():
        assert math.isclose(found[key], figure, rel_tol=2e-5), key


@pytest.mark.parametrize("last", [1.0, 0.25])
def test_the_figures_equal_the_figures_of_transformers(here, capsys, last):
    code, out, _ = ask(capsys, "eval", "m", "text.txt", "--last", str(last), "--json")
    found = json.loads(out)
    text = TEXT[len(TEXT) - round(len(TEXT) * last) :]
    assert code == 0
    compare_with_transformers(found, here / "checkpoints/m", text)
    yardsticks = found["yardsticks"]
    assert (yardsticks["ngram_bits_per_byte"] is None) == (last == 1)
    assert yardsticks["given_bytes"] == len(TEXT.encode()) - len(text.encode())


OPENED = {"nothing": "$A", "a start token": "<s> $A", "a start token and an end": "<s> $A </s>", "two": "<s> </s> $A"}


@pytest.mark.parametrize("text", ["The grey cat", "東 sat", story(60), "T"])
@pytest.mark.parametrize("opened", OPENED)
def test_tokens_put_before_a_text_are_read_but_not_scored(opened, text, tmp_path, monkeypatch, capsys):
    """The text is short, so that one token too many or too few changes the figures."""
    if text == "T" and opened == "nothing":
        return  # nothing is left to score
    backend = tokenizers.Tokenizer.from_str(train_tokenizer([TRAINING], "bpe", 300).to_json())
    backend.add_special_tokens(["<s>", "</s>"])
    special = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = tokenizers.processors.TemplateProcessing(OPENED[opened], special_tokens=special)
    tokenizer = Tokenizer.from_json(backend.to_str())
    model = tiny_model(vocab_size=tokenizer.vocab_size, context=48, qk_norm=False)  # Llama
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=1))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    code, out, _ = ask(capsys, "eval", "m", "text.txt", "--json")
    assert code == 0
    compare_with_transformers(json.loads(out), tmp_path / "m", text)


def test_all_ways_to_name_a_model_and_a_text_give_the_same_score(here, capsys, monkeypatch):
    (here / "docs").mkdir(exist_ok=True)
    (here / "docs/only.txt").write_text(TEXT, encoding="utf-8")
    ways = [
        ["m", "text.txt"], ["checkpoints/m", "text.txt"], ["text.txt", "-m", "m"], ["text.txt"],
        ["m", "docs"], ["m", "-"],
    ]  # fmt: skip
    figures = []
    for way in ways:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="utf-8"))
        code, out, _ = ask(capsys, "eval", *way, "--json")
        assert code == 0
        figures.append(json.loads(out)["nats_per_token"])
    assert len(set(figures)) == 1


def test_the_baselines_learn_from_the_training_text(here, capsys):
    code, out, _ = ask(capsys, "eval", "m", "text.txt", "--train-file", "training.txt", "--json")
    found = json.loads(out)["yardsticks"]
    tokenizer = tokenizer_of_the_model()
    scored, given = (tokens_of(Part.whole(Documents.of([text])), tokenizer) for text in (TEXT, TRAINING))
    expected = measure(
        first_of(scored, tokenizer), tokenizer.vocab_size, *ends_of(Part.whole(Documents.of([TRAINING])), tokenizer)
    )
    assert code == 0
    assert found["given_bytes"] == given.bytes == expected.given
    for key, figure in expected.figures.items():
        assert found[f"{key}_bits_per_byte"] == figure


def tokenizer_of_the_model():
    return train_tokenizer([TRAINING], "bpe", 300)


def test_the_document_contains_the_comparison_of_the_screen(here, capsys):
    arguments = ["eval", "m", "text.txt", "--last", "0.5"]
    found = json.loads(ask(capsys, *arguments, "--json")[1])["diagnosis"]
    assert len(found) == 1
    assert " ".join(ask(capsys, *arguments)[1].split()).endswith(found[0])


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_a_warning_names_a_training_text_that_contains_the_scored_text(here, capsys, json_):
    (here / "both.txt").write_text(TRAINING + TEXT + TRAINING, encoding="utf-8")
    why = "the baselines read the scored text in advance, so their figures are too low"
    told = f"text.txt is contained in both.txt: {why}."
    code, out, err = ask(capsys, "eval", "m", "text.txt", "--train-file", "both.txt", *json_)
    assert code == 0
    assert told in err
    if json_:
        assert json.loads(out)["diagnosis"][1] == told
    assert told not in ask(capsys, "eval", "m", "text.txt", "--train-file", "training.txt", *json_)[2]
    (here / "short.txt").write_text(TEXT[:150], encoding="utf-8")  # a training text can contain it by chance
    assert "contained" not in ask(capsys, "eval", "m", "short.txt", "--train-file", "both.txt", *json_)[2]


@pytest.mark.parametrize("val_file", [None, "val.txt"])
def test_a_warning_says_that_the_model_was_trained_on_the_scored_text(tmp_path, monkeypatch, capsys, val_file):
    monkeypatch.chdir(tmp_path)
    for name, words in (("text.txt", 1500), ("val.txt", 400)):
        (tmp_path / name).write_text(story(words, seed=words), encoding="utf-8")
    short = ["--steps", "2", "--size", "1x32", "--context", "16", "--vocab-size", "300", "--dtype", "float32"]
    held_out = ["--val-file", val_file] if val_file else []
    assert ask(capsys, "train", "text.txt", *held_out, *short, "--name", "m")[0] == 0
    part = "" if val_file else "part of "  # without a validation text, the end of the text validates
    told = f"m was trained on {part}text.txt: its score does not measure generalization."
    code, out, err = ask(capsys, "eval", "m", "text.txt", "--json")
    assert code == 0
    assert told in err
    assert json.loads(out)["diagnosis"][1] == told
    assert "was trained on" not in ask(capsys, "eval", "m", "val.txt")[2]
    assert ("was trained on" in ask(capsys, "eval", "m", "text.txt", "--last", "0.1")[2]) == (val_file is not None)
    assert "was trained on" in ask(capsys, "eval", "m", "text.txt", "--last", "0.2")[2]


def test_the_screen_shows_the_figures_and_the_baselines(here, capsys):
    code, out, err = ask(capsys, "eval", "m", "text.txt", "--last", "0.5")
    assert code == 0
    for part in (
        "m on text.txt, the last 50%",
        "nats per token",
        "5-gram",
        "xz -9",
        "gzip -9",
        "given the text before it",
    ):
        assert part in out
    assert "tokens/s" in err
    assert " ".join(out.split()).endswith("of the same tokens, given all 3.1 kB of the text before it.")


def test_the_shipped_model_is_found_by_its_name(folder, tmp_path, capsys, monkeypatch):
    """The model is found from any folder, and the error for a wrong name lists it."""
    shipped = shutil.copytree(folder / "checkpoints" / "m", tmp_path / "with attncli" / catalog.DEFAULT)
    shutil.copy(folder / "text.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "_SHIPPED_FOLDERS", (shipped.parent,))
    code, out, _ = ask(capsys, "eval", catalog.DEFAULT, "text.txt")
    assert code == 0
    assert out.startswith(f"{catalog.DEFAULT} on text.txt")
    assert f"There is: {catalog.DEFAULT}." in ask(capsys, "eval", "storys", "text.txt")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no text to score"),
        (["m"], 2, "m is a model"),
        (["checkpoints/m"], 2, "is a model"),
        (["nosuch", "text.txt"], 3, "There is: m"),
        (["m", "nosuch.txt"], 3, "no file nosuch.txt"),
        (["nosuch.txt"], 3, "no file nosuch.txt"),
        (["text.txt", "-m", "nosuch"], 3, "no model 'nosuch'"),
        (["m", "text.txt", "--last", "0"], 2, "--last is 0.0"),
        (["m", "text.txt", "--last", "nan"], 2, "--last is nan"),
        (["m", "text.txt", "--encoding", "klingon"], 2, "klingon"),
        (["m", "text.txt", "--dtype", "int4"], 2, "--dtype"),
        (["m", "text.txt", "--train-file", "nosuch.txt"], 3, "no file nosuch.txt"),
        (["m", "one.txt"], 3, "no token to score"),
        (["a text " * 90], 3, "the name is too long"),
    ],
)
def test_every_mistake_gives_its_error_and_exit_code(here, capsys, arguments, code, said):
    (here / "one.txt").write_text("a")
    found, _, err = ask(capsys, "eval", *arguments)
    assert found == code
    assert said in err


def test_a_text_with_no_token_to_score_is_refused_before_the_progress_bar(here, monkeypatch, capsys):
    (here / "one.txt").write_text("a")
    monkeypatch.setattr("attncli.cli.bodies.eval.evaluation_progress", None)
    code, _, err = ask(capsys, "eval", "m", "one.txt")
    assert (code, "no token to score" in err) == (3, True)


@pytest.mark.parametrize("nats", [math.nan, math.inf])
def test_a_model_whose_probabilities_are_not_numbers_is_an_error(here, monkeypatch, capsys, nats):
    monkeypatch.setattr("attncli.evaluation.evaluate.evaluate", lambda *_, **__: Score(nats, 9, 9.0, 9.0))
    code, out, err = ask(capsys, "eval", "m", "text.txt", "--json")
    assert (code, out) == (3, "")
    assert "not numbers" in err


def test_progress_ends_at_the_number_of_scored_tokens():
    model = tiny_model(vocab_size=257, context=64)
    tokens = tokens_of(Part.whole(Documents.of(["ab" * 32 * 300])), byte_tokenizer())  # the last window is shorter
    told = []
    score = evaluate(model, tokens, progress=told.append)
    assert told == sorted(told)
    assert 0 <= score.scored - told[-1] < 64
    assert len(told) > 1


# Drawing


SCORE = Score(nats=math.log(2) * 2000, scored=400, characters=1000.0, bytes=1000.0)  # 2 bits per byte
FIVE = "a 5-gram model of the same tokens, given all 900 B of the training text"
FIGURES = {"gzip": 3.0, "xz": 2.5, "ngram": 1.6}
BASELINES = Baselines(FIGURES, given=900, given_of=900, scored=100, scored_of=100, counted=900)


@pytest.mark.parametrize(
    ("xz", "ngram", "line"),
    [
        (2.5, 1.6, f"The model needs 20% fewer bits than xz -9 and 25% more than {FIVE}."),
        (2.5, None, "The model needs 20% fewer bits than xz -9."),
        (4.0, None, "The model needs 33% fewer bits than gzip -9."),
        (2.001, 4.0, f"The model needs as many bits as xz -9 and 50% fewer than {FIVE}."),
        (1.0, 2.0, f"The model needs 100% more bits than xz -9 and as many as {FIVE}."),
        (0.0, None, "The model needs more bits than xz -9, which needs none."),
        (0.0, 1.6, f"The model needs more bits than xz -9, which needs none, and 25% more than {FIVE}."),
        (2.5, 0.0, f"The model needs 20% fewer bits than xz -9 and more than {FIVE}, which needs none."),
        (0.1, None, "The model needs 20 times as many bits as xz -9."),
        (2.01, 5000.0, f"The model needs as many bits as xz -9 and over 99.9% fewer than {FIVE}."),
    ],
)
def test_the_closing_line_compares_the_model_with_the_baselines(xz, ngram, line):
    figures = {"gzip": 3.0, "xz": xz, "ngram": ngram}
    baselines = Baselines(figures, given=999, given_of=900, scored=1, scored_of=1, counted=900)
    assert comparison(SCORE, baselines) == line
    sampled = comparison(SCORE, baselines, share=0.27)
    assert sampled.startswith(
        "Roughly, since the model scored an even 27% of the text and the baselines all of it, the model needs "
    )
    first = comparison(SCORE, replace(baselines, scored_of=2))
    assert first.startswith(
        "Roughly, since the model scored all of the text and the baselines its first 1 B, the model needs "
    )


@pytest.mark.parametrize(
    ("given", "given_of", "scored", "line"),
    [
        (900, 900, 100, "xz, gzip and the 5-gram: this text, given the training text"),
        (
            900,
            9000,
            50,
            "xz, gzip and the 5-gram: the first 50 B of this text, given the last 900 B of the training text",
        ),
        (0, 0, 50, "xz and gzip: the first 50 B of this text alone"),
        (0, 0, 100, "xz and gzip: this text alone"),
    ],
)
def test_the_line_below_the_table_names_the_text_that_the_baselines_read(given, given_of, scored, line):
    figures = FIGURES | ({} if given else {"ngram": None})
    baselines = Baselines(figures, given, given_of, scored, 100, given)
    assert measured_on(baselines, "the training text") == line
    assert measured_on(baselines, "the training text", 0.27) == f"{line}; the model: an even 27% of this text"


@pytest.mark.parametrize("score", [0.0, 1e-9, 0.603, 2.0, 9.0])
@pytest.mark.parametrize("packed", [0.0, 1e-9, 0.0005, 2.0, 2.009, 2.9])
def test_the_closing_line_is_true_for_any_two_figures(score, packed):
    line = comparison(
        replace(SCORE, nats=score * 1000 * math.log(2)), replace(BASELINES, figures={"gzip": 3.0, "xz": packed})
    )
    relation = re.fullmatch(r"The model needs (.*) bits (than|as) xz -9(, which needs none)?\.", line)
    said = relation[1].split()[-1]
    assert said == ("many" if abs(score - packed) <= 0.005 * packed else "fewer" if score < packed else "more") or (
        score > 10 * packed > 0 and "times as many" in line
    )
    assert (relation[3] is not None) == (packed == 0 < score)
    assert ("100% fewer" in line) == (0 == score < packed)


def test_the_line_below_the_table_says_how_much_text_the_5_gram_read():
    more = replace(BASELINES, given=100, counted=450)
    assert measured_on(more, "the training text") == (
        "xz, gzip and the 5-gram: this text; xz and gzip given the last 100 B of the training text, the 5-gram the "
        "last 450 B of it"
    )
    assert measured_on(replace(more, counted=900), "X").endswith(
        "xz and gzip given the last 100 B of X, the 5-gram all of it"
    )
    assert comparison(SCORE, replace(more, scored=900)).endswith(
        "given the last 450 B (of 900 B) of the training text."
    )


def test_copied_text_is_described_in_sentences():
    found = Memorization(Overlap(tokens=80, start=2, length=13, windows=73, new=70), "to be or not\nto be", 0.9975)
    assert memorization_lines(found) == [
        "The longest stretch that the sample shares with the training text has 13 tokens, 18 characters, from token "
        "3 on: to be or not␊to be",
        "96% of its 8-token windows do not occur in the training text; for real text kept from training, the share is "
        "99.8%.",
    ]
    assert memorization_lines(found, 79)[0].startswith(
        "The longest stretch that a sample of 80 tokens (it begins as above) shares with the training text has 13 "
    )
    assert memorization_lines(Memorization(Overlap(3, 0, 0, 0, 0), "")) == [
        "No token of the sample occurs in the training text."
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_screen_fits_its_width_and_escapes_hostile_text(width):
    found = Memorization(Overlap(80, 2, 13, 73, 70), HOSTILE * 9, 0.5)
    judgement = Judgement(SCORE, BASELINES, found, ("Validation was still falling.",))
    drawn = shown(evaluation_screen(HOSTILE, HOSTILE, judgement, width, "the training text"), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    for figure in ("2.000", "1.600", "2.500", "3.000"):
        assert figure in drawn
    bars = {line.split()[0]: line.count("█") for line in drawn.splitlines() if "█" in line}
    if width >= 40:
        assert bars["gzip"] > bars["xz"] > bars["model"] > bars["5-gram"] > 0


def test_unmeasured_values_are_null_and_all_others_are_in_the_document():
    assert judgement_document(Judgement(SCORE)) == {"yardsticks": None, "memorization": None, "diagnosis": []}
    document = judgement_document(Judgement(SCORE, BASELINES, Memorization(Overlap(80, 2, 13, 73, 70), "x"), ("A.",)))
    assert document["yardsticks"]["xz_bits_per_byte"] == 2.5
    assert document["memorization"]["longest_tokens"] == 13
    json.dumps(document, allow_nan=False)


def test_only_the_end_of_a_long_training_text_is_tokenized():
    tokenizer = byte_tokenizer()
    texts = ("x" * 5000, "é" * 400)
    part = Part.whole(Documents.of(texts))
    found, counted = ends_of(part, tokenizer, most=1000, characters=1000)
    assert isinstance(found, Excerpt)
    assert found.of == 5800
    assert found.data.decode().endswith("é" * 400)
    assert 900 <= len(found.data) <= 1000
    assert counted.bytes == 1400  # the last 1,000 characters, of which 400 have two bytes
    assert ends_of(part, tokenizer)[0].data.decode() == "".join(texts)


def test_a_text_too_short_for_gzip_and_xz_is_not_compared():
    short = replace(BASELINES, given=0, figures=FIGURES | {"ngram": None}, scored=46)
    assert comparison(SCORE, short) == (
        "The text is too short for a comparison: gzip and xz need 1,000 bytes to learn from, and had 46."
    )
    assert "fewer bits than" in comparison(SCORE, replace(short, scored=1000))
