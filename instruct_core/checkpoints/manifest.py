"""
What a checkpoint says of itself: its manifest, the last file that is written.

    manifest = manifest_in(store / "step-00000300")
    manifest.progress.samples_seen, manifest.num_bytes

Somebody else may have written it: whatever it says is checked before it is used.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from instruct_core.config import shape_from
from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError
from instruct_core.lora_settings import CONFIG_FILE, WEIGHTS_FILE, Base
from instruct_core.names import PLAIN_NAME
from instruct_core.shape import TRAINED, Shape, with_trained
from instruct_core.storage.documents import load_sealed
from instruct_core.storage.store import Store

FORMAT, WITH_BASE = 1, 2  # a whole model, adapters on a base

MAX_SHAPE = 1 << 20  # of any number in a model's shape
LARGEST_SCALE = 2.0**24


@dataclass(frozen=True)
class Progress:
    """Where a run stands; part of every checkpoint."""

    global_step: int
    samples_seen: int
    tokens_seen: int
    skipped_steps: int = 0  # updates left out because loss or gradient was not finite
    non_finite_in_a_row: int = 0
    evaluated_at_step: int = -1
    val_loss: float | None = None


@dataclass(frozen=True)
class Scale:
    """What the loss of a run in float16 is multiplied with, see instruct_core/train/precision.py."""

    value: float
    steps: int  # made since it last changed


@dataclass(frozen=True)
class FileEntry:
    """A file of a checkpoint."""

    file: str
    bytes: int
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a checkpoint; the fields stand in the file in this order, and None is left out."""

    format: int = FORMAT
    global_step: int
    attempt: int
    world_size: int
    saved_at: float  # UTC seconds
    run: str | None = None
    identity: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    git_commit: str | None = None
    model: Shape
    base: Base | None = None  # of a step that has adapters alone
    progress: Progress
    loss_scale: Scale | None = None  # of a run in float16
    files: list[FileEntry]

    @property
    def document(self) -> dict[str, Any]:
        """The content of the file, which is sealed."""
        document = {name: value for name, value in asdict(self).items() if value is not None}
        # Not in the model: versions that do not know it would refuse a shape of one more number.
        trained = document["model"].pop(TRAINED)
        return document if trained is None else document | {TRAINED: trained}

    @property
    def weights_file(self) -> str:
        """The name of the file with what was trained."""
        return model_files(self.base is not None)[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        return sum(entry.bytes for entry in self.files)

    @property
    def val_loss(self) -> float | None:
        """The validation loss; None where this very step was not evaluated."""
        loss = self.progress.val_loss
        evaluated = self.progress.evaluated_at_step == self.global_step
        return loss if evaluated and loss is not None and math.isfinite(loss) else None


def model_files(is_adapter: bool) -> tuple[str, str]:
    """Return the names of the files with the settings and the tensors of a model, or of adapters."""
    return (CONFIG_FILE, WEIGHTS_FILE) if is_adapter else ("config.json", "model.safetensors")


def state_name(rank: int, world_size: int) -> str:
    """Return the name of the file that one rank writes."""
    return f"state-{rank:05d}-of-{world_size:05d}.safetensors"


def manifest_in(folder: Store, step: int | None = None) -> Manifest:
    """
    Return the manifest of a step's folder.

    Args:
        folder: Of the step.
        step: Which it should be, where that is known.

    Raises:
        FileNotFoundError: There is none.
        CorruptFileError: It is not one of ours, or names files outside its folder.
    """
    document = load_sealed(folder, "manifest.json")
    problem = f"Checkpoint {folder.where('manifest.json')} is no manifest of this format"
    try:
        _require(document.get("format") in (FORMAT, WITH_BASE), "format", document.get("format"))
        manifest = manifest_from(document, problem)
        _require(step in (None, manifest.global_step), "global_step", manifest.global_step)
        _check(manifest)
    except ValueError as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"{problem}: {error}.") from None
    return manifest


def manifest_from(document: dict[str, Any], problem: str) -> Manifest:
    """
    Return a manifest of its `document`; raises CorruptFileError where it is none, which begins with
    ``problem``.
    """
    # A model with one more number is another model: nothing of a shape is left out.
    shape = shape_from(document.get("model"), problem)
    trained = document.get(TRAINED)
    if trained is not None and not (type(trained) is int and 0 < trained <= shape.max_seq_len):
        raise CorruptFileError(f"{problem}: {TRAINED} is {str(trained)[:200]}.")
    shape = with_trained(shape, trained)
    return structure(document | {"model": shape}, Manifest, problem, as_it_is=Shape)


def _check(manifest: Manifest) -> None:
    """Raise ValueError for whatever would lead astray who believes it."""
    files, world_size, step = manifest.files, manifest.world_size, manifest.global_step
    _require(step >= 0, "global_step", step)
    _require(manifest.attempt >= 0, "attempt", manifest.attempt)
    _require(1 <= world_size <= len(files), "world_size", world_size)
    for entry in files:
        _require(bool(PLAIN_NAME.fullmatch(entry.file)) and entry.bytes >= 0, "files", entry)
    sizes = {entry.file: entry.bytes for entry in files}
    states = [state_name(rank, world_size) for rank in range(world_size)]
    is_adapter = manifest.base is not None
    _require(is_adapter == (manifest.format == WITH_BASE), "base", manifest.base)
    _require(set(sizes) == {*model_files(is_adapter), *states}, "files", list(sizes))
    _require(len(sizes) == len(files), "files", list(sizes))
    _require(math.isfinite(manifest.saved_at), "saved_at", manifest.saved_at)
    shape, progress = manifest.model, manifest.progress
    _require(all(0 < number <= MAX_SHAPE for number in shape.sizes), "model", shape)
    if not is_adapter:
        _require(4 * shape.num_parameters <= sizes["model.safetensors"], "model", shape)
    for name in ("samples_seen", "tokens_seen"):
        _require(getattr(progress, name) >= 0, name, getattr(progress, name))
    _require(progress.global_step == step, "progress", progress)
    if (scale := manifest.loss_scale) is not None:
        _require(
            1 <= scale.value <= LARGEST_SCALE and 0 <= scale.steps <= step, "loss_scale", scale
        )


def _require(holds: bool, name: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} is {str(value)[:200]}")
