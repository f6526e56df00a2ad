"""
What the benchmarks of a GPU share: where they run, how they are timed, what they compute on.

    place = Place.found(smoke=False)
    place.emit("copy", gb_per_second=copied / place.seconds_of(copy) / 1e9)

With `--smoke` the cases run on a CPU and in small: whether they run is all that this tells.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from instruct_core.config import PRESETS
from instruct_core.data.batches import row_starts
from instruct_core.shape import Shape

REPEATS = 5


class Place(NamedTuple):
    """A device, and how large the cases are on it."""

    device: torch.device
    name: str
    preset: str  # of the model
    seq_len: int
    matrix: int  # side of the product whose speed is the ceiling
    copied_bytes: int
    run_steps: int  # of the run through `finetune`

    @staticmethod
    def found(smoke: bool) -> Place:
        """Return the GPU, or with ``smoke`` a CPU that stands in for it."""
        if smoke:
            return Place(torch.device("cpu"), "smoke", "tiny", 64, 256, 1 << 20, 6)
        gpu = torch.device("cuda", 0)
        name = torch.cuda.get_device_name(gpu)
        return Place(gpu, name, "gpt2", 1024, 8192, 1 << 30, 200)

    @property
    def is_gpu(self) -> bool:
        """False where this is a smoke test."""
        return self.device.type == "cuda"

    @property
    def shape(self) -> Shape:
        """Of the model."""
        return PRESETS[self.preset]

    def emit(self, case: str, **figures: Any) -> None:
        """Print one case."""
        print(json.dumps({"bench": "gpu", "case": case, "gpu": self.name, **figures}), flush=True)

    def wait(self) -> None:
        """Wait until the device has done all it was told."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds_of(self, run: Callable[[], object], warmup: int = 2, steps: int = 4) -> float:
        """Return the median seconds of one call, the device's queue included."""
        for _ in range(warmup):
            run()
        times = []
        for _ in range(REPEATS if self.is_gpu else 1):
            self.wait()
            started_at = time.perf_counter()
            for _ in range(steps):
                run()
            self.wait()
            times.append((time.perf_counter() - started_at) / steps)
        return statistics.median(times)

    def batch(self, batch_size: int, row_tokens: int) -> list[torch.Tensor]:
        """Return tokens, targets, positions and row ids of packed rows, (B, T), and their starts."""
        shape = (batch_size, self.seq_len)
        tokens = torch.randint(0, self.shape.vocab_size, shape, device=self.device)
        place = torch.arange(self.seq_len, device=self.device).expand(shape)
        row_ids = (place // row_tokens).int()
        starts = torch.from_numpy(row_starts(row_ids.cpu().numpy())).to(self.device)
        return [tokens, tokens.roll(-1, 1), place % row_tokens, row_ids, starts]
