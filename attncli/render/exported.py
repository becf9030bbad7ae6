"""The screen and the document of `attncli export`: what was written, and what was checked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import one_line
from attncli.render.numbers import plural, size

if TYPE_CHECKING:
    from attncli.checkpoint.gguf.export import ExportPlan
    from attncli.checkpoint.gguf.verify import Verification


def gguf_screen(file: Path, plan: ExportPlan, checked: Verification) -> RenderableType:
    """Returns the screen of a GGUF file that was written and checked."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    llama = checked.llama_difference is not None
    deviation = f"standard deviation {checked.logit_deviation:.3g}"
    table.add_row("file", Text(f"{one_line(str(file))}, {size(plan.bytes)}, {plan.dtype}"))
    table.add_row("model", Text(f"{plan.architecture.name} in llama.cpp, tokenizer {_tokenizer(plan)}"))
    table.add_row(
        "weights", f"{plural(checked.tensors, 'tensor')} read back, largest difference {checked.weight_error:.2g}"
    )
    table.add_row("token ids", f"equal for {checked.texts} texts{', also in llama.cpp' if llama else ''}")
    logits = f"{plural(checked.tokens, 'token')}, largest difference {checked.logit_difference:.2g} ({deviation})"
    table.add_row("logits", logits)
    if llama:
        table.add_row("llama.cpp", f"largest difference from the logits of the file {checked.llama_difference:.2g}")
    else:
        table.add_row("llama.cpp", "not compared: pip install llama-cpp-python")
    return table


def _tokenizer(plan: ExportPlan) -> str:
    """Returns the name of the tokenizer in llama.cpp, such as 'gpt2 (qwen2)'."""
    pre = plan.metadata.get("tokenizer.ggml.pre")
    return str(plan.metadata["tokenizer.ggml.model"]) + (f" ({pre})" if pre else "")


def gguf_document(file: Path, plan: ExportPlan, checked: Verification) -> dict[str, Any]:
    """Returns the JSON document of a GGUF file that was written and checked."""
    return {
        "file": str(file),
        "bytes": plan.bytes,
        "dtype": plan.dtype,
        "architecture": plan.architecture.name,
        "tokenizer": _tokenizer(plan),
        "notes": list(plan.notes),
        "checked": asdict(checked),
    }


def directory_screen(path: Path, adapter: Path | None, parameters: int, dtype: str) -> RenderableType:
    """Returns the screen of a model directory that was written and read back."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("directory", one_line(str(path)))
    table.add_row("weights", f"{parameters:,} parameters in {dtype}, read back and equal")
    if adapter is not None:
        table.add_row("merged", one_line(str(adapter)))
    return table


def directory_document(path: Path, adapter: Path | None, parameters: int, dtype: str) -> dict[str, Any]:
    """Returns the facts of a model directory that was written, as a JSON-ready dictionary."""
    merged = None if adapter is None else str(adapter)
    return {"path": str(path), "adapter": merged, "parameters": parameters, "dtype": dtype}
