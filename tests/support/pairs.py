"""Made-up pairs of sentences: a toy language whose words map one to one to another."""

import random

SOURCES = ["man", "woman", "dog", "cat", "boy", "girl", "bird", "fish", "king", "queen"]
TARGETS = ["Mann", "Frau", "Hund", "Katze", "Junge", "Kind", "Vogel", "Fisch", "König", "Dame"]
VERBS = {"sees": "sieht", "hears": "hört", "finds": "findet"}


def made_pairs(count=400, seed=0):
    """Returns pairs such as ('The dog sees the cat.', 'Der Hund sieht die Katze!'). Sources may repeat."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        a, b, verb = draw.randrange(10), draw.randrange(10), draw.choice(list(VERBS))
        adverb = draw.choice([("", ""), (" today", " heute"), (" again and again", " immer wieder")])
        source = f"The {SOURCES[a]} {verb} the {SOURCES[b]}{adverb[0]}."
        pairs.append((source, f"{TARGETS[a]} {VERBS[verb]} {TARGETS[b]}{adverb[1]}."))
    return pairs


def write_pairs(path, pairs):
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return str(path)
