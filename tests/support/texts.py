"""Texts that several tests use: random sentences to learn from, and text that would harm a terminal."""

import torch

WORDS = [
    *("the", "a", "small", "grey", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "near", "mat", "tree"),
    *("river", "and", "then", "while", "because", "it", "was", "warm", "cold", "late", "happy", "very", "quite"),
    *("never", "always", "said", "saw", "found", "lost", "old", "new", "friend", "house", "road", "hill", "moon"),
]


def story(words: int, seed: int = 0) -> str:
    """Returns random sentences over a small vocabulary, as a text to learn from."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [WORDS[i] for i in torch.randint(len(WORDS), (words,), generator=generator).tolist()]
    lines = [" ".join(drawn[i : i + 9]).capitalize() + "." for i in range(0, words, 9)]
    return "\n".join(lines) + "\n"


HOSTILE = "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\x7f\r\u202e\u200b[red]x[/red]:smile:"


INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories of invisible characters
