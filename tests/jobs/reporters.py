"""A reporter of a run that does not train, for tests of what it writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instruct_core.config import TrainConfig
from jobs.reporter import Reporter
from jobs.timesheet import Timesheet
from jobs.world import World


def reporter_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Reporter:
    """Return the reporter of rank 0 of the run `r`, whose ledger and job lie in a folder."""
    monkeypatch.setenv("INSTRUCT_JOB", str(folder / "job"))
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0000")
    config = TrainConfig(
        "r", "s", "c", str(folder), "random", "tiny", "f", max_steps=4, tokens_per_step=512,
        seq_len=8, micro_batch_size=8, **settings,
    )  # fmt: skip
    world = World(0, 1, 0, 1, "7", "")
    guard: Any = SimpleNamespace(working=lambda phase: None, asked=lambda: False, step_seconds=0.25)
    return Reporter(config, 0, world, torch.device("cpu"), guard, None, Timesheet())
