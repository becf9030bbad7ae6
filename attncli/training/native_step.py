"""The forward and the backward pass of a training step by the operations of training.c, in float32 on a CPU.

`NativePasses` reads a Transformer's switches once, and then computes what `Transformer.loss` and autograd compute, up
to rounding; dropout draws the same masks. The layers are objects with a `forward` and a `backward`. A forward pass
keeps its activations in named buffers, where the backward pass finds them; the next step uses the same buffers, so a
step allocates almost nothing. `supports` decides which models have these passes; PyTorch trains the others.

Letters: N rows (tokens of all sequences), C model width, H heads, K key/value heads, D head width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from attncli.config import ModelConfig
from attncli.model.attention import Attention, RMSNorm
from attncli.model.fused import Drawn, Dropout
from attncli.model.kernels import AttentionShape, Kernels, Sides
from attncli.model.stack import Block, FeedForward, Stack
from attncli.model.transformer import Transformer

_LOGITS_AT_ONCE = 1 << 20  # four megabytes


def supports_shape(config: ModelConfig) -> bool:
    """Whether these passes implement all switches of a shape."""
    unknown = config.embedding_norm or config.segments or config.head_bias or config.head_transform
    unknown = unknown or config.scaled_output or config.unit_offset or not config.pre_norm or not config.causal
    normed = config.qk_norm and config.encoder_layers > 0
    return not (unknown or normed) and config.positions != "relative" and config.head_width % 2 == 0


def supports(model: Transformer) -> bool:
    """Whether these passes can train a model: in float32 on a CPU, every weight, with known switches."""
    plain = all(type(module) is nn.Linear for module in model.modules() if isinstance(module, nn.Linear))
    trained = all(
        one.requires_grad and one.dtype == torch.float32 and one.device.type == "cpu" and one.is_contiguous()
        for one in model.parameters()
    )
    recomputed = any(stack.checkpoint_activations for stack in model.stacks)
    fitting = plain and trained and not recomputed and model.dropout.draws_bytes
    return fitting and supports_shape(model.config)


class _Buffers:
    """Tensors by name, in memory that later steps reuse."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the tensor with this name, with its last content if it had this shape."""
        held = self._views.get(name)
        if held is None or held.shape != shape:
            count = math.prod(shape)
            if name not in self._memory or self._memory[name].numel() < count:
                self._memory[name] = torch.empty(count, dtype=dtype)
            held = self._views[name] = self._memory[name][:count].view(shape)
        return held


class _Gradients:
    """The gradients of all parameters, in one tensor. The gradients of joined layers are adjacent."""

    def __init__(self, model: nn.Module, groups: Sequence[Sequence[Tensor]]) -> None:
        first = [parameter for group in groups for parameter in group]
        seen = {id(parameter) for parameter in first}
        self._parameters = [*first, *(one for one in model.parameters() if id(one) not in seen)]
        self._flat = torch.zeros(sum(one.numel() for one in self._parameters))
        ends = accumulate(one.numel() for one in self._parameters)
        self._of: dict[int, Tensor] = {
            id(one): self._flat[end - one.numel() : end].view(one.shape)
            for one, end in zip(self._parameters, ends, strict=True)
        }

    def of(self, *parameters: Tensor) -> Tensor:
        """Returns the gradient of a parameter, or of the parameters of joined layers, concatenated."""
        first = self._of[id(parameters[0])]
        rows = sum(len(one) for one in parameters)
        together: Tensor = first.as_strided((rows, *first.shape[1:]), first.stride())
        return together

    def clear(self) -> None:
        """Sets all gradients to zero, and gives them to the parameters."""
        ctypes.memset(self._flat.data_ptr(), 0, self._flat.nbytes)
        for parameter in self._parameters:
            parameter.grad = self._of[id(parameter)]


