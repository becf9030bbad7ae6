"""Scores of translations equal sacrebleu's and a hand-computed BLEU; the baseline finds the most similar source."""

import math
import subprocess
import sys

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.errors import BadInput
from attncli.evaluation import nearest
from attncli.evaluation.nearest import nearest_targets
from attncli.evaluation.translation import (
    NOT_INSTALLED,
    References,
    nearest_baseline,
    references_of,
    score_translations,
)

PAIRS = [
    ("The dog sleeps.", "Der Hund schläft."),
    ("Be careful.", "Sei vorsichtig!"),
    ("Be careful.", "Gib acht!"),
    ("The dog sleeps.", "Der Hund schläft."),
    ("Be careful.", "Pass auf, bitte!"),
    ("Where is the old house?", "Wo ist das alte Haus?"),
]


def test_pairs_are_grouped_by_their_source():
    found = references_of(PAIRS)
    assert found.sources == ("The dog sleeps.", "Be careful.", "Where is the old house?")
    assert found.targets[1] == ("Sei vorsichtig!", "Gib acht!", "Pass auf, bitte!")
    assert found.targets[0] == ("Der Hund schläft.",)  # a target that occurs twice is one reference
    assert found.count == 5


def test_bleu_of_a_small_example():
    """Hypothesis "a b c d e", reference "a b c d f g": 4/5, 3/4, 2/3, 1/2; the brevity penalty is exp(1 - 6/5)."""
    score = score_translations(["a b c d e"], References(("x",), (("a b c d f g",),)))
    assert score.bleu == pytest.approx(100 * math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))
    assert (score.sentences, score.references, score.length_ratio) == (1, 1, 5 / 6)


def test_the_best_of_several_references_counts():
    """One of the references contains each n-gram, and the reference of the nearer length gives no brevity penalty."""
    score = score_translations(["a b c d e"], References(("x",), (("a b c d", "z b c d e"),)))
    assert score.bleu == pytest.approx(100 * (5 / 5 * 4 / 4 * 3 / 3 * 1 / 2 * 2) ** (1 / 4))
    assert score.chrf == pytest.approx(sacrebleu.CHRF().sentence_score("a b c d e", ["a b c d", "z b c d e"]).score)


def test_scores_and_signatures_equal_sacrebleu_called_directly():
    references = references_of(PAIRS)
    translations = ["Der Hund schläft.", "Gib bitte acht!", "Wo ist das Haus?"]
    score = score_translations(translations, references)
    streams = [
        ["Der Hund schläft.", "Sei vorsichtig!", "Wo ist das alte Haus?"],
        [None, "Gib acht!", None],
        [None, "Pass auf, bitte!", None],
    ]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    assert score.bleu == bleu.corpus_score(translations, streams).score
    assert score.chrf == chrf.corpus_score(translations, streams).score
    assert (score.bleu_signature, score.chrf_signature) == (str(bleu.get_signature()), str(chrf.get_signature()))
    assert "nrefs:var" in score.bleu_signature
    assert (score.sentences, score.references) == (3, 5)


def test_a_single_reference_gives_the_bleu_of_one_list_of_references():
    translations = ["Der Hund schläft.", "Gib acht!"]
    references = References(("a", "b"), (("Der Hund schläft nicht.",), ("Gib bitte acht!",)))
    score = score_translations(translations, references)
    assert score.bleu == sacrebleu.corpus_bleu(translations, [[one[0] for one in references.targets]]).score
    assert "nrefs:1" in score.bleu_signature


def test_a_missing_reference_is_not_an_empty_one():
    """With "" in place of None, the nearest reference length would be 0, and BLEU would be too high."""
    references = References(("a", "b"), (("x y z v w",), ("a b c d e", "a b c d e f")))
    score = score_translations(["x y", "a b c d e"], references)
    assert score.length_ratio == 7 / 10
    assert (
        score.bleu < sacrebleu.BLEU().corpus_score(["x y", "a b c d e"], [["x y z v w", "a b c d e"], ["", ""]]).score
    )


def test_a_perfect_translation_scores_100_and_a_text_of_other_words_scores_0():
    references = references_of(PAIRS)
    score = score_translations([one[-1] for one in references.targets], references)
    assert (score.bleu, score.chrf) == (pytest.approx(100), pytest.approx(100))
    assert score_translations(["q", "q", "q"], references).bleu == 0
    assert score_translations(["", "", ""], references).bleu == 0


def test_nothing_to_score_is_refused():
    with pytest.raises(BadInput, match="no translations to score"):
        score_translations([], references_of([]))


def test_without_sacrebleu_the_result_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    references = references_of(PAIRS)
    assert score_translations(["a", "b", "c"], references) is NOT_INSTALLED
    assert nearest_baseline(references, PAIRS) is NOT_INSTALLED
    assert "pip install 'attncli[translation]'" in NOT_INSTALLED.hint


def test_sacrebleu_is_imported_only_when_it_is_used():
    code = "import sys, attncli.evaluation.translation; sys.exit('sacrebleu' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def trigrams(text):
    text = f"  {text.lower()}  "
    return {text[i : i + 3] for i in range(len(text) - 2)}


def similarity(one, other):
    a, b = trigrams(one), trigrams(other)
    return 2 * len(a & b) / (len(a) + len(b))


words = st.lists(st.sampled_from(["the", "dog", "Dog", "cat", "sleeps", "東京", "😀", ""]), max_size=5).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, max_size=4), st.lists(words | st.text(max_size=6), min_size=1, max_size=8))
def test_the_nearest_source_has_the_largest_similarity(sources, known):
    found = nearest_targets(sources, [(text, str(at)) for at, text in enumerate(known)])
    expected = [max(range(len(known)), key=lambda at: similarity(source, known[at])) for source in sources]
    assert found == [str(at) for at in expected]


def test_the_baseline_is_scored_like_a_model():
    training = [("The dog sleeps here.", "Der Hund schläft hier."), ("Be very careful!", "Sei sehr vorsichtig!")]
    references = references_of(PAIRS[:2])
    expected = score_translations(["Der Hund schläft hier.", "Sei sehr vorsichtig!"], references)
    assert nearest_baseline(references, training) == expected


def test_a_large_training_text_is_searched_in_part(monkeypatch):
    training = [("a dog", "1"), ("the dog", "2"), ("a cat", "3"), ("a bird", "4")]
    assert nearest_targets(["the dog"], training) == ["2"]
    monkeypatch.setattr(nearest, "MOST_CHARACTERS", 20)
    assert nearest_targets(["the dog"], training) == ["1"]
