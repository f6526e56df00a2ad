"""What the batch script does where the disk took no word of how its ranks ended: it goes by srun's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.job_folder import ASKS_BACK, Progress, read_json, write_progress
from jobs.survival import comeback as module
from jobs.survival.comeback import ENDED_WELL, decide_comeback
from tests.jobs.survival.conftest import Batch


@pytest.mark.parametrize(
    ("number", "said", "answer"),
    [
        (errno.ENOSPC, "", ENDED_WELL),
        (errno.EROFS, "", ENDED_WELL),
        (errno.EIO, "", 0),  # nobody knows what it would have taken a moment ago
        (errno.ENOSPC, "srun: error: launch failed", 0),
    ],
)
def test_ranks_whose_disk_took_no_word_until_their_end_have_ended_well_if_srun_says_nothing_else(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, number: int, said: str, answer: int
) -> None:
    def refuse(path: Path, document: dict[str, Any]) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setenv("INSTRUCT_SRUN_SAID", "0")
    monkeypatch.setattr(module, "replace_json", refuse)
    batch.said(said)

    assert decide_comeback() == answer
    assert batch.asked() == ([] if answer else ["scontrol requeue 7"])


def test_ranks_that_have_saved_and_could_leave_no_word_of_it_are_no_crash(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes neither their progress nor the pickle that submitit would requeue."""
    write_progress(batch.folder, Progress(state="running", committed=9))
    monkeypatch.setenv("INSTRUCT_SRUN_SAID", str(ASKS_BACK))
    batch.said(f"srun: error: node1: task 0: Exited with exit code {ASKS_BACK}")

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]
    assert not (batch.folder / "crashes.json").exists()


def test_ranks_that_came_to_no_step_before_their_time_was_up_are_no_crash(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 has said so by its exit code; srun had to kill the other, and its own code is of that."""
    write_progress(batch.folder, Progress(state="running", committed=9))
    monkeypatch.setenv("INSTRUCT_SRUN_SAID", "137")
    batch.said(
        f"srun: error: node1: task 0: Exited with exit code {ASKS_BACK}\n"
        "srun: Terminating StepId=7.0\nsrun: error: node2: task 1: Killed"
    )

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]
    assert not (batch.folder / "crashes.json").exists()
    assert read_json(batch.folder / "warnings.json")["start"] == "0001"


@pytest.mark.parametrize("start", ["0001", "0000"])
def test_ranks_that_srun_says_ended_well_are_believed_if_they_have_begun(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.setenv("INSTRUCT_SRUN_SAID", "0")
    with monkeypatch.context() as earlier:
        earlier.setenv("INSTRUCT_START", start)
        write_progress(batch.folder, Progress(state="running"))
    batch.said("srun: error: task 0 launch failed: Slurmd could not connect IO")

    assert decide_comeback() == (ENDED_WELL if start == "0001" else 0)

    assert batch.asked() == ([] if start == "0001" else ["scontrol requeue 7"])
