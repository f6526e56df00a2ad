"""
One continuous run in TensorBoard, whatever happened to the job that trained it.

    metrics = Metrics(Store("runs_instruct/my-run"), attempt=1, resumed_at_step=100)
    metrics.log(101, {"train/loss": 2.9})
    metrics.file.write(10.0, durably=True)      # before a save: what it holds is not told again
    metrics.publish(10.0)

On resume TensorBoard is told to forget what an earlier attempt logged after the step that was
resumed at, so no curve overlaps itself. A thread writes, and steps wait for nothing; what the disk
refuses is kept until it takes it, where tensorboard's own writer would give it up. An object store
cannot append: events for one are written on this machine and sent there before every checkpoint.

Sources: tensorboard/plugins/event_processing (a SessionLog START purges later steps);
tensorboard/summary/writer (names and records of its files); GPU peaks are dense bf16 figures of
NVIDIA's data sheets; MFU as in PaLM, arXiv 2204.02311, appendix B.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from instruct_core.shape import Shape
from instruct_core.storage.growing_file import GrowingFile
from instruct_core.storage.patience import patiently
from instruct_core.storage.store import Store

logger = logging.getLogger(__name__)

WRITE_SECONDS = 5.0  # between two writes, where nobody asks for one
PEAK_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "H200 NVL": 835e12, "H200": 989e12, "H100 NVL": 835e12,
    "H100 PCIe": 756e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "L40S": 362e12,
    "L40": 181e12, "A40": 150e12, "A10": 125e12, "A10G": 70e12, "L4": 121e12, "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}  # fmt: skip
SLOWER_KINDS = {"Laptop", "D", "Ti"}  # of the same name, with another peak
FILE = re.compile(r"events\.out\.tfevents\.(\d{10})\..*")  # TensorBoard reads them by name


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
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._tensor, self._shape = tensor_pb2, tensor_shape_pb2
        self._record_writer = RecordWriter
        # All of a file is sent each time: steps do not wait for a store that is away.
        self._store = store if store.is_local else Store(store.url, patience_seconds=0.0)
        self._scratch = None if store.is_local else Path(tempfile.gettempdir(), uuid.uuid4().hex)
        seconds, host, process = self._seconds(attempt), socket.gethostname(), os.getpid()
        name = f"events.out.tfevents.{seconds:010d}.{host}.{process}.{attempt}"
        path = (self._scratch or store.local_path("")) / name
        self.file = GrowingFile(path, "curves", is_scratch=self._scratch is not None)
        self._sent_bytes = 0
        self._is_over = threading.Event()
        self._add(0, event_pb2.Event(file_version="brain.Event:2"))
        if attempt:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            # Points at the step itself stay: they were logged before it was saved.
            first = resumed_at_step + 1 if resumed_at_step else 0
            self._add(first, event_pb2.Event(session_log=start))
        threading.Thread(target=self._write_on, name="curves", daemon=True).start()

    def _seconds(self, attempt: int) -> int:
        """Return the time for a name: after those of earlier attempts, whose clocks may be ahead."""
        names: list[str] = []
        try:
            names = self._store.names() if attempt else []
        except OSError as error:  # must not end the run: clocks mostly agree
            logger.warning("The curves of earlier attempts could not be looked for: %s", error)
        newest = max((int(found[1]) for found in map(FILE.fullmatch, names) if found), default=0)
        return max(int(time.time()), newest + 1)

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

    def _add(self, step: int, event: Any) -> None:
        event.step, event.wall_time = step, time.time()
        record = io.BytesIO()
        self._record_writer(record).write(event.SerializeToString())
        self.file.add(record.getvalue())

    def _write_on(self) -> None:
        while not self._is_over.wait(WRITE_SECONDS):
            self.file.write()

    def publish(self, patience_seconds: float = 0.0) -> bool:
        """Send an object store what was logged so far; False where it does not take it now."""
        if self._scratch is None:
            return True
        self.file.write()
        path = self.file.path
        try:
            data = path.read_bytes()
            if len(data) > self._sent_bytes:
                send = partial(self._store.replace, path.name, data)
                patiently(send, patience_seconds, lambda _: True)
                self._sent_bytes = len(data)
        except OSError as error:  # must not end the run: all of it is sent before the next save
            logger.warning("The curves could not be sent: %s", error)
            return False
        return True

    def close(self) -> None:
        """Write and send what was not yet, and end."""
        self._is_over.set()
        self.file.write()
        self.publish()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


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
