"""Recorded runs of tiny random decoders, and an independent computation of edges with transformers and hooks."""

import torch

from attncli.circuits.measure import Answer
from attncli.circuits.network import Network
from tests.support.models import tiny_model

ANSWER = Answer(3, 5)


def network_of(dtype=torch.float64, **shape):
    model = tiny_model(dtype=dtype, **shape)
    return Network(model.requires_grad_(False))


def two_runs(network, tokens=9, seed=1):
    """Returns the recorded runs of two random texts, and their ids."""
    drawn = torch.randint(0, network.config.vocab_size, (2, tokens), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return network.record(drawn[0]), network.record(drawn[1]), drawn


class TheirEdges:
    """Patches edges of a model of transformers with hooks: its parts are found by the names of its family."""

    def __init__(self, model):
        self.model, self.config = model, model.config
        gpt2 = self.config.model_type == "gpt2"
        self.layers = model.transformer.h if gpt2 else model.model.layers
        self.final = model.transformer.ln_f if gpt2 else model.model.norm
        self.heads = self.config.num_attention_heads
        self.kv_heads = getattr(self.config, "num_key_value_heads", self.heads)
        self.width = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads

    def norms(self, layer):
        block = self.layers[layer]
        if self.config.model_type == "gpt2":
            return block.ln_1, block.ln_2
        return block.input_layernorm, block.post_attention_layernorm

    def output(self, layer):
        block = self.layers[layer]
        return block.attn.c_proj if self.config.model_type == "gpt2" else block.self_attn.o_proj

    def logits(self, ids, hooks=()):
        handles = [hook() for hook in hooks]
        try:
            with torch.no_grad():
                return self.model(ids[None]).logits[0, -1]
        finally:
            for handle in handles:
                handle.remove()

    def record(self, ids):
        """Returns what each component writes (U, T, C), in the order of ComponentGraph."""
        kept, embedded = {}, []

        def hooks():
            for layer, block in enumerate(self.layers):
                keep_mixed = self.output(layer).register_forward_pre_hook
                yield lambda keep=keep_mixed, at=layer: keep(lambda _, x: kept.__setitem__(("mixed", at), x[0][0]))
                keep_fed = block.mlp.register_forward_hook
                yield lambda keep=keep_fed, at=layer: keep(lambda _, __, y: kept.__setitem__(("mlp", at), y[0]))
            yield lambda: self.norms(0)[0].register_forward_pre_hook(lambda _, x: embedded.append(x[0][0]))

        self.logits(ids, hooks())
        writes = [embedded[0]]
        for layer in range(len(self.layers)):
            mixed = kept["mixed", layer].unflatten(-1, (self.heads, self.width))
            weight = self.output(layer).weight  # (C, H x D); in GPT-2 transposed
            weight = weight.T if self.config.model_type == "gpt2" else weight
            writes += [mixed[:, h] @ weight[:, h * self.width :][:, : self.width].T for h in range(self.heads)]
            writes.append(kept["mlp", layer])
        return torch.stack(writes)

    def patched(self, ids, change, port, layer, at):
        """Returns the logits of a text, with `change` (T, C) added to what one reader reads."""

        def moved(norm, x):
            return norm.forward(x + change)

        if port == "output":
            return self.logits(ids, [lambda: self.final.register_forward_pre_hook(lambda _, x: (x[0] + change,))])
        norm = self.norms(layer)[port == "mlp"]
        if port == "mlp":
            return self.logits(ids, [lambda: norm.register_forward_pre_hook(lambda _, x: (x[0] + change,))])
        streams, gpt2 = [], self.config.model_type == "gpt2"
        attention = self.layers[layer].attn if gpt2 else self.layers[layer].self_attn
        linear = attention.c_attn if gpt2 else getattr(attention, f"{port[0]}_proj")
        first = {"query": 0, "key": 1, "value": 2}[port] * self.heads * self.width if gpt2 else 0
        columns = slice(first + at * self.width, first + (at + 1) * self.width)

        def replace(_, __, projected):
            projected = projected.clone()
            projected[..., columns] = linear.forward(moved(norm, streams[0]))[..., columns]
            return projected

        return self.logits(
            ids,
            [
                lambda: norm.register_forward_pre_hook(lambda _, x: streams.append(x[0])),
                lambda: linear.register_forward_hook(replace),
            ],
        )
