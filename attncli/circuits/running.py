"""Resumes a forward pass at a layer of a stack, from a residual stream."""

from __future__ import annotations

from torch import Tensor

from attncli.model.stack import Stack


def resume(stack: Stack, layer: int, stream: Tensor) -> Tensor:
    """Returns the output (N, T, C) of a stack, after its final norm, from the stream (N, T, C) before a layer.

    The stream is of whole texts, and the stack gets no source: it is a decoder alone, or an encoder.
    """
    tokens = stream.shape[1]
    rotary = None
    if stack.config.positions == "rotary":
        rotary = stack.rotation(tokens).at(slice(0, tokens), stream.dtype)
    bias = None if stack.distance is None else stack.distances(slice(0, tokens), tokens)
    for at in range(layer, len(stack.blocks)):
        stream = stack.blocks[at](stream, rotary, None, None, bias=bias)
    hidden: Tensor = stack.norm(stream)
    return hidden