@dataclass
class _Shared:
    """The tensors and settings that are the same for all layers."""

    kernels: Kernels
    gradients: _Gradients
    buffers: _Buffers
    dropout: Dropout

    def draw(self, name: str, like: Tensor) -> None:
        """Draws the dropout of a layer's output, for `drawn`."""
        if self.dropout.p > 0:
            self._drawn[name] = self.dropout.draw(like.numel())

    def drawn(self, name: str) -> Drawn | None:
        """Returns the dropout that was drawn in the forward pass; None without dropout."""
        return self._drawn.get(name)

    def __post_init__(self) -> None:
        self._drawn: dict[str, Drawn] = {}


class _Linear:
    """One or several linear layers with the same input, as one product."""

    def __init__(self, shared: _Shared, layers: Sequence[nn.Linear]) -> None:
        self._shared, self._layers = shared, layers
        self._weight = layers[0].weight if len(layers) == 1 else torch.cat([layer.weight.detach() for layer in layers])
        self._bias = _joined_bias(layers)
        self._to_weight = shared.gradients.of(*(layer.weight for layer in layers))
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self._to_bias = shared.gradients.of(*biases) if biases else None
        self._weight = self._weight.detach()

    @property
    def width(self) -> int:
        """The number of outputs."""
        return len(self._weight)

    @property
    def biased(self) -> bool:
        """Whether the layer has a bias."""
        return self._bias is not None

    def refresh(self) -> None:
        """Copies the current weights of joined layers to the joined matrix."""
        if len(self._layers) > 1:
            _join(self._weight, [layer.weight for layer in self._layers])
            if self._bias is not None:
                _join(self._bias, [layer.bias for layer in self._layers])

    def forward(self, out: Tensor, x: Tensor, start: Tensor | None = None) -> None:
        """Computes out = x W^T + bias, or without a bias out = x W^T + start."""
        self._shared.kernels.product(out, x, self._weight.T, self._bias if start is None else start)

    def backward(self, gradient: Tensor, x: Tensor, to_x: Tensor | None, *, add: bool = False) -> None:
        """Adds the gradients of the weights; writes the gradient of x, or adds to it."""
        kernels = self._shared.kernels
        kernels.product(self._to_weight, gradient.T, x, self._to_weight)
        if self._to_bias is not None:
            kernels.add_row_sum(self._to_bias, gradient)
        if to_x is not None:
            kernels.product(to_x, gradient, self._weight, to_x if add else None)


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    if layers[0].bias is None:
        return None
    return layers[0].bias.detach() if len(layers) == 1 else torch.cat([layer.bias.detach() for layer in layers])


def _join(out: Tensor, parts: Sequence[Tensor]) -> None:
    at = out.data_ptr()
    for part in parts:
        ctypes.memmove(at, part.data_ptr(), part.nbytes)
        at += part.nbytes


class _Norm:
    """RMSNorm or LayerNorm."""

    def __init__(self, shared: _Shared, module: nn.Module, eps: float) -> None:
        self._shared, self._eps = shared, eps
        self._subtracts = not isinstance(module, RMSNorm)
        bias = getattr(module, "bias", None)
        assert isinstance(module.weight, Tensor)
        self._weight, self._to_weight = module.weight.detach(), shared.gradients.of(module.weight)
        self._bias: Tensor | None = None if bias is None else bias.detach()
        self._to_bias = None if bias is None else shared.gradients.of(bias)

    def forward(self, out: Tensor, x: Tensor) -> None:
        """Normalizes x (N, C)."""
        self._shared.kernels.norm(out, x, self._weight, self._bias, self._eps, subtracts_mean=self._subtracts)

    def backward(self, to_x: Tensor, gradient: Tensor, x: Tensor) -> None:
        """Adds the gradients of x and of the weights."""
        to = to_x, self._to_weight, self._to_bias
        self._shared.kernels.norm_backward(*to, gradient, x, self._weight, self._eps, subtracts_mean=self._subtracts)


