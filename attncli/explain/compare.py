"""Compares a word in two texts: the cosine of its residual streams by layer, and each token's part of their distance.

A word of several tokens is compared at its last token, which attends to the whole word. With a causal mask, later
tokens cannot affect the word, so each text is read only up to the word. An encoder-decoder reads both texts with its
encoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from attncli.errors import BadInput, UsageProblem
from attncli.explain.contributions import by_head, contribution_norms, normalized, through_output
from attncli.explain.locate import Span, find_span
from attncli.explain.question import Floats, layers_read, refuse_length
from attncli.explain.reading import read_text, text_stack
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.stack import Block
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_ORDINALS = "first", "second"
_EXAMPLE = '"He could not bear" and "He saw a bear"'


@dataclass(frozen=True)
class WordInText:
    """A word in one of two texts, with the pull and the share of each token up to the word.

    The pull of a source is the distance by which it moves this text's stream away from the other text's stream, summed
    over heads and layers. A negative pull moves the two streams closer. `compare` gives the formula.
    """

    pieces: tuple[Piece, ...]  # the whole text
    first: int  # the word's first token
    at: int  # the word's last token, whose stream is compared
    pulls: Floats | None  # (S,), of each source, in units of the stream; None for a post-norm model
    shares: Floats  # (S,), norm-weighted, of each source, as in Sources; S is at + 1, or all tokens without a mask


@dataclass(frozen=True)
class Comparison:
    """The comparison of one word in two texts.

    The pulls of both texts, `feed_forward` and `embedding` sum to `distance`. Each of these terms is the part of the
    distance that comes from one component. A bias adds the same vector in both texts, so there is no term for biases.
    In a post-norm model, a norm rescales every sum, so these terms are None.
    """

    words: tuple[WordInText, WordInText]
    layers: int
    heads: int
    cosines: Floats  # (layers + 1,), of the two streams: at the embedding, then after each layer
    others: Floats | None  # (layers + 1,), mean over pairs of different tokens; None without such a pair
    layer: int  # the number of layers after which the difference is measured
    distance: float  # the length of the difference of the two streams after `layer` layers
    feed_forward: float | None
    embedding: float | None  # the token embedding, plus the position embedding if positions are learned
    of_encoder: bool = False  # whether the encoder of an encoder-decoder read the texts


def compare(
    model: Transformer, texts: Sequence[Sequence[Piece]], words: Sequence[Span], layer: int | None = None
) -> Comparison:
    """Returns the cosine and the distance of a word's streams in two texts, and what each source adds to the distance.

    Each text is given as its tokens and the span of the word.

    Let s and t be the word's streams in the first and the second text after `layer` layers (None: all layers). Then
    s - t is the difference of the embeddings, plus the differences of the attention outputs and feed-forward outputs of
    these layers. Every term is projected on u, the direction of s - t. So the projections sum to the length of s - t.

    In each layer, the projection of a text's attention output is divided among the tokens of the text. Token j gets the
    sum over heads h of a_hj u.(f_h(x_j) - m_h). Here a_hj is the attention weight of token j, f_h(x_j) is its value
    vector multiplied by head h's part of the output matrix, and m_h is the mean of head h's outputs in the two texts.
    Subtracting m_h removes what all tokens have in common. The weights of a head sum to 1, so m_h cancels in the
    difference between the texts. The terms of the second text have the opposite sign.

    Raises:
        BadInput: for a text without tokens, or a word beyond the context.
        UsageProblem: for a layer that does not exist.
    """
    layers = len(text_stack(model).blocks)
    after = layers_read(layers, layer)
    one, other = (_read(model, text, at) for text, (_, at) in zip(texts, words, strict=True))
    difference = one.streams[after][one.at] - other.streams[after][other.at]
    distance = float(difference.norm())
    # Equal streams have no direction of difference, so all projections are 0.
    direction = difference / distance if distance > 0 else torch.zeros_like(difference)
    adds = model.config.pre_norm
    pulls = _pulls(model, one, other, direction, after) if adds else (None, None)
    fed = sum((one.fed[at] - other.fed[at] for at in range(after)), torch.zeros_like(difference))
    embedded = one.streams[0][one.at] - other.streams[0][other.at]
    return Comparison(
        words=(
            WordInText(tuple(texts[0]), *words[0], pulls[0], _mean_shares(one, after)),
            WordInText(tuple(texts[1]), *words[1], pulls[1], _mean_shares(other, after)),
        ),
        layers=layers,
        heads=model.config.heads,
        cosines=_cosines(one, other),
        others=_cosines_of_others(one, other),
        layer=after,
        distance=distance,
        feed_forward=float(fed @ direction) if adds else None,
        embedding=float(embedded @ direction) if adds else None,
        of_encoder=model.encoder is not None,
    )


def find_words(texts: Sequence[Sequence[Piece]], tokens: Sequence[str]) -> tuple[Span, Span]:
    """Finds the span of the word in each of two texts.

    `tokens` names the word: one name for both texts, or one name for each text. If `tokens` is empty, the only word
    that occurs in both texts is compared.

    Raises:
        BadInput: for a text without tokens.
        UsageProblem: when a text does not have the word, or has it more than once; the message lists the candidates.
    """
    for ordinal, text in zip(_ORDINALS, texts, strict=True):
        if not text:
            raise BadInput(f"The {ordinal} text has no tokens.", f"Give two texts, such as {_EXAMPLE}.")
    if len(tokens) > 2:
        raise UsageProblem.naming(
            lambda name: (
                f"{name('token')} is given {len(tokens)} times.",
                "Give it once for both texts, or twice, first for the first text.",
            )
        )
    names = list(tokens) or [_shared_word(texts)]
    first, second = (
        _find(text, name, ordinal) for text, name, ordinal in zip(texts, (names[0], names[-1]), _ORDINALS, strict=True)
    )
    return first, second


def _find(text: Sequence[Piece], name: str, ordinal: str) -> Span:
    """Returns the span that `find_span` finds; an error says in which of the two texts the search failed."""
    try:
        return find_span(text, name)
    except UsageProblem as problem:
        texts, more = problem.texts, "twice, first for the first text, to name a token of each text."
        raise UsageProblem.naming(
            lambda named: (
                f"In the {ordinal} text: {texts(named)[0]}",
                f"{texts(named)[1]} Give {named('token')} {more}",
            )
        ) from None


def _shared_word(texts: Sequence[Sequence[Piece]]) -> str:
    """Returns the word that occurs in both texts. Raises UsageProblem if there is no such word, or several."""
    first, second = (_WORD.findall("".join(piece.completed for piece in text)) for text in texts)
    shared = [word for word in dict.fromkeys(first) if word in second]
    if len(shared) == 1:
        return str(shared[0])
    message = f"The two texts share {len(shared) or 'no'} word{'s' if shared else ''}."
    if shared:
        raise UsageProblem.naming(lambda name: (message, f"Say which: {_listed(shared, name('token'))}."))
    if not (first and second):
        raise UsageProblem(message, f"Give two texts with one word in both, such as {_EXAMPLE}.")
    raise UsageProblem.naming(
        lambda name: (
            message,
            f"Give two texts with one word in both, or name one in each: {name('token')} {first[-1]} {name('token')} "
            f"{second[-1]}.",
        )
    )


def _listed(words: Sequence[str], name: str) -> str:
    """Returns the words as values of a setting: '--token bank or --token river'; a list of many words is cut off."""
    return " or ".join(f"{name} {word}" for word in words[:12]) + (" …" if len(words) > 12 else "")


@dataclass
class _Reading(Observer):
    """Records the values of one forward pass, as float64 tensors on the CPU.

    `weights`, `fed` and `shares` hold values of the token `at` only.
    """

    at: int
    streams: list[Tensor] = field(default_factory=list)  # (T, C), at the embedding and after each layer
    weights: list[Tensor] = field(default_factory=list)  # (H, T) per layer
    values: list[Tensor] = field(default_factory=list)  # (K, T, D) per layer
    fed: list[Tensor] = field(default_factory=list)  # (C,) per layer
    shares: list[Tensor] = field(default_factory=list)  # (T,) per layer
    ids: list[int] = field(default_factory=list)

    def residual(self, layer: int, stream: Tensor) -> None:
        self.streams.append(stream[0].cpu().double())

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.weights.append(steps.weights[0, :, self.at].cpu().double())
        self.values.append(steps.value[0].cpu().double())
        norms = contribution_norms(steps, module, self.at)[1].cpu().double()
        self.shares.append(normalized(norms))

    def feed_forward(self, layer: int, output: Tensor) -> None:
        self.fed.append(output[0, self.at].cpu().double())


def _read(model: Transformer, pieces: Sequence[Piece], at: int) -> _Reading:
    """Runs a forward pass over a text, up to the token `at` if the mask is causal. Returns the recorded values."""
    seen = pieces[: at + 1] if model.config.causal and model.encoder is None else pieces
    refuse_length(seen, model.config.context)
    reading = _Reading(at, ids=[piece.id for piece in seen])
    read_text(model, seen, reading)
    return reading


def _pulls(model: Transformer, one: _Reading, other: _Reading, direction: Tensor, after: int) -> tuple[Floats, Floats]:
    """Returns the pull of every source of each text, summed over the first `after` layers."""
    pulls = [torch.zeros(len(reading.ids), dtype=torch.float64) for reading in (one, other)]
    for layer in range(after):
        module = cast(Block, text_stack(model).blocks[layer]).attention
        # u.(W_h v) = (W_h' u).v, so W_h v (C,) is not computed for each source.
        back = through_output(direction, module.output.weight.detach().cpu().double(), module.heads)  # (H, D)
        given = [
            reading.weights[layer] * (by_head(reading.values[layer], module.heads) @ back[..., None])[..., 0]
            for reading in (one, other)
        ]  # (H, T) each
        midpoint = (given[0].sum(1, keepdim=True) + given[1].sum(1, keepdim=True)) / 2  # (H, 1)
        for at, (reading, sign) in enumerate(((one, 1), (other, -1))):
            pulls[at] += sign * (given[at] - reading.weights[layer] * midpoint).sum(0)
    return pulls[0].numpy(), pulls[1].numpy()


def _mean_shares(reading: _Reading, after: int) -> Floats:
    """Returns the shares (T,) of the sources, averaged over the first `after` layers; zeros if `after` is 0."""
    if not after:
        return torch.zeros(len(reading.ids), dtype=torch.float64).numpy()
    shares: Floats = torch.stack(reading.shares[:after]).mean(0).numpy()
    return shares


def _cosines(one: _Reading, other: _Reading) -> Floats:
    """Returns the cosines (layers + 1,) of the word's two streams. Equal streams have a cosine of exactly 1."""
    cosines = []
    for a, b in zip(one.streams, other.streams, strict=True):
        first, second = a[one.at], b[other.at]
        same = torch.equal(first, second)
        cosines.append(torch.ones(()) if same else (_unit(first) @ _unit(second)).clamp(-1, 1))
    array: Floats = torch.stack([cosine.double() for cosine in cosines]).numpy()
    return array


def _cosines_of_others(one: _Reading, other: _Reading) -> Floats | None:
    """Returns the mean cosine (layers + 1,) over all pairs of different tokens, one from each text.

    Returns None if there is no such pair.
    """
    first, second = torch.tensor(one.ids), torch.tensor(other.ids)
    common = [(first == i, second == i) for i in sorted(set(one.ids) & set(other.ids))]
    pairs = len(first) * len(second) - sum(int(a.sum() * b.sum()) for a, b in common)
    if not pairs:
        return None
    means = []
    for stream_a, stream_b in zip(one.streams, other.streams, strict=True):
        a, b = _unit(stream_a), _unit(stream_b)
        total = a.sum(0) @ b.sum(0) - sum((a[i].sum(0) @ b[j].sum(0) for i, j in common), torch.zeros(()))
        means.append(total / pairs)
    array: Floats = torch.stack(means).numpy()
    return array


def _unit(vectors: Tensor) -> Tensor:
    """Returns the vectors scaled to length 1; a vector of zeros stays zeros."""
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-30)
