"""Translations of as many sources as time allows: which ones are translated, and that each keeps its own targets."""

from itertools import pairwise

import pytest

from attncli.errors import BadInput
from attncli.evaluation.translation import References, nearest_baseline, references_of, score_translations
from attncli.evaluation.translation_judgement import judge_translations

PAIRS = [(f"word{at} sleeps at night.", f"Wort{at} schläft in der Nacht.") for at in range(200)]
REFERENCES = references_of(PAIRS)
ANSWERS = dict(PAIRS)


class Translator:
    """Gives the first target of each source, and records the sources."""

    def __init__(self):
        self.asked = []

    def __call__(self, sources):
        self.asked += sources
        return [ANSWERS[source] for source in sources]


def test_every_translation_is_compared_with_the_targets_of_its_source():
    translator, done = Translator(), []
    found = judge_translations(translator, REFERENCES, progress=done.append)
    assert found.score == score_translations([target for _, target in PAIRS], REFERENCES)
    assert found.score.bleu == pytest.approx(100)
    assert sorted(translator.asked) == sorted(REFERENCES.sources)
    assert (found.scored, found.sources, found.baseline, done[-1]) == (200, 200, None, 200)
    assert done == sorted(done)


@pytest.mark.parametrize(
    ("most", "seconds", "count"), [(7, None, 7), (1000, None, 200), (None, -1.0, 50), (150, -1.0, 50)]
)
def test_a_part_is_spread_evenly_and_the_baseline_is_of_the_same_part(most, seconds, count):
    translator = Translator()
    found = judge_translations(translator, REFERENCES, PAIRS[:3], most, seconds)
    places = sorted(REFERENCES.sources.index(source) for source in translator.asked)
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) - min(gaps) <= 1
    assert found.scored == len(places) == count
    assert places[0] + len(PAIRS) - places[-1] <= max(gaps) + 1
    part = References(*(tuple(side[at] for at in places) for side in (REFERENCES.sources, REFERENCES.targets)))
    assert found.score.sentences == found.scored
    assert found.baseline == nearest_baseline(part, PAIRS[:3])


def test_no_source_is_refused():
    with pytest.raises(BadInput, match="no translations to score"):
        judge_translations(Translator(), references_of([]))