class _Residual:
    """The output layer of a part of a block: x + dropout(output(hidden))."""

    def __init__(self, shared: _Shared, name: str, layer: nn.Linear) -> None:
        self._shared, self._name = shared, name
        self._output = _Linear(shared, [layer])

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Returns the sum (N, C), given the hidden numbers (N, ...) of the part."""
        shared = self._shared
        total = shared.buffers(f"{self._name}.sum", *x.shape)
        shared.draw(self._name, x)
        drawn = shared.drawn(self._name)
        if drawn is None and not self._output.biased:
            self._output.forward(total, hidden, x)
            return total
        output = shared.buffers("output", *x.shape)
        self._output.forward(output, hidden)
        shared.kernels.add(total, x, output, drawn)
        return total

    def backward(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """Returns the gradient of `hidden`, given the gradient of the sum, which is also that of x."""
        shared = self._shared
        drawn, to_hidden = shared.drawn(self._name), shared.buffers("to_hidden", *hidden.shape)
        if drawn is not None:
            kept = shared.buffers("output", *gradient.shape)
            shared.kernels.add(kept, None, gradient, drawn)
            gradient = kept
        self._output.backward(gradient, hidden, to_hidden)
        return to_hidden


@dataclass(frozen=True)
class _Tokens:
    """The sequences that a stack reads."""

    ids: Tensor  # (B, T)
    lengths: Tensor | None  # (B,), int32: the tokens of each sequence without padding; None: no padding
    rotation: tuple[Tensor, Tensor] | None  # the cosines and sines (T, D) of the positions

    @property
    def shape(self) -> tuple[int, int]:
        """B and T."""
        batch, length = self.ids.shape
        return batch, length


class _SelfAttention:
    """x + attention(norm(x)) of a block."""

    def __init__(self, shared: _Shared, name: str, norm: nn.Module, module: Attention, eps: float) -> None:
        self._shared, self._name, self._module, self._eps = shared, name, module, eps
        self._norm = _Norm(shared, norm, eps)
        self._sides = _Linear(shared, [module.query, module.key, module.value])
        self._output = _Residual(shared, name, module.output)
        norms = module.query_norm, module.key_norm
        self._gains = self._to_gains = None
        if isinstance(norms[0], RMSNorm) and isinstance(norms[1], RMSNorm):
            self._gains = norms[0].weight.detach(), norms[1].weight.detach()
            self._to_gains = shared.gradients.of(norms[0].weight, norms[1].weight)

    def refresh(self) -> None:
        """Reads the current weights."""
        self._sides.refresh()

    def forward(self, x: Tensor, tokens: _Tokens) -> Tensor:
        """Returns the sum (N, C)."""
        shared, shape = self._shared, self._shape(tokens)
        normed, sides, rotated = self._activations(x, tokens)
        self._norm.forward(normed, x)
        self._sides.forward(sides, normed)
        if rotated is not sides:
            shared.kernels.rotate(rotated, sides, self._gains, tokens.rotation, shape, self._eps)
        output, logs = self._outputs(len(x))
        shared.kernels.attend(output, logs, self._parts(sides, rotated), shape)
        return self._output.forward(x, output)

    def backward(self, gradient: Tensor, x: Tensor, tokens: _Tokens) -> None:
        """Adds the gradient of x, given the gradient of the sum, in place."""
        shared, shape = self._shared, self._shape(tokens)
        normed, sides, rotated = self._activations(x, tokens)
        output, logs = self._outputs(len(x))
        to_output = self._output.backward(gradient, output)
        to_sides, to_normed = shared.buffers("to_sides", *sides.shape), shared.buffers("to_normed", *x.shape)
        parts = self._parts(sides, rotated)
        shared.kernels.attend_backward(self._parts(to_sides, to_sides), to_output, output, logs, parts, shape)
        if rotated is not sides:
            shared.kernels.rotate_backward(
                to_sides, self._to_gains, sides, self._gains, tokens.rotation, shape, self._eps
            )
        self._sides.backward(to_sides, normed, to_normed)
        self._norm.backward(gradient, to_normed, x)

    def _shape(self, tokens: _Tokens) -> AttentionShape:
        return _shape(self._module, *tokens.shape, tokens.shape[1], tokens.lengths)

    def _activations(self, x: Tensor, tokens: _Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the buffers of the normalized input, of queries, keys and values, and of rotated queries and keys."""
        buffers, name, module = self._shared.buffers, self._name, self._module
        sides = buffers(f"{name}.sides", len(x), self._sides.width)
        rotated = sides
        if self._gains is not None or tokens.rotation is not None:
            columns = (module.heads + module.kv_heads) * module.head_width
            rotated = buffers(f"{name}.rotated", len(x), columns)
        return buffers(f"{name}.normed", *x.shape), sides, rotated

    def _outputs(self, rows: int) -> tuple[Tensor, Tensor]:
        buffers, name, module = self._shared.buffers, self._name, self._module
        output = buffers(f"{name}.output", rows, module.heads * module.head_width)
        return output, buffers(f"{name}.logs", rows, module.heads)

    def _parts(self, sides: Tensor, rotated: Tensor) -> Sides:
        """Returns the queries and keys of `rotated`, and the values of `sides`."""
        module = self._module
        first, second = module.heads * module.head_width, (module.heads + module.kv_heads) * module.head_width
        return Sides(rotated[:, :first], rotated[:, first:second], sides[:, second:])


