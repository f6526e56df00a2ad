"""
The NVIDIA GPUs that a job on this machine would see; the driver is asked, for torch takes seconds.

    gpus = visible_gpus()
    gpus.number, gpus.free_bytes, gpus.has_bf16

Source: NVML, which knows all GPUs of the machine; CUDA_VISIBLE_DEVICES names those that a job sees.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from instruct_core.errors import ConfigError
from launch.console.lines import counted

VISIBLE = "CUDA_VISIBLE_DEVICES"
BF16_SINCE = (8, 0)  # compute capability: Ampere
TORCH_SECONDS = 120.0  # the first import from a cold shared disk takes long
ASK_TORCH = (
    "import json, torch; "
    "gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
    "print(json.dumps([torch.__version__, torch.version.cuda, gpus]))"
)


class Gpus(NamedTuple):
    """What the visible GPUs have in common."""

    number: int
    free_bytes: int | None = None  # of the smallest; None where nobody can tell
    has_bf16: bool = True


def visible_gpus() -> Gpus:
    """Return the GPUs that a job here would see; none where there is no driver."""
    import pynvml  # here: who only asks Slurm needs no driver

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return Gpus(0)
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        listed = _listed(visible)
        named = [
            handles[int(name)] for name in listed if name.isdigit() and int(name) < len(handles)
        ]
        if len(named) != len(listed):  # by UUID: which of them does not matter where all are alike
            return _described(handles)._replace(number=min(len(handles), len(listed)))
        handles = named
    return _described(handles)


def gpu_names(number: int) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls each of the GPUs that `visible_gpus` counts."""
    visible = os.environ.get(VISIBLE)
    return [str(i) for i in range(number)] if visible is None else _listed(visible)[:number]


def _listed(visible: str) -> list[str]:
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


def _described(handles: list[Any]) -> Gpus:
    import pynvml

    try:
        free = min((int(pynvml.nvmlDeviceGetMemoryInfo(h).free) for h in handles), default=None)
        capability = [tuple(pynvml.nvmlDeviceGetCudaComputeCapability(h)) for h in handles]
    except pynvml.NVMLError:  # a GPU that is shared out does not tell
        return Gpus(len(handles))
    return Gpus(len(handles), free, all(each >= BF16_SINCE for each in capability))


class Torch(NamedTuple):
    """What torch says of itself."""

    version: str  # "" where it cannot be imported
    cuda: str | None  # that it is built for
    num_gpus: int  # that it can use
    error: str = ""


def ask_torch() -> Torch:
    """Import torch in a process of its own, for it takes seconds, and return what it says."""
    command = [sys.executable, "-c", ASK_TORCH]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", check=False, timeout=TORCH_SECONDS
        )
        return Torch(*json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Torch("", None, 0, f"its import took longer than {TORCH_SECONDS:.0f} s")
    except OSError as error:
        return Torch("", None, 0, str(error))
    except (IndexError, ValueError, TypeError):
        return Torch("", None, 0, (done.stderr.strip().splitlines() or ["it says nothing"])[-1])


def check_torch_sees(number: int) -> None:
    """
    Refuse GPUs that the driver sees and torch does not: the work would go to the CPU, for days.

    Args:
        number: GPUs that the driver sees.

    Raises:
        ConfigError: Names torch's version and what to do.
    """
    torch = ask_torch()
    if not torch.num_gpus:
        raise ConfigError(
            f"torch {torch.version or torch.error} cannot use the {counted(number, 'NVIDIA GPU')} of "
            "this machine. Install one that fits the driver (nvidia-smi shows its CUDA), or hide them "
            "to compute on cores: CUDA_VISIBLE_DEVICES= before the command."
        )
