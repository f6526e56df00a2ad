"""
What a run has told TensorBoard: curves over all its attempts, and its answers to the same rows.

    told = read_curves(run.ledger, ("train/loss", "val/loss"))
    told.curves["train/loss"], told.samples[-1].answers

TensorBoard's own reader forgets what an attempt logged after the step that the next one went on from.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from instruct_core.storage.plain_file import opened
from instruct_core.storage.store import Store

EVENTS = "events.out.tfevents."  # how TensorBoard names its files
TENSORBOARDS = "tfevents"  # and by what it knows them
SAMPLES = "samples"
Curve = list[tuple[int, float]]  # (global step, value)


class Samples(NamedTuple):
    """What a run answered at a step: prompt, reference and answer of each row."""

    step: int
    answers: list[tuple[str, str, str]]


class Told(NamedTuple):
    """Curves by tag, and samples by step; without what nobody has logged."""

    curves: dict[str, Curve]
    samples: list[Samples]


def read_curves(run: Store, tags: Sequence[str]) -> Told:
    """Return what a run has logged: finite values of some curves, and all of its samples."""
    names = run.names()
    if not any(name.startswith(EVENTS) for name in names):
        return Told({}, [])
    from tensorboard.backend.event_processing.directory_watcher import DirectoryDeletedError
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # It warns of what every resume asks it to do: to forget the steps that are made again.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    with _on_this_disk(run, names) as folder:
        everything = {"scalars": 0, "tensors": 0, "histograms": 1, "images": 1}
        events = EventAccumulator(str(folder), size_guidance=everything)
        try:
            events.Reload()
        except DirectoryDeletedError:  # the run was removed, or renamed, just now
            return Told({}, [])
        known = events.Tags()
        curves = {
            tag: [(p.step, p.value) for p in events.Scalars(tag) if math.isfinite(p.value)]
            for tag in tags
            if tag in known["scalars"]
        }
        tables = events.Tensors(SAMPLES) if SAMPLES in known["tensors"] else []
        return Told(
            {tag: points for tag, points in curves.items() if points},
            [samples for table in tables if (samples := _samples(table)) is not None],
        )


def _samples(event: Any) -> Samples | None:
    """Return a table of samples; None for one line of Markdown, as earlier versions wrote."""
    sizes = [dim.size for dim in event.tensor_proto.tensor_shape.dim]
    if len(sizes) != 2 or sizes[1] != 3:
        return None
    cells = [cell.decode(errors="replace") for cell in event.tensor_proto.string_val]
    rows = list(zip(cells[0::3], cells[1::3], cells[2::3], strict=True))
    return Samples(event.step, rows[1:])  # the first names the columns


@contextmanager
def _on_this_disk(run: Store, names: Sequence[str]) -> Iterator[Path]:
    """
    Yield a folder with the run's events; those of an object store are fetched.

    Raises:
        CorruptFileError: Something else than a file is among them.
    """
    if run.is_local:
        for name in names:
            # A pipe would be waited for; what is gone is gone.
            if TENSORBOARDS in name:
                with suppress(FileNotFoundError), opened(run.local_path(name)):
                    pass
        yield run.local_path("")
        return
    with tempfile.TemporaryDirectory(prefix="events-") as folder:
        for name in names:
            if name.startswith(EVENTS):
                (Path(folder) / name).write_bytes(run.read(name))
        yield Path(folder)
