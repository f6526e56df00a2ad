"""
What an attempt runs on and with, kept for each, and what has changed since the one before.

    around = surroundings(config, places, "0f3c...", "usual")
    event = note_surroundings(runs, attempt, around)        # Changed, or None
    kept_surroundings(runs)[3]["torch"]                      # no torch: launchers read them

Bits may differ where torch, what it computes with, a kind of GPU, the number of ranks or what each has of
the model and of a step does; the rest is kept for whoever looks for a reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instruct_core.config import TrainConfig
from instruct_core.errors import InstructError
from instruct_core.storage.documents import dump_document
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.store import Store
from jobs.events import Changed
from jobs.slurm import run_client

logger = logging.getLogger(__name__)

FILE = re.compile(r"surroundings-(\d+)\.json")
DIST_INFO = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)\.dist-info")
MAY_ALTER_BITS = (
    "torch", "cuda", "cudnn", "gpus", "world_size", "parts", "micro_batch_size", "compile", "threads",
    "processor", "products",
)  # fmt: skip
LIBRARIES_THAT_MAY = re.compile(r"triton|nvidia.*|numpy|tokenizers|tiktoken")
MOST_BYTES = 1 << 20  # of a file
SHOWN_CHANGES = 20  # of libraries; all stand in the files


class Place(NamedTuple):
    """Where a rank is."""

    pid: int
    host: str
    gpu: str  # its name; "" for a CPU
    node: str = ""  # Slurm's name of the host


def surroundings(
    config: TrainConfig, places: Sequence[Place], code_version: str, products: str
) -> dict[str, Any]:
    """Return what an attempt runs on and with, on rank 0; everything is read in milliseconds."""
    import torch  # here: launchers read what was kept

    world_size = len(places)
    return {
        "format": 1,
        "world_size": world_size,
        "parts": world_size if config.is_in_parts(world_size) else 1,
        "micro_batch_size": config.micro_batch_size,
        "compile": config.compile,
        "threads": torch.get_num_threads(),
        "hosts": sorted({place.host for place in places}),
        "gpus": sorted({place.gpu for place in places} - {""}),
        "processor": _processor(),
        "products": products,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,  # type: ignore[no-untyped-call]
        "driver": _driver(),
        "kernel": platform.release(),
        "slurm": _slurm(),
        "git_commit": code_version,
        "libraries": _libraries(),
    }


def note_surroundings(runs: Store, attempt: int, around: Mapping[str, Any]) -> Changed | None:
    """Keep them beside the ledger; return what differs from those of the attempt before, if anything."""
    try:
        runs.replace(f"surroundings-{attempt:04d}.json", dump_document(around))
        before = _of_the_attempt_before(runs, attempt)
        return changes(before, around) if before else None
    except (OSError, InstructError, ValueError, TypeError, AttributeError) as error:
        logger.warning("What has changed since the last attempt is not known: %s", error)
        return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changed | None:
    """Return what differs between two attempts; None for nothing."""
    what, bits = [], []
    for name in now:
        if name not in before or name in ("format", "libraries") or before[name] == now[name]:
            continue
        line = f"{name} {_told(before[name])} -> {_told(now[name])}"
        what.append(line)
        bits += [line] if name in MAY_ALTER_BITS else []
    old, new = before.get("libraries") or {}, now["libraries"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and name != "torch":
            line = f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
            what += [line] if len(what) < SHOWN_CHANGES else []
            bits += [line] if LIBRARIES_THAT_MAY.fullmatch(name) else []
    return Changed(what, bits) if what or bits else None


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def kept_surroundings(runs: Store) -> dict[int, dict[str, Any]]:
    """Return the surroundings that attempts have kept, by attempt; those that can be read."""
    kept = {}
    for name in runs.names():
        if match := FILE.fullmatch(name):
            with contextlib.suppress(OSError, ValueError):
                document = loose_json(runs.read(name, at_most=MOST_BYTES))
                if isinstance(document, dict):
                    kept[int(match[1])] = document
    return dict(sorted(kept.items()))


def _of_the_attempt_before(runs: Store, attempt: int) -> dict[str, Any]:
    found = [(int(match[1]), name) for name in runs.names() if (match := FILE.fullmatch(name))]
    for number, name in sorted(found, reverse=True):
        if number < attempt:
            document = loose_json(runs.read(name, at_most=MOST_BYTES))
            return document if isinstance(document, dict) else {}
    return {}


def _libraries() -> dict[str, str]:
    """Return the versions of all that is installed, by the names of folders: no file is read."""
    found: dict[str, str] = {}
    for entry in sys.path:
        names = os.listdir(entry) if entry and Path(entry).is_dir() else []  # noqa: PTH208
        for name in names:
            if match := DIST_INFO.fullmatch(name):
                found.setdefault(match["name"].lower().replace("_", "-"), match["version"])
    return dict(sorted(found.items()))


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.machine()


def _driver() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    version = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", text)
    return version[1] if version else None


def _slurm() -> str | None:
    if "SLURM_JOB_ID" not in os.environ:
        return None
    try:
        return run_client(["scontrol", "--version"], timeout_seconds=5.0).strip()
    except OSError:
        return None
