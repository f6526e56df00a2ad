"""
One continuous run in TensorBoard, whatever happened to the job that trained it.

    metrics = Metrics(Store("runs_instruct/my-run"), attempt=1, resumed_at_step=100)
    metrics.log(101, {"train/loss": 2.9})

On resume TensorBoard is told to forget what an earlier attempt logged after the step that was
resumed at, so no curve overlaps itself. The writer is tensorboard's own: torch's wraps it, and
takes longer to import than a small model takes for a step. An object store cannot append: events for
one are written on this machine and sent there with every checkpoint.

Sources: tensorboard/plugins/event_processing (a SessionLog START purges later steps); GPU peaks
are dense bf16 figures of NVIDIA's data sheets; MFU as in PaLM, arXiv 2204.02311, appendix B.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from instruct_core.shape import Shape
from instruct_core.storage.store import Store

logger = logging.getLogger(__name__)

CLOSED_SECONDS = 30.0  # before curves are tried again after the disk has refused them
PEAK_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "H200 NVL": 835e12, "H200": 989e12, "H100 NVL": 835e12,
    "H100 PCIe": 756e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "L40S": 362e12,
    "L40": 181e12, "A40": 150e12, "A10": 125e12, "A10G": 70e12, "L4": 121e12, "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}  # fmt: skip
SLOWER_KINDS = {"Laptop", "D", "Ti"}  # of the same name, with another peak


class Metrics:
    """
    Scalars and texts of a run, written by rank 0.

    Args:
        store: Folder of the run's events.
        attempt: Number of this attempt; the first has nothing to forget.
        resumed_at_step: The step it begins at; later points of earlier attempts go.
    """

    def __init__(self, store: Store, attempt: int, resumed_at_step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._tensor, self._shape = tensor_pb2, tensor_shape_pb2
        # All of a file is sent each time: steps do not wait for a store that is away.
        self._store = store if store.is_local else Store(store.url, patience_seconds=0.0)
        self._make_writer = EventFileWriter
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._writer: Any = None
        self._closed_until = 0.0  # time.monotonic()
        if attempt:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            # Points at the step itself stay: they were logged before it was saved.
            first = resumed_at_step + 1 if resumed_at_step else 0
            self._add(first, event_pb2.Event(session_log=start))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point of each curve."""
        points = [self._summary.Summary.Value(tag=t, simple_value=v) for t, v in values.items()]
        self._add(step, self._event.Event(summary=self._summary.Summary(value=points)))

    def log_table(self, step: int, tag: str, rows: Sequence[Sequence[str]]) -> None:
        """Write a table of texts, each shown as Markdown; all rows have as many cells."""
        sizes = [self._shape.TensorShapeProto.Dim(size=n) for n in (len(rows), len(rows[0]))]
        tensor = self._tensor.TensorProto(
            dtype="DT_STRING",
            string_val=[cell.encode(errors="replace") for row in rows for cell in row],
            tensor_shape=self._shape.TensorShapeProto(dim=sizes),
        )
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        metadata = self._summary.SummaryMetadata(plugin_data=plugin)
        value = self._summary.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._add(step, self._event.Event(summary=self._summary.Summary(value=[value])))

    def _add(self, step: int, event: object) -> None:
        event.step, event.wall_time = step, time.time()  # type: ignore[attr-defined]
        if time.monotonic() < self._closed_until:
            return
        with self._or_without_curves():
            if self._writer is None:
                self._writer = self._make_writer(
                    str(self._folder()), max_queue_size=1000, flush_secs=5
                )
            self._writer.add_event(event)

    def _folder(self) -> Path:
        if self._store.is_local:
            return self._store.local_path("")
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="events-")
        return Path(self._scratch.name)

    @contextlib.contextmanager
    def _or_without_curves(self) -> Iterator[None]:
        """Have a full disk cost points of the curves, and not the run."""
        try:
            yield
        except OSError as error:
            logger.warning("No curves for %.0f s: %s", CLOSED_SECONDS, error)
            self._writer, self._closed_until = None, time.monotonic() + CLOSED_SECONDS

    def publish(self) -> None:
        """Send an object store what was logged so far; on a disk it is there already."""
        if self._scratch is None:
            return
        with self._or_without_curves():
            if self._writer is not None:
                self._writer.flush()
            for path in sorted(self._folder().iterdir()):
                self._store.replace(path.name, path.read_bytes())

    def close(self) -> None:
        """Flush everything to the store."""
        self.publish()
        with self._or_without_curves():
            if self._writer is not None:
                self._writer.close()
        if self._scratch is not None:
            self._scratch.cleanup()


def system_metrics(device: torch.device) -> dict[str, float]:
    """Return this node's load: RAM of this process in GB, CPU and GPU use in percent."""
    values = {
        "system/ram_gb": psutil.Process().memory_info().rss / 1e9,
        "system/cpu_percent": psutil.cpu_percent(),
    }
    if device.type == "cuda":
        values["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        # NVML does not tell on a GPU that is shared out (MIG); a missing curve ends no run.
        with contextlib.suppress(pynvml.NVMLError, RuntimeError, ModuleNotFoundError):
            values["system/gpu_percent"] = float(torch.cuda.utilization(device))
    return values


def flops_per_token(shape: Shape, seq_len: int, is_frozen: bool = False) -> float:
    """
    Return floating-point operations of one training token: 6 a weight, and attention's.

    A frozen weight has no gradient of its own, which saves 2.
    """
    heads, per_weight = shape.num_heads * shape.head_dim, 4.0 if is_frozen else 6.0
    return per_weight * shape.product_weights + 12.0 * shape.num_layers * heads * seq_len


def peak_flops(device: torch.device) -> float | None:
    """Return the dense bf16 peak of a known GPU, else None."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """Return the dense bf16 peak of a GPU by its name, word for word: an A10G is no A10."""
    words = set(re.findall(r"\w+", name))
    known = [kind for kind in PEAK_FLOPS if set(kind.split()) <= words]
    if not known or words & SLOWER_KINDS:
        return None
    return PEAK_FLOPS[max(known, key=len)]
