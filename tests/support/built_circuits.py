"""Transformers with weights set by hand, whose circuits are therefore known.

The residual stream has slots: the token, the position, and two slots of the size of the vocabulary. A head that has no
task moves random noise between unused dimensions.
"""

from dataclasses import dataclass

import torch

from attncli.config import ModelConfig
from attncli.model.transformer import Transformer

VOCAB, PLACES, SPARE = 10, 12, 6
TOKEN = slice(0, VOCAB)
PLACE = slice(VOCAB, VOCAB + PLACES)
MIDDLE = slice(PLACE.stop, PLACE.stop + VOCAB)
ANSWER = slice(MIDDLE.stop, MIDDLE.stop + VOCAB)
NOISE = slice(ANSWER.stop, ANSWER.stop + SPARE)
WIDTH, HEAD = NOISE.stop, 12
SHARP = 30.0


@dataclass(frozen=True)
class Built:
    """A model, two prompts, the two answers, and the true edges of its circuit by name."""

    model: Transformer
    clean: torch.Tensor
    corrupt: torch.Tensor
    target: int
    against: int
    edges: frozenset


def blank(layers):
    """Returns a model in which every head writes noise, every MLP writes a little noise, and the answer is read."""
    config = ModelConfig(
        vocab_size=VOCAB, layers=layers, width=WIDTH, heads=2, kv_heads=2, head_width=HEAD, feed_forward_width=VOCAB,
        context=PLACES, positions="learned", qk_norm=False, gated=False, activation="relu", tied=False,
    )  # fmt: skip
    model, generator = Transformer(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.ndim == 1 else parameter.zero_()
        model.embedding.weight[:, TOKEN] = torch.eye(VOCAB)
        model.position.weight[:, PLACE] = torch.eye(PLACES)
        model.head.weight[:, ANSWER] = torch.eye(VOCAB)
        for block in model.blocks:
            attention = block.attention
            attention.value.weight.normal_(0, 0.1, generator=generator)
            attention.output.weight[NOISE] = 0.1 * torch.randn(SPARE, 2 * HEAD, generator=generator)
            block.feed_forward.up.weight.normal_(0, 0.1, generator=generator)
            block.feed_forward.down.weight[NOISE] = 0.1 * torch.randn(SPARE, VOCAB, generator=generator)
    return model.double().eval().requires_grad_(False)


def set_head(model, layer, head, *, query, key, value, output):
    """Sets the matrices of one head: each is a dict of a slot (rows of the head, columns of the stream) -> matrix."""
    attention, rows = model.blocks[layer].attention, slice(head * HEAD, (head + 1) * HEAD)
    for linear, (slot, matrix) in ((attention.query, query), (attention.key, key), (attention.value, value)):
        linear.weight[rows] = 0
        linear.weight[head * HEAD : head * HEAD + len(matrix), slot] = matrix
    attention.output.weight[:, rows] = 0
    slot, matrix = output
    attention.output.weight[slot, head * HEAD : head * HEAD + matrix.shape[1]] = matrix


def eye(size, by=1.0):
    return by * torch.eye(size, dtype=torch.float64)


def induction():
    """A previous-token head, 0.0, feeds the key of an induction head, 1.0."""
    model = blank(2)
    before = torch.diag(torch.ones(PLACES - 1, dtype=torch.float64), -1)  # place q -> row q + 1
    set_head(
        model, 0, 0, query=(PLACE, eye(PLACES, SHARP)), key=(PLACE, before), value=(TOKEN, eye(VOCAB)),
        output=(MIDDLE, eye(VOCAB, 3.0)),
    )  # fmt: skip
    set_head(
        model, 1, 0, query=(TOKEN, eye(VOCAB, SHARP)), key=(MIDDLE, eye(VOCAB)), value=(TOKEN, eye(VOCAB)),
        output=(ANSWER, eye(VOCAB, 3.0)),
    )  # fmt: skip
    edges = {"embedding → 0.0 value", "0.0 → 1.0 key", "embedding → 1.0 query", "embedding → 1.0 value"}
    prompts = torch.tensor([1, 2, 3, 4, 1, 2]), torch.tensor([5, 6, 7, 8, 5, 6])
    return Built(model, *prompts, 3, 7, frozenset(edges | {"1.0 → output"}))


def exchanged():
    """The model of `induction`, with prompts that differ in two exchanged words: only what is before them changes."""
    prompts = torch.tensor([1, 2, 3, 4, 5, 6, 1, 2]), torch.tensor([1, 5, 3, 4, 2, 6, 1, 2])
    edges = {"embedding → 0.0 value", "0.0 → 1.0 key", "1.0 → output"}
    return Built(induction().model, *prompts, 3, 6, frozenset(edges))


def copying():
    """Head 0.1 copies the token at place 1, wherever it is asked."""
    model = blank(2)
    to_one = torch.zeros(1, PLACES, dtype=torch.float64)
    to_one[0, 1] = 1
    ask = torch.full((1, PLACES), SHARP, dtype=torch.float64)
    set_head(
        model,
        0,
        1,
        query=(PLACE, ask),
        key=(PLACE, to_one),
        value=(TOKEN, eye(VOCAB)),
        output=(ANSWER, eye(VOCAB, 3.0)),
    )
    prompts = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 5, 3, 4])
    return Built(model, *prompts, 2, 5, frozenset({"embedding → 0.1 value", "0.1 → output"}))


def lookup():
    """The MLP of layer 0 maps each token to another one, and head 1.1 brings it to the end from the place before."""
    model = blank(2)
    shifted = torch.roll(eye(VOCAB), 1, 0)
    feed = model.blocks[0].feed_forward
    feed.up.weight[:], feed.down.weight[:] = 0, 0
    feed.up.weight[:, TOKEN], feed.down.weight[MIDDLE] = eye(VOCAB), 3 * shifted
    before = torch.diag(torch.ones(PLACES - 1, dtype=torch.float64), -1)
    set_head(
        model, 1, 1, query=(PLACE, eye(PLACES, SHARP)), key=(PLACE, before), value=(MIDDLE, eye(VOCAB)),
        output=(ANSWER, eye(VOCAB, 3.0)),
    )  # fmt: skip
    prompts = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 6, 4])
    return Built(model, *prompts, 4, 7, frozenset({"embedding → mlp 0", "mlp 0 → 1.1 value", "1.1 → output"}))


BUILT = {"induction": induction, "exchanged": exchanged, "copying": copying, "lookup": lookup}
