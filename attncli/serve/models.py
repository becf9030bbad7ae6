"""The models of a server: the one it was started with, and those of `attncli models`, loaded when a request names them.

At most KEPT models are in memory; the one that was not asked for longest is dropped. A model is loaded again when its
directory or that of its adapter was replaced, as a training run does with every save. `get` is called in the model
thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from attncli.checkpoint.catalog import known_models
from attncli.checkpoint.load import LoadedModel, identity, load_model
from attncli.explain.defaults import AttentionPart
from attncli.explain.heads import HeadScores
from attncli.generation.loading import backend_for
from attncli.generation.one_token import OneByOne
from attncli.model.backend import Backend
from attncli.pages import kinds_of
from attncli.serve.refusal import Refusal, too_long
from attncli.serve.worker import ModelThread

T = TypeVar("T")
KEPT = 3  # models
CHARACTERS_PER_TOKEN = 32  # of the context: the most that a text may have; English has 4 to 5 for each token
_NAMES = "GET /v1/models lists the models that generate texts, and GET /api/models all of them."
State = tuple[tuple[int, int] | None, tuple[int, int] | None]  # of the directories of a model and its adapter


class ServedModel:
    """A loaded model, and what draws its tokens."""

    def __init__(self, loaded: LoadedModel, state: State, check: Callable[[], None]) -> None:
        """`state` is the state of the directories of the model and its adapter before they were read."""
        self.loaded, self.state, self._check = loaded, state, check
        self._backend: Backend | None = None
        self._drawer: OneByOne | None = None
        self._kinds: Mapping[AttentionPart, HeadScores] | None = None
        self._remembered: tuple[Hashable, Any] = (None, None)

    def remembered(self, text: Hashable, compute: Callable[[], T]) -> T:
        """Returns the result of `compute` for a text. The result of the last text is remembered."""
        if self._remembered[0] != text:
            self._remembered = (None, None)  # frees its memory first
            self._remembered = (text, compute())
        result: T = self._remembered[1]
        return result

    @property
    def kinds(self) -> Mapping[AttentionPart, HeadScores]:
        """The scores of the heads, computed when they are first needed."""
        if self._kinds is None:
            self._kinds = kinds_of(self.loaded)
        return self._kinds

    def refuse_long(self, text: str, pair: str | None = None, target: str | None = None) -> None:
        """Raises Refusal for a text that is longer than the context. Other errors are found later.

        A text with far more characters than the context has tokens is refused before it is tokenized, which takes a
        minute for a million characters and cannot be cancelled.
        """
        self.refuse_characters(text, pair or "", target or "")
        longest = len(self.loaded.pieces(text))
        if pair is not None and self.loaded.model.config.segments > 1:
            longest = len(self.loaded.pieces(text, pair))
        if target is not None and self.loaded.translates:
            longest = max(longest, len(self.loaded.target(target)))
        self.refuse_tokens(longest)

    def refuse_characters(self, *texts: str, field: str | None = None) -> None:
        """Raises Refusal for a text with too many characters to tokenize. `field` is the field of the request."""
        context, characters = self.loaded.model.config.context, max(map(len, texts))
        if characters > CHARACTERS_PER_TOKEN * context:
            raise too_long(f"{characters:,} characters", context, field)

    def refuse_tokens(self, count: int, field: str | None = None) -> None:
        """Raises Refusal for more tokens than the context has. `field` is the field of the request."""
        context = self.loaded.model.config.context
        if count > context:
            raise too_long(f"{count:,} tokens", context, field)

    @property
    def backend(self) -> Backend:
        """Generates; on a CPU, the network in C then has its own copy of the weights."""
        if self._backend is None:
            self._backend = backend_for(self.loaded.model, narrow=True)
        return self._backend

    @property
    def drawer(self) -> OneByOne:
        """Draws tokens one at a time."""
        if self._drawer is None:
            self._drawer = OneByOne(self.loaded, self.backend, self._check)
        return self._drawer


class Models:
    """The models of a server, by name."""

    def __init__(self, first: LoadedModel, thread: ModelThread) -> None:
        """The other models are loaded onto the device of the first one."""
        self._device, self._thread = first.model.device, thread
        self.first = first.name
        self._adapter = first.adapter
        self._places = {first.name: first.path}  # the first model may be in none of the folders of `attncli models`
        self._held: OrderedDict[str, ServedModel] = OrderedDict()
        self._hold(first, first.name, _state(first.path, first.adapter))

    @property
    def loaded(self) -> frozenset[str]:
        """The names of the models in memory."""
        return frozenset(self._held)

    def get(self, name: str | None) -> ServedModel:
        """Returns a model by its name; None means the first one. Raises Refusal with status 404 for another name."""
        name = self.first if name is None else name
        held = self._held.get(name)
        if held is not None and held.state == _state(held.loaded.path, held.loaded.adapter):
            self._held.move_to_end(name)
            return held
        path = self._places.get(name) or next((entry.path for entry in known_models() if entry.name == name), None)
        if path is None:
            raise Refusal(404, "There is no model of this name.", _NAMES, param="model")
        self._held.pop(name, None)
        while len(self._held) >= KEPT:
            self._held.popitem(last=False)
        adapter = self._adapter if name == self.first else None
        state = _state(path, adapter)  # before: a model that is replaced while it is read is read again
        return self._hold(load_model(path, self._device, torch.float32, adapter), name, state)

    def _hold(self, loaded: LoadedModel, name: str, state: State) -> ServedModel:
        self._thread.watch(loaded.model)
        held = self._held[name] = ServedModel(loaded, state, self._thread.check)
        return held


def _state(path: Path, adapter: Path | None) -> State:
    """Returns a value that changes when the directory of a model or of its adapter is replaced."""
    return identity(path), identity(adapter)
