"""Presents a GGUF file as a model directory: its metadata as the JSON files of a directory.

So the model families check its settings, the tokenizers library loads its tokenizer, and every command reads it as it
reads a directory. No torch.
"""

from __future__ import annotations

import json
import struct
from functools import cached_property
from pathlib import Path
from typing import Any

from attncli.checkpoint import directory
from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.families.shared import Family
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.checkpoint.gguf.architectures import ROPE_FACTORS, Architecture, Metadata, settings_of
from attncli.checkpoint.gguf.header import GgufTensor, identity, read_header
from attncli.checkpoint.gguf.layout import CONTROL, ENDS, F32
from attncli.checkpoint.gguf.vocabulary import read_vocabulary, tokenizer_json
from attncli.errors import COPY_AGAIN, BadCheckpoint
from attncli.paths import is_file, open_regular, unreadable
from attncli.text.tokenizer import Tokenizer

_MOST_FACTORS = 1 << 16


def open_folder(path: Path) -> ModelFolder:
    """Returns the files of a model: of its directory, or of a GGUF file. Raises BadCheckpoint."""
    return GgufFolder(path) if is_file(path) else ModelFolder(path)


class GgufFolder(ModelFolder):
    """Reads a GGUF file as a model directory. Raises BadCheckpoint for a file that is damaged or not supported."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.header = read_header(path)
        self._metadata = Metadata(self.header.metadata, str(path))

    @property
    def architecture(self) -> Architecture:
        """The architecture of the model."""
        return self._metadata.architecture

    def names_of(self, family: Family) -> TensorNames:
        """Returns the names of the tensors in this file."""
        return self.architecture.names

    def where(self, name: str) -> Path:
        """Returns the path of the file, for errors."""
        return self.path

    def holds(self, name: str) -> bool:
        """Whether `read` can make a file of this name from the metadata."""
        return name in self._files

    def read(self, name: str, largest: int = 0) -> bytes:
        """Returns the content of a file, made from the metadata. Raises BadCheckpoint."""
        if name not in self._files:
            raise BadCheckpoint(f"{self.path} is a GGUF file, which holds no {name}.", directory.WHOLE_MODEL)
        return json.dumps(self.json(name)).encode()

    def json(self, name: str) -> dict[str, Any]:
        """Returns the content of a JSON file, made from the metadata. Raises BadCheckpoint."""
        make = self._files.get(name)
        if make is None:
            raise BadCheckpoint(f"{self.path} is a GGUF file, which holds no {name}.", directory.WHOLE_MODEL)
        found: dict[str, Any] = make()
        return found

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that the metadata describes."""
        return Tokenizer.from_json(self.read(directory.TOKENIZER).decode("utf-8"), str(self.path))

    @cached_property
    def _files(self) -> dict[str, Any]:
        return {
            directory.CONFIG: self._config,
            directory.TOKENIZER: self._tokenizer_json,
            directory.TOKENIZER_CONFIG: self._tokenizer_config,
        }

    def _config(self) -> dict[str, Any]:
        names = {tensor.name for tensor in self.header.tensors}
        settings = settings_of(self._metadata, names, self._rope_factors())
        embedding = next((tensor for tensor in self.header.tensors if tensor.name == "token_embd.weight"), None)
        if embedding is None or len(embedding.shape) != 2:
            raise BadCheckpoint(f"{self.path} lacks token_embd.weight.", COPY_AGAIN)
        ends = [id_ for name in ENDS if (id_ := self._special(name)) is not None]
        return {
            "vocab_size": embedding.shape[0],
            **settings,
            "bos_token_id": self._special("bos"),
            "eos_token_id": ends or None,
        }

    def _rope_factors(self) -> list[float] | None:
        """Returns the numbers of the tensor ROPE_FACTORS, or None if the file does not contain it."""
        found = next((tensor for tensor in self.header.tensors if tensor.name == ROPE_FACTORS), None)
        if found is None:
            return None
        is_list = found.type is F32 and len(found.shape) == 1 and found.shape[0] <= _MOST_FACTORS
        if not self.architecture.rope_factors or not is_list:
            raise BadCheckpoint(f"{self.path}: {ROPE_FACTORS} is not supported in this model.", COPY_AGAIN)
        data = self._bytes_of(found)
        return list(struct.unpack(f"<{len(data) // 4}f", data))

    def _bytes_of(self, tensor: GgufTensor) -> bytes:
        try:
            with open_regular(self.path) as file:
                file.seek(tensor.begin)
                data = file.read(tensor.type.size(tensor.shape))
                if identity(file) != self.header.identity:
                    raise BadCheckpoint(f"{self.path} changed while it was read.", "Read it again.")
                return data
        except OSError as problem:
            raise unreadable(self.path, problem) from None

    def _special(self, name: str) -> int | None:
        """Returns the id of a special token, such as `bos`. Raises BadCheckpoint if there is no such token."""
        key = f"tokenizer.ggml.{name}_token_id"
        id_: int | None = self._metadata.get(key, int)
        if id_ is not None and not 0 <= id_ < len(self._metadata.get("tokenizer.ggml.tokens", list, [])):
            raise BadCheckpoint(f"{self.path}: {key} is {id_}, which is not a token.", COPY_AGAIN)
        return id_

    def _tokenizer_json(self) -> dict[str, Any]:
        vocabulary = read_vocabulary(self._metadata)
        adds = self._metadata.get("tokenizer.ggml.add_bos_token", bool, vocabulary.opens_texts)
        opening = self._special("bos") if adds else None
        if opening is not None and vocabulary.types[opening] != CONTROL:
            raise BadCheckpoint(f"{self.path}: the token {opening} begins every text, but is not a control token.")
        return tokenizer_json(vocabulary, opening)

    def _tokenizer_config(self) -> dict[str, Any]:
        tokens = self._metadata.get("tokenizer.ggml.tokens", list, [])
        ids = {name: self._special(key) for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
        spelled = {f"{name}_token": str(tokens[id_]) for name, id_ in ids.items() if id_ is not None}
        template = self._metadata.get("tokenizer.chat_template", str)
        return spelled | ({} if template is None else {"chat_template": template})
