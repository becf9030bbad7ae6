"""Chooses a device and a dtype by their names, which may be 'auto', and reports the used and the total memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch

from attncli.errors import UsageProblem

_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # the first two on x86-64, the last on Arm
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Returns the device with this name; 'auto' is CUDA, else MPS, else the CPU.

    Raises UsageProblem for an unknown name, and for a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        here = [
            "cpu",
            *(["cuda"] if torch.cuda.is_available() else []),
            *(["mps"] if torch.backends.mps.is_available() else []),
        ]
        raise UsageProblem.naming(
            lambda named: (f"{named('device')} {name!r} is not available here.", f"Use {', '.join(here)}.")
        ) from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the torch dtype with this name; 'auto' is bfloat16 on a GPU that supports it, else float32.

    Raises UsageProblem for an unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise UsageProblem.naming(
            lambda named: (f"{named('dtype')} {name!r} is not a type.", f"Use auto, {', '.join(DTYPES)}.")
        )
    return DTYPES[name]


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions to multiply bfloat16, according to Linux."""
    try:
        return not _BFLOAT16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a dtype: torch.float32 -> 'float32'."""
    return str(dtype).removeprefix("torch.")


_MEMBERSHIP, _CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def resident_memory() -> int:
    """Returns the resident memory of this process in bytes on Linux, and 0 on other systems."""
    with suppress(OSError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def physical_memory() -> int:
    """Returns the bytes of memory that this process may use: the machine's memory, or a lower limit of the process.

    A container or `ulimit -v` sets such a limit. On Windows, which does not report its memory here, returns the size of
    the address space.
    """
    limits = [sys.maxsize, *_limits_of_control_groups()]
    with suppress(ImportError, AttributeError):
        import resource

        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [] if address_space == resource.RLIM_INFINITY else [address_space]
    return min(limits)


def _limits_of_control_groups() -> Iterator[int]:
    """Yields the memory limits of this process's control groups and their parents.

    Supports versions 1 and 2 (man 7 cgroups).
    """
    with suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                folder, name = _CONTROL_GROUPS, "memory.max"
            elif "memory" in kinds.split(","):
                folder, name = _CONTROL_GROUPS / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = PurePosixPath(path.lstrip("/"))
            for place in (group, *group.parents):
                with suppress(OSError, ValueError):  # in a container, some files are invisible; "max" means no limit
                    yield int((folder / place / name).read_text())
