"""Sentence pairs, English and German, with word links made by hand: 0-0 is sure, 1p2 possible."""

from attncli.evaluation.alignment import GoldPair, read_gold

GOLD_LINES = (
    "The dog sleeps .\tDer Hund schläft .\t0-0 1-1 2-2 3-3",
    "The cat sleeps .\tDie Katze schläft .\t0-0 1-1 2-2 3-3",
    "The dog eats .\tDer Hund frisst .\t0-0 1-1 2-2 3-3",
    "The cat eats the fish .\tDie Katze frisst den Fisch .\t0-0 1-1 2-2 3-3 4-4 5-5",
    "The man sees the dog .\tDer Mann sieht den Hund .\t0-0 1-1 2-2 3-3 4-4 5-5",
    "The man has a dog .\tDer Mann hat einen Hund .\t0-0 1-1 2-2 3-3 4-4 5-5",
    "The woman has a cat .\tDie Frau hat eine Katze .\t0-0 1-1 2-2 3-3 4-4 5-5",
    "The woman sees the man .\tDie Frau sieht den Mann .\t0-0 1-1 2-2 3-3 4-4 5-5",
    "Today the dog sleeps .\tHeute schläft der Hund .\t0-0 1-2 2-3 3-1 4-4",
    "Today the man eats a fish .\tHeute isst der Mann einen Fisch .\t0-0 1-2 2-3 3-1 4-4 5-5 6-6",
    "The dog has slept .\tDer Hund hat geschlafen .\t0-0 1-1 2-2 3-3 4-4",
    "The man has seen the cat .\tDer Mann hat die Katze gesehen .\t0-0 1-1 2-2 3-5 4-3 5-4 6-6",
    "The woman has eaten the fish .\tDie Frau hat den Fisch gegessen .\t0-0 1-1 2-2 3-5 4-3 5-4 6-6",
    "The man does not see the cat .\tDer Mann sieht die Katze nicht .\t0-0 1-1 2p2 3-5 4-2 5-3 6-4 7-6",
    "The woman does not sleep .\tDie Frau schläft nicht .\t0-0 1-1 2p2 3-3 4-2 5-4",
    "Does the dog sleep ?\tSchläft der Hund ?\t0p0 1-1 2-2 3-0 4-3",
    "Where is the dog ?\tWo ist der Hund ?\t0-0 1-1 2-2 3-3 4-4",
    "I know that the cat sleeps .\tIch weiß , dass die Katze schläft .\t0-0 1-1 2-3 3-4 4-5 5-6 6-7",
    "I would like to eat a fish .\tIch möchte einen Fisch essen .\t0-0 1-1 2-1 3p4 4-4 5-2 6-3 7-5",
    "The cat is on the table .\tDie Katze ist auf dem Tisch .\t0-0 1-1 2-2 3-3 4-4 5-5 6-6",
)


def gold_pairs() -> list[GoldPair]:
    """Returns the pairs as `read_gold` reads them."""
    return read_gold(GOLD_LINES, "alignments.py")
