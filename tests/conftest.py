"""What the tests share: tiny random models, a text of our own, a cache of our own, and no network."""

from __future__ import annotations

import os
import shutil
import socket

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ATTNCLI_MODELS"] = os.devnull  # never the user's own
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from a second, and other tests run beside

import pytest
import torch
from hypothesis import settings

from attncli.checkpoint import directory
from attncli.config import ModelConfig, RopeScaling
from attncli.model import native_library
from attncli.model.attention import AttentionSteps, Observer
from attncli.model.transformer import Transformer, initialize

settings.register_profile("attncli", deadline=None)  # what a busy machine does slowly is no failure
settings.load_profile("attncli")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="fifty kills of a real training process instead of five")


WORDS = [
    *("the", "a", "small", "grey", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "near", "mat", "tree"),
    *("river", "and", "then", "while", "because", "it", "was", "warm", "cold", "late", "happy", "very", "quite"),
    *("never", "always", "said", "saw", "found", "lost", "old", "new", "friend", "house", "road", "hill", "moon"),
]


def story(words: int, seed: int = 0) -> str:
    """Random sentences over a small vocabulary: text with something to learn."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [WORDS[i] for i in torch.randint(len(WORDS), (words,), generator=generator).tolist()]
    lines = [" ".join(drawn[i : i + 9]).capitalize() + "." for i in range(0, words, 9)]
    return "\n".join(lines) + "\n"


def tiny_config(**changes) -> ModelConfig:
    shape = {
        "vocab_size": 97, "layers": 3, "width": 32, "heads": 4, "kv_heads": 2, "head_width": 8,
        "feed_forward_width": 48, "context": 96,
    }  # fmt: skip
    return ModelConfig(**{**shape, **changes})


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> Transformer:
    """A random model whose attention is far from uniform, so that mistakes in it show."""
    model = Transformer(tiny_config(**changes))
    initialize(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name) + seed)
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif name.startswith("embedding"):
                parameter.mul_(20)
    return model.to(dtype).eval()


SHAPES = {
    "qwen3": {},
    "qwen3-window": {"window": 7, "window_from": 1},
    "qwen3-untied": {"tied": False, "kv_heads": 4},
    "llama": {"qk_norm": False},
    "llama-bias": {"qk_norm": False, "bias": True},
    "mistral-window": {"qk_norm": False, "window": 7, "tied": False},
}
FAMILIES = {
    **SHAPES,
    "qwen2": {"qk_norm": False, "qkv_bias": True},
    "llama-yarn": {
        "qk_norm": False, "attention_bias": True,
        "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=24, attention_factor=1.2),
    },
    "gpt2": {
        "qk_norm": False, "bias": True, "norm": "layer", "norm_eps": 1e-5, "positions": "learned",
        "activation": "gelu", "kv_heads": 4, "feed_forward_width": 128,
    },
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request) -> dict:
    """The switches of every family that the network expresses."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where the network in C is kept: all tests use one, those of other workers too."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "native"
    folder.mkdir(mode=0o700, exist_ok=True)
    _forget_library()  # what was found while the tests were collected
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCLI_CACHE", str(folder.parent))
        native_library.library()
    _forget_library()
    return folder


def _forget_library():
    native_library.begin.cache_clear()
    native_library.library.cache_clear()


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch, compiled):
    """Each test has its own cache, but for what a compiler made, and no default model, nor one that ships."""
    monkeypatch.setattr(directory, "_SHIPPED_PLACES", ())
    cache = tmp_path.with_name(f"{tmp_path.name}.cache")
    cache.mkdir()
    (cache / "native").mkdir(mode=0o700)
    for library in compiled.glob("*.so"):
        shutil.copy(library, cache / "native")
    monkeypatch.setenv("ATTNCLI_CACHE", str(cache))
    monkeypatch.delenv("ATTNCLI_MODEL", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A connection that leaves this machine fails the test."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def ids_of(length: int, batch: int = 1, seed: int = 0, vocab_size: int = 97) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


class Recorder(Observer):
    """Keeps everything it is shown."""

    def __init__(self):
        self.steps: dict[int, AttentionSteps] = {}
        self.streams: dict[int, torch.Tensor] = {}
        self.fed: dict[int, torch.Tensor] = {}

    def residual(self, layer, stream):
        self.streams[layer] = stream

    def attention(self, layer, steps, module):
        self.steps[layer] = steps

    def feed_forward(self, layer, output):
        self.fed[layer] = output
