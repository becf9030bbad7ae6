"""The measured part of the model card of the translator, written by `card.py`.

It consists of BLEU and chrF2 on the test pairs, in all and by the length of the source; the loss on the validation and
the test pairs; the alignment error rates of `attncli align`; and translations of sentences that were written for the
card before the model was trained. The folder of the pairs contains tatoeba-en-de.train.tsv, tatoeba-en-de.valid.tsv,
tatoeba-en-de.test.tsv and align-de-en.gold.tsv.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

import attncli
from attncli.checkpoint.load import LoadedModel, load_model
from attncli.evaluation.alignment import LINK_METHODS, LinkMethod, Links
from attncli.evaluation.alignment_baselines import compare_with_baselines
from attncli.evaluation.evaluate_pairs import score_pairs
from attncli.evaluation.pair_words import Split
from attncli.evaluation.translation import NotScored, References, TranslationScore, references_of
from attncli.evaluation.translation_judgement import TranslationJudgement, judge_translations
from attncli.generation.loading import backend_for
from attncli.text.pair_tokens import tokenize_pairs
from attncli.text.pairs import Pairs, read_pairs
from attncli.text.progress import Progress, ProgressMeter
from attncli.text.words import split_words
from attncli.training.translations import translate
from benchmarks.align import europarl_gold, tatoeba_gold, tatoeba_texts

BEAMS = 4
MOST_WORDS = 1 << 30
LENGTHS = ((1, 5), (6, 8), (9, 12), (13, MOST_WORDS))  # words of a source, with punctuation marks
SENTENCES = (
    "The dog sleeps.",
    "I am hungry.",
    "Where is the train station?",
    "My sister lives in Berlin.",
    "Can you help me?",
    "We don't have any bread at home.",
    "It was raining all day yesterday.",
    "There are seven chairs in the kitchen.",
    "Please close the window before you leave.",
    "She has been learning the piano for three years.",
    "He asked me whether I had seen his keys.",
    "The letter was written by my grandmother.",
    "The book that you gave me is on the table.",
    "Do you want to go to the cinema with us tonight?",
    "I would have called you if I had known your number.",
    "Tom is taller than his brother, but he is not as strong.",
    "Although it was late, the children were not tired.",
    "The train to Hamburg leaves at half past eight.",
    "My neighbor's cat caught two mice in our garden.",
    "The government wants to lower taxes next year.",
    "A photographer from Lisbon repaired the old camera with a tiny screwdriver.",
    "Attention moves information from one word of a sentence to another.",
    "When we arrived at the station, the train had already left, so we took a taxi to the hotel and had dinner there.",
)


def measured(model: Path, folder: Path) -> str:
    """Returns the measured part of the card of a model that was trained on the pairs of a folder."""
    train, valid, test = (
        read_pairs([str(folder / f"tatoeba-en-de.{part}.tsv")]) for part in ("train", "valid", "test")
    )
    loaded = load_model(model, torch.device("cpu"), torch.float32)
    return "\n".join(
        (
            translation_scores(loaded, references_of(test), list(train)),
            losses(loaded, valid, test),
            error_rates(model, folder, train),
            samples(loaded, train),
        )
    )


def translation_scores(loaded: LoadedModel, references: References, train: Sequence[tuple[str, str]]) -> str:
    """Returns the table of BLEU and chrF2 on the test pairs, and the table of the greedy translations by length."""
    greedy, searched = judged(loaded, references, train), judged(loaded, references, beams=BEAMS)
    score = scored(greedy.score)
    rows = (
        ("greedy", score),
        (f"{BEAMS} beams", scored(searched.score)),
        ("target of the nearest training source", scored(greedy.baseline)),
    )
    return (
        f"| {score.sentences:,} test sources, compared with {score.references:,} targets | BLEU | chrF2 |\n"
        f"| --- | --- | --- |\n{_rows(rows)}\n"
        f"sacreBLEU, detokenized: BLEU `{score.bleu_signature}`, chrF2 `{score.chrf_signature}`.\n\n"
        f"{by_length(loaded, references)}"
    )


def judged(
    loaded: LoadedModel, references: References, train: Sequence[tuple[str, str]] = (), beams: int = 1
) -> TranslationJudgement:
    """Returns the scores of the translations of all sources, as `attncli eval` computes them."""
    return judge_translations(partial(translate, loaded, backend_for(loaded.model), beams=beams), references, train)


def scored(score: TranslationScore | NotScored | None) -> TranslationScore:
    """Returns a score that was computed. Exits if sacrebleu is not installed."""
    if not isinstance(score, TranslationScore):
        raise SystemExit(f"There is no score: {score}")
    return score


def by_length(loaded: LoadedModel, references: References) -> str:
    """Returns the table of the scores of greedy translations by the number of words of the source."""
    rows = []
    for first, last in LENGTHS:
        pairs = [
            (source, target)
            for source, targets in zip(references.sources, references.targets, strict=True)
            for target in targets
            if first <= len(split_words(source)) <= last
        ]
        if pairs:
            score = scored(judged(loaded, references_of(pairs)).score)
            name = f"{first} to {last}" if last < MOST_WORDS else f"{first} or more"
            rows.append((f"{name}: {score.sentences:,} sources", score))
    return (
        f"| greedy, by words and punctuation marks of the source | BLEU | chrF2 |\n| --- | --- | --- |\n{_rows(rows)}"
    )


def _rows(scores: Sequence[tuple[str, TranslationScore]]) -> str:
    return "".join(f"| {name} | {score.bleu:.1f} | {score.chrf:.1f} |\n" for name, score in scores)


def losses(loaded: LoadedModel, valid: Pairs, test: Pairs) -> str:
    """Returns the table of the loss on the targets of the validation pairs and of the test pairs."""
    table = "| loss on the targets, by `attncli eval` | bits per byte | nats per token |\n| --- | --- | --- |\n"
    for name, pairs in (("validation pairs, which chose the best weights", valid), ("test pairs", test)):
        meter = ProgressMeter(None, Progress("tokenizing", 0, pairs.bytes))
        tokens = tokenize_pairs(pairs, loaded.tokenizer, meter).within(loaded.model.config.context)
        score = score_pairs(loaded, tokens)
        table += f"| {len(tokens):,} {name} | {score.bits_per_byte:.4f} | {score.per_token:.4f} |\n"
    return table


def error_rates(model: Path, folder: Path, train: Pairs) -> str:
    """Returns the table of alignment error rates against links made by hand."""
    training = [(split_words(source), split_words(target)) for source, target in train]
    test = folder / "tatoeba-en-de.test.tsv"
    tatoeba, europarl = tatoeba_gold(test), europarl_gold(folder / "align-de-en.gold.tsv")
    spaced = [(" ".join(pair.source), " ".join(pair.target)) for pair in europarl]
    compared = [
        compare_with_baselines(links_of(model, tatoeba_texts(test), "words"), tatoeba, training),
        compare_with_baselines(links_of(model, spaced, "spaces"), europarl, training),
    ]
    rows = {f"`attncli align --method {method}`": [one.methods[method] for one in compared] for method in LINK_METHODS}
    rows |= {name: [one.baselines[name] for one in compared] for name in compared[0].baselines}
    return (
        f"| alignment error rate, in % | {len(tatoeba)} test pairs | {len(europarl)} pairs of Europarl |\n"
        "| --- | --- | --- |\n"
        + "".join(
            f"| {name} | {' | '.join(f'{100 * score.error_rate:.1f}' for score in scores)} |\n"
            for name, scores in rows.items()
        )
        + "\n`attncli align` was given these pairs alone. The HMM and IBM Model 1 were trained on these pairs and the "
        f"{len(training):,} training pairs.\n"
    )


def links_of(model: Path, texts: Sequence[tuple[str, str]], split: Split) -> dict[LinkMethod, list[Links]]:
    """Returns the links of each pair, as each method of `attncli align` makes them."""
    translator = attncli.load(model)
    sources, targets = [source for source, _ in texts], [target for _, target in texts]
    return {
        method: [frozenset(one.links) for one in translator.align_all(sources, targets, method=method, split=split)]
        for method in LINK_METHODS
    }


def samples(loaded: LoadedModel, train: Pairs) -> str:
    """Returns the greedy translations of SENTENCES, and how many of them are training sources."""
    known = {source for source, _ in train}
    made = translate(loaded, backend_for(loaded.model), SENTENCES)
    seen = sum(sentence in known for sentence in SENTENCES)
    rows = "".join(f"| {source} | {target} |\n" for source, target in zip(SENTENCES, made, strict=True))
    return (
        f"## {len(SENTENCES)} translations, none selected\n\n"
        "The sentences were written before the model was trained; "
        f"{seen or 'none'} of them {'is a training source' if seen == 1 else 'are training sources'}. "
        f"The translations are greedy.\n\n| English | German |\n| --- | --- |\n{rows}"
    )