class _CrossAttention:
    """x + attention(norm(x), encoded) of a decoder's block."""

    def __init__(self, shared: _Shared, name: str, norm: nn.Module, module: Attention, eps: float) -> None:
        self._shared, self._name, self._module = shared, name, module
        self._norm = _Norm(shared, norm, eps)
        self._query = _Linear(shared, [module.query])
        self._pairs = _Linear(shared, [module.key, module.value])
        self._output = _Residual(shared, name, module.output)

    def refresh(self) -> None:
        """Reads the current weights."""
        self._pairs.refresh()

    def forward(self, x: Tensor, tokens: _Tokens, encoded: Tensor, source: _Tokens) -> Tensor:
        """Returns the sum (N, C). `encoded` (B x S, C) is the encoder's output for the source."""
        normed, query, pairs, output, logs = self._activations(x, encoded)
        self._norm.forward(normed, x)
        self._query.forward(query, normed)
        self._pairs.forward(pairs, encoded)
        sides = self._sides(query, pairs)
        self._shared.kernels.attend(output, logs, sides, self._shape(tokens, source))
        return self._output.forward(x, output)

    def backward(
        self, gradient: Tensor, x: Tensor, tokens: _Tokens, encoded: Tensor, source: _Tokens, to_encoded: Tensor
    ) -> None:
        """Adds the gradients of x and of the encoder's output."""
        buffers = self._shared.buffers
        normed, query, pairs, output, logs = self._activations(x, encoded)
        to_output = self._output.backward(gradient, output)
        to_query, to_pairs = buffers("to_query", *query.shape), buffers("to_pairs", *pairs.shape)
        to, sides = self._sides(to_query, to_pairs), self._sides(query, pairs)
        self._shared.kernels.attend_backward(to, to_output, output, logs, sides, self._shape(tokens, source))
        to_normed = buffers("to_normed", *x.shape)
        self._query.backward(to_query, normed, to_normed)
        self._pairs.backward(to_pairs, encoded, to_encoded, add=True)
        self._norm.backward(gradient, to_normed, x)

    def _activations(self, x: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        buffers, name, heads = self._shared.buffers, self._name, self._module.heads
        return (
            buffers(f"{name}.normed", *x.shape),
            buffers(f"{name}.query", len(x), self._query.width),
            buffers(f"{name}.pairs", len(encoded), self._pairs.width),
            buffers(f"{name}.output", len(x), self._query.width),
            buffers(f"{name}.logs", len(x), heads),
        )

    def _sides(self, query: Tensor, pairs: Tensor) -> Sides:
        half = pairs.shape[1] // 2
        return Sides(query, pairs[:, :half], pairs[:, half:])

    def _shape(self, tokens: _Tokens, source: _Tokens) -> AttentionShape:
        return _shape(self._module, *tokens.shape, source.shape[1], source.lengths)


def _shape(module: Attention, batch: int, queries: int, keys: int, lengths: Tensor | None) -> AttentionShape:
    heads = module.heads, module.kv_heads, module.head_width
    scale = 1 / math.sqrt(module.head_width) if module.scaled else 1.0
    return AttentionShape(batch, queries, keys, *heads, module.causal, module.window, scale, lengths)


class _FeedForward:
    """x + feed_forward(norm(x)) of a block."""

    def __init__(self, shared: _Shared, name: str, norm: nn.Module, module: FeedForward, eps: float) -> None:
        self._shared, self._name, self._module = shared, name, module
        self._gated = module.gate is not None
        self._norm = _Norm(shared, norm, eps)
        self._sides = _Linear(shared, [module.up] if module.gate is None else [module.gate, module.up])
        self._output = _Residual(shared, name, module.down)

    def refresh(self) -> None:
        """Reads the current weights."""
        self._sides.refresh()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum (N, C)."""
        normed, sides, hidden = self._activations(x)
        self._norm.forward(normed, x)
        self._sides.forward(sides, normed)
        self._shared.kernels.activate(hidden, sides, self._module.activation, gated=self._gated)
        return self._output.forward(x, hidden)

    def backward(self, gradient: Tensor, x: Tensor) -> None:
        """Adds the gradient of x, given the gradient of the sum, in place."""
        buffers = self._shared.buffers
        normed, sides, hidden = self._activations(x)
        to_hidden = self._output.backward(gradient, hidden)
        to_sides, to_normed = buffers("to_sides", *sides.shape), buffers("to_normed", *x.shape)
        activation, kernels = self._module.activation, self._shared.kernels
        kernels.activate_backward(to_sides, to_hidden, sides, activation, gated=self._gated)
        self._sides.backward(to_sides, normed, to_normed)
        self._norm.backward(gradient, to_normed, x)

    def _activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the buffers of the normalized input, of gate and up, and of the hidden numbers."""
        buffers, name, width = self._shared.buffers, self._name, self._sides.width
        inner = width // 2 if self._gated else width
        return (
            buffers(f"{name}.normed", *x.shape),
            buffers(f"{name}.sides", len(x), width),
            buffers(f"{name}.hidden", len(x), inner),
        )


class _Stack:
    """The embedding, the blocks and the final norm of a decoder or an encoder."""

    def __init__(self, shared: _Shared, model: Transformer, stack: Stack) -> None:
        self._shared, self._model, self._stack = shared, model, stack
        self._embedding = model.embedding.weight.detach()
        self._to_embedding = shared.gradients.of(model.embedding.weight)
        self._to_position = None if stack.position is None else shared.gradients.of(stack.position.weight)
        eps = model.config.norm_eps
        self._norm = _Norm(shared, stack.norm, eps)
        self._blocks = [_Block(shared, f"{stack.part}.{at}", block, eps) for at, block in enumerate(stack.blocks)]

    def refresh(self) -> None:
        """Reads the current weights."""
        for block in self._blocks:
            block.refresh()

    def tokens(self, ids: Tensor, lengths: Tensor | None = None) -> _Tokens:
        """Returns the sequences ids (B, T), with the rotations of their positions."""
        length, rotation = ids.shape[1], None
        if self._model.config.positions == "rotary":
            table = self._stack.rotation(length)
            rotation = table.cos[:length], table.sin[:length]
        return _Tokens(ids.contiguous(), lengths, rotation)

    def forward(self, tokens: _Tokens, encoded: Tensor | None = None, source: _Tokens | None = None) -> Tensor:
        """Returns the stream after the final norm (N, C)."""
        x = self._embed(tokens)
        for block in self._blocks:
            x = block.forward(x, tokens, encoded, source)
        hidden = self._shared.buffers(f"{self._stack.part}.hidden", *x.shape)
        self._last = x
        self._norm.forward(hidden, x)
        return hidden

    def backward(
        self,
        to_hidden: Tensor,
        tokens: _Tokens,
        encoded: Tensor | None = None,
        source: _Tokens | None = None,
        to_encoded: Tensor | None = None,
    ) -> None:
        """Adds the gradients of all weights of the stack, and of the encoder's output."""
        gradient = self._shared.buffers(f"{self._stack.part}.gradient", *to_hidden.shape)
        _clear(gradient)
        self._norm.backward(gradient, to_hidden, self._last)
        for block in reversed(self._blocks):
            block.backward(gradient, tokens, encoded, source, to_encoded)
        self._embed_backward(gradient, tokens)

    def _embed(self, tokens: _Tokens) -> Tensor:
        shared, (batch, length), part = self._shared, tokens.shape, self._stack.part
        x = shared.buffers(f"{part}.embedded", batch * length, self._embedding.shape[1])
        positions = self._stack.positions(slice(0, length), length)
        positions = None if positions is None else positions.detach()
        shared.kernels.embed(x, self._embedding, tokens.ids, positions, self._scale)
        shared.draw(part, x)
        drawn = shared.drawn(part)
        if drawn is not None:
            shared.kernels.add(x, None, x, drawn)
        return x

    def _embed_backward(self, gradient: Tensor, tokens: _Tokens) -> None:
        shared, (batch, length) = self._shared, tokens.shape
        drawn = shared.drawn(self._stack.part)
        if drawn is not None:
            shared.kernels.add(gradient, None, gradient, drawn)
        shared.kernels.embed_backward(self._to_embedding, gradient, tokens.ids, self._scale)
        if self._to_position is not None:
            at = torch.arange(length) + self._model.config.position_offset
            shared.kernels.embed_backward(self._to_position, gradient, at.repeat(batch), 1.0)

    @property
    def _scale(self) -> float:
        return self._model.embedding_scale(torch.float32)


class _Block:
    """A block of a decoder or an encoder."""

    def __init__(self, shared: _Shared, name: str, block: nn.Module, eps: float) -> None:
        assert isinstance(block, Block)
        self._attention = _SelfAttention(shared, f"{name}.self", block.attention_norm, block.attention, eps)
        self._cross = None
        if block.cross_attention is not None and block.cross_norm is not None:
            self._cross = _CrossAttention(shared, f"{name}.cross", block.cross_norm, block.cross_attention, eps)
        self._feed_forward = _FeedForward(
            shared, f"{name}.feed_forward", block.feed_forward_norm, block.feed_forward, eps
        )
        self._inputs: list[Tensor] = []  # the stream before each part, from the last forward pass

    def refresh(self) -> None:
        """Reads the current weights."""
        for part in (self._attention, self._cross, self._feed_forward):
            if part is not None:
                part.refresh()

    def forward(self, x: Tensor, tokens: _Tokens, encoded: Tensor | None, source: _Tokens | None) -> Tensor:
        """Returns the stream after the block (N, C)."""
        self._inputs = [x]
        x = self._attention.forward(x, tokens)
        self._inputs.append(x)
        if self._cross is not None and encoded is not None and source is not None:
            x = self._cross.forward(x, tokens, encoded, source)
            self._inputs.append(x)
        return self._feed_forward.forward(x)

    def backward(
        self,
        gradient: Tensor,
        tokens: _Tokens,
        encoded: Tensor | None,
        source: _Tokens | None,
        to_encoded: Tensor | None,
    ) -> None:
        """Replaces the gradient of the block's output by that of its input."""
        self._feed_forward.backward(gradient, self._inputs[-1])
        if self._cross is not None and encoded is not None and source is not None and to_encoded is not None:
            self._cross.backward(gradient, self._inputs[1], tokens, encoded, source, to_encoded)
        self._attention.backward(gradient, self._inputs[0], tokens)


def _clear(tensor: Tensor) -> None:
    ctypes.memset(tensor.data_ptr(), 0, tensor.nbytes)


class NativePasses:
    """The forward and the backward pass of a model, for the loss that its task trains."""

    def __init__(self, model: Transformer, kernels: Kernels, smoothing: float) -> None:
        """`smoothing` is the label smoothing of a model that translates."""
        self._model, self._smoothing = model, smoothing if model.encoder is not None else 0.0
        self._gradients = _Gradients(model, _joined(model))
        self._shared = _Shared(kernels, self._gradients, _Buffers(), model.dropout)
        self._decoder = _Stack(self._shared, model, model)
        self._encoder = None if model.encoder is None else _Stack(self._shared, model, model.encoder)
        self._head, self._to_head = model.head_weight.detach(), self._gradients.of(model.head_weight)

    def begin(self) -> None:
        """Begins a step: reads the current weights, sets the gradients to zero, and gives them to the parameters."""
        self._gradients.clear()
        self._decoder.refresh()
        if self._encoder is not None:
            self._encoder.refresh()

    def add_gradients(self, tensors: Sequence[Tensor | None], share: float) -> float:
        """Adds the gradients of share x the loss of a micro-batch. Returns the loss in nats per token.

        `tensors` are the arguments of `Transformer.loss`, or of `Transformer.translation_loss`.
        """
        if self._encoder is None:
            (rows,) = tensors
            assert rows is not None
            tokens = self._decoder.tokens(rows[:, :-1])
            loss, to_hidden = self._loss(self._decoder.forward(tokens), rows[:, 1:], share)
            self._decoder.backward(to_hidden, tokens)
            return loss
        ids, mask, inputs, labels = tensors
        assert ids is not None and inputs is not None and labels is not None
        source = self._encoder.tokens(ids, None if mask is None else mask.sum(1, dtype=torch.int32))
        tokens = self._decoder.tokens(inputs)
        encoded = self._encoder.forward(source)
        loss, to_hidden = self._loss(self._decoder.forward(tokens, encoded, source), labels, share)
        to_encoded = self._shared.buffers("to_encoded", *encoded.shape)
        _clear(to_encoded)
        self._decoder.backward(to_hidden, tokens, encoded, source, to_encoded)
        self._encoder.backward(to_encoded, source)
        return loss

    def _loss(self, hidden: Tensor, targets: Tensor, share: float) -> tuple[float, Tensor]:
        """Returns the loss, and the gradient of the head's input `hidden` (N, C); adds that of the head's matrix."""
        kernels, buffers = self._shared.kernels, self._shared.buffers
        targets, vocabulary = targets.reshape(-1), len(self._head)
        predicted = int((targets >= 0).sum())
        to_hidden = buffers("to_head", *hidden.shape)
        at_once = max(1, min(len(hidden), _LOGITS_AT_ONCE // vocabulary))
        nats = 0.0
        for first in range(0, len(hidden), at_once):
            rows, right = hidden[first : first + at_once], targets[first : first + at_once]
            logits = buffers("logits", len(rows), vocabulary)
            kernels.product(logits, rows, self._head.T)
            each = buffers("nats", len(rows), dtype=torch.float64)
            nats += kernels.cross_entropy(logits, right, share / predicted, self._smoothing, each)
            kernels.product(to_hidden[first : first + at_once], logits, self._head)
            kernels.product(self._to_head, logits.T, rows, self._to_head)
        return nats / predicted, to_hidden


def _joined(model: Transformer) -> list[list[Tensor]]:
    """Returns the groups of parameters whose gradients `_Linear` and `_SelfAttention` compute as one matrix."""
    groups: list[list[nn.Module]] = []
    for block in (block for stack in model.stacks for block in stack.blocks):
        assert isinstance(block, Block)
        attention, cross, fed = block.attention, block.cross_attention, block.feed_forward
        groups.append([attention.query, attention.key, attention.value])
        groups.append([attention.query_norm, attention.key_norm])
        groups += [] if cross is None else [[cross.key, cross.value]]
        groups += [] if fed.gate is None else [[fed.gate, fed.up]]
    of = [[getattr(one, name, None) for one in group] for group in groups for name in ("weight", "bias")]
    return [[one for one in group if one is not None] for group in of if group[0] is not None]
