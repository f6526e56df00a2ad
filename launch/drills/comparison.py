"""
Whether two runs ended alike: every byte of their last checkpoints, every sample they read.

    difference = first_difference(undisturbed, hit, step=30)     # None: not a bit differs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instruct_core.checkpoints.manifest import FileEntry, manifest_in
from instruct_core.checkpoints.steps import folder_of, read_verified
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import Place, parse_header


class Difference(NamedTuple):
    """The first place where two runs differ."""

    what: str  # a file and its tensor, or samples
    place: str
    undisturbed: str
    hit: str

    def __str__(self) -> str:
        where = f"{self.what} at {self.place}" if self.place else self.what
        return f"{where} is {self.hit}, and {self.undisturbed} undisturbed"


def first_difference(undisturbed: Store, hit: Store, step: int) -> Difference | None:
    """
    Compare the checkpoints of two runs.

    Args:
        undisturbed: Checkpoints of one run.
        hit: Of the other.
        step: Of both.

    Raises:
        FileNotFoundError: One of them has not saved this step.
        CorruptFileError: One of them is damaged.
    """
    folders = [store / folder_of(store, step) for store in (undisturbed, hit)]
    manifests = [manifest_in(folder, step) for folder in folders]
    files = [sorted(manifest.files, key=lambda entry: entry.file) for manifest in manifests]
    if len(files[0]) != len(files[1]):
        return Difference("number of files", "", str(len(files[0])), str(len(files[1])))
    for entries in zip(*files, strict=True):
        data = [
            read_verified(folder, entry) for folder, entry in zip(folders, entries, strict=True)
        ]
        if np.array_equal(data[0], data[1]):
            continue
        return _in_file(entries[0], data[0], data[1])
    ours, theirs = (manifest.loss_scale for manifest in manifests)
    return None if ours == theirs else Difference("loss_scale", "", str(ours), str(theirs))


def _in_file(
    entry: FileEntry, undisturbed: NDArray[np.uint8], hit: NDArray[np.uint8]
) -> Difference:
    if not entry.file.endswith(".safetensors"):
        return Difference(entry.file, "", "another", "one")
    ours, theirs = (parse_header(data, entry.file)[0] for data in (undisturbed, hit))
    if _shapes(ours) != _shapes(theirs):
        name = min(dict(_shapes(ours).items() ^ _shapes(theirs).items()))
        shapes = [str(_shapes(places).get(name, "not there")) for places in (ours, theirs)]
        return Difference(f"{entry.file}: {name}", "", *shapes)
    for name in sorted(ours):
        a, b = ours[name].view(undisturbed), theirs[name].view(hit)
        differs = np.atleast_1d(_bits(a) != _bits(b))
        if differs.any():
            index = np.unravel_index(int(differs.argmax()), differs.shape)
            values = [_value(np.atleast_1d(array)[index], ours[name]) for array in (a, b)]
            return Difference(f"{entry.file}: {name}", str([int(i) for i in index]), *values)
    return Difference(entry.file, "its header", "another", "one")


def _shapes(places: Mapping[str, Place]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (place.dtype, place.shape) for name, place in places.items()}


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers as integers of the same bits: NaN equals NaN, and 0 is not -0."""
    return array.view(f"u{array.dtype.itemsize}")


def _value(value: Any, place: Place) -> str:
    if place.dtype == "BF16":  # its bytes are the upper half of a float32's
        return repr(float(np.array([int(value) << 16], np.uint32).view(np.float32)[0]))
    return repr(value.item())


def first_other_samples(undisturbed: Path, hit: Path) -> tuple[Difference | None, int]:
    """Compare which samples two runs read at each step; return how many the first one read, too."""
    ours, theirs = _samples(undisturbed), _samples(hit)
    count = sum(len(samples) for parts in ours.values() for samples in parts.values())
    for step in sorted(ours.keys() | theirs.keys()):
        if ours.get(step) != theirs.get(step):
            read = [str(samples.get(step, "none")) for samples in (ours, theirs)]
            return Difference(f"samples of step {step}, by rank", "", *read), count
    return None, count


def _samples(runs: Path) -> dict[int, dict[int, list[int]]]:
    """Return which samples each rank read at each step; the word of the last attempt counts."""
    by_step: dict[int, tuple[int, dict[int, list[int]]]] = {}
    for attempt, rank, entry in _lines(runs):
        at, parts = by_step.get(entry["step"], (attempt, {}))
        parts = parts if at == attempt else {}
        parts[rank] = entry["samples"]
        by_step[entry["step"]] = (attempt, parts)
    return {step: parts for step, (_, parts) in by_step.items()}


def _lines(runs: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield what each attempt's ranks have read, but for a line that a kill or the disk has torn."""
    for path in sorted(runs.glob("samples-*.jsonl")):
        _, attempt, rank = path.stem.split("-")
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if entry := _entry(line):
                yield int(attempt), int(rank), entry


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = loose_json(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and {"step", "samples"} <= entry.keys() else {}
