"""A program that asks llama.cpp for token ids and logits, with JSON on standard input and output.

The program runs in its own process, because a failed assertion of llama.cpp ends the process. It imports nothing of
attncli.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

_FLOAT32 = 0  # ggml's number of the type of the cache


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Returns the ids of the texts, and the logits after every id of `ids` as float32 numbers in base64."""
    from llama_cpp import Llama

    ids: list[int] = asked["ids"]
    model = Llama(
        asked["path"], n_ctx=len(ids), n_batch=len(ids), logits_all=True, verbose=False, type_k=_FLOAT32,
        type_v=_FLOAT32,
    )  # fmt: skip
    texts = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
    prompt = model.tokenize(asked["prompt"].encode(), add_bos=True, special=False)
    model.eval(ids)
    logits = model.scores[: len(ids)].astype("<f4").tobytes()
    return {"texts": texts, "prompt": prompt, "logits": base64.b64encode(logits).decode()}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
