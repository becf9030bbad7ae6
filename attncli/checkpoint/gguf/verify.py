"""Checks a GGUF file that was just written: reads it, and compares weights, token ids and logits with the model.

Every weight must be within the rounding of its type. The tokenizer that the metadata describes must give the same ids
for texts that are hard for tokenizers, and the network of the file must give the same logits. If llama-cpp-python is
installed, llama.cpp itself must give the same ids, and almost the same logits as the network of the file.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from attncli.checkpoint.gguf.export import ExportPlan, exported
from attncli.checkpoint.gguf.tensors import rounding_error
from attncli.checkpoint.load import LoadedModel, load_model
from attncli.errors import BadCheckpoint, Inexact

_CPU = torch.device("cpu")
_PROGRAM = Path(__file__).with_name("llama_process.py")
_MOST_SECONDS = 600.0
_MOST_TOKENS = 48  # whose logits are compared
# The largest allowed difference between the logits of two programs, as a share of their standard deviation. llama.cpp
# rounds the inputs of matrices to the type of the weights, and looks up GELU in a table of 16-bit numbers.
_CLOSE = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.1, "q8_0": 0.1}
_PROSE = "It's 9 o'clock, and the old cat has slept on the mat since 1987.\nShe said: \"I'll wake it (maybe) at 10.\"\n"
_TEXTS = (
    _PROSE,
    "",
    " ",
    "a",
    "  two  spaces   three\t\ttabs \n\n\nlines \r\nand more\r\n\r\n   \n",
    " \n \n\n \t\t \t\n  \n   \n",
    "I've I'M we'Re he'll 'TIS ''''''```````\"\"\"\"......!!!!!!?????? ------=======",
    "3 33 333 3333 33333 3.3 3..3 1314151 ½ ² ٣ १२ x1y2",
    "naïve café ÀÉÎ straße ﬁn Ελληνικά нещо на Български",
    "我想在apple工作 こんにちは、世界。 안녕하세요 កាន់តែពិសេស สวัสดี שלום مرحبا",
    "e\u0301a\u0300 \u0915\u094d\u0937\u093f",
    "🚀 (normal) 😶\u200d🌫️ 👩\u200d👩\u200d👧 ✅ 🦙🦙",
    "def f(x):\n    return {'a': x**2}  # <b>\\n</b> & %s $x @y ~z ^w |v",
    "nbsp\u00a0thin\u2009zero\u200bline\u2028end\u3000wide\ufeff",
    "\x00\x01\x1b[31m\x7f\x80\x9f",
    "▁under▁ __ ",
    "<|endoftext|> <s> </s> <unk> [PAD0] <0x0A> <|im_start|>user",
    "a" * 300 + " " * 70 + "\n" * 40,
    "\U0001d54f \U00020000 \U000e0001 \uffff",
)


@dataclass(frozen=True)
class Verification:
    """The result of comparing a written file with the model that it was written from."""

    tensors: int
    weight_error: float  # the largest difference of a weight
    texts: int
    tokens: int  # whose logits were compared
    logit_deviation: float  # the standard deviation of the model's logits
    logit_difference: float  # the largest, between the model and the network of the file
    llama_difference: float | None  # the largest, between that network and llama.cpp; None if it is not installed


def verify_export(path: Path, plan: ExportPlan, loaded: LoadedModel) -> Verification:
    """Compares the file at `path` with the model, whose weights are float32 on the CPU.

    Raises BadCheckpoint if the tokenizers differ, and Inexact for another difference.
    """
    found = load_model(path, _CPU, torch.float32)
    error = _compare_weights(plan, loaded, found)
    texts = [text for text in _TEXTS if not any(char in text for char in plan.untested)]
    ids = _compare_ids(texts, loaded, found)
    ours = (loaded.prompt(_PROSE) or [0])[: min(_MOST_TOKENS, found.model.config.context)]
    with torch.inference_mode():
        expected, logits = (network(torch.tensor([ours]))[0] for network in (loaded.model, found.model))
    if plan.dtype == "float32" and not _near(expected, logits, 1e-4):
        raise _wrong(f"its logits differ by up to {_difference(expected, logits):g}")
    llama = None
    if find_spec("llama_cpp") is not None:
        llama = _compare_with_llama(path, plan, texts, ids, loaded, ours, logits)
    return Verification(
        len(plan.tensors), error, len(texts), len(ours), float(expected.std()), _difference(expected, logits), llama
    )


def _compare_weights(plan: ExportPlan, loaded: LoadedModel, found: LoadedModel) -> float:
    """Returns the largest difference of a weight. Raises Inexact if one exceeds the rounding of its type."""
    largest = 0.0
    weights, theirs = loaded.model.state_dict(), found.model.state_dict()
    for name, planned in plan.tensors.items():
        if planned.held is None:
            continue
        expected = exported(plan, name, weights).float()
        differences = (expected - exported(plan, name, theirs).float()).abs()
        bound = rounding_error(expected, planned.type)
        if plan.architecture.unit_offset:  # 1 was added and subtracted
            bound = bound + 2.0**-23 * (1 + expected.abs())
        if not bool((differences <= bound).all()):
            raise _wrong(f"{name} differs by {float(differences.max()):g}, more than {planned.type.name} explains")
        largest = max(largest, float(differences.max()))
    return largest


def _compare_ids(texts: list[str], loaded: LoadedModel, found: LoadedModel) -> list[list[int]]:
    """Returns the ids of the texts. Raises BadCheckpoint if the tokenizer of the file gives other ids."""
    ids = loaded.tokenizer.encode_batch(texts)
    _require_equal(texts, ids, found.tokenizer.encode_batch(texts), "the tokenizer of the file")
    _require_equal([_PROSE], [loaded.prompt(_PROSE)], [found.prompt(_PROSE)], "the tokenizer of the file")
    if (found.start_of_text, found.end_ids) != (loaded.start_of_text, loaded.end_ids) and len(loaded.end_ids) <= 3:
        raise _wrong("the tokens that begin and end a text differ")
    return ids


def _require_equal(texts: list[str], expected: list[list[int]], found: list[list[int]], which: str) -> None:
    for text, one, other in zip(texts, expected, found, strict=True):
        if one != other:
            at = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
            )
            raise BadCheckpoint(
                f"The tokenizer cannot be written as GGUF: {which} has other ids for {ascii(text)[:60]}, from token "
                f"{at} on: {other[at : at + 4]} in place of {one[at : at + 4]}.",
                "No file was written.",
            )


def _compare_with_llama(
    path: Path,
    plan: ExportPlan,
    texts: list[str],
    ids: list[list[int]],
    loaded: LoadedModel,
    ours: list[int],
    logits: Tensor,
) -> float:
    """Returns the largest difference of a logit. Raises BadCheckpoint or Inexact if llama.cpp disagrees."""
    asked = {"path": str(path), "texts": texts, "prompt": _PROSE, "ids": ours}
    command = [sys.executable, "-P", str(_PROGRAM)]
    try:
        done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise _wrong(f"llama.cpp has not computed its logits after {_MOST_SECONDS:g} s") from None
    try:
        told = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _wrong(f"llama.cpp does not load it: {ascii(said[-1])[:160] if said else done.returncode}") from None
    _require_equal(texts, ids, told["texts"], "llama.cpp")
    _require_equal([_PROSE], [loaded.prompt(_PROSE)], [told["prompt"]], "llama.cpp")
    theirs = torch.frombuffer(bytearray(base64.b64decode(told["logits"])), dtype=torch.float32).reshape(logits.shape)
    if not _near(logits, theirs, _CLOSE[plan.dtype]):
        raise _wrong(f"llama.cpp computes other logits: they differ by up to {_difference(logits, theirs):g}")
    return _difference(logits, theirs)


def _near(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether the root mean square of the differences is at most a share of the standard deviation of the logits."""
    return bool((one - other).square().mean().sqrt() <= share * one.std())


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _wrong(what: str) -> Inexact:
    return Inexact(f"The GGUF file is wrong: {what}.", "No file was written. This is a bug of attncli: report it.")
