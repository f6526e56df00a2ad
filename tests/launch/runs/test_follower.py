"""What a person sees of a job that is followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instruct_core.storage.store import Store
from launch.cluster.slurm import SlurmJob
from launch.console.lines import EXIT_FAILED
from launch.runs.follower import watch_slurm


def test_event_that_this_version_does_not_know_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job's code is frozen at submission: today's launcher may be older, or newer."""
    events = [
        {"utc_seconds": 1.0, "event": "moved", "step": 3, "to": "node2"},
        {"utc_seconds": 2.0, "event": "resumed", "step": 3},
    ]

    def ends(job: SlurmJob) -> bool:
        lines = "".join(json.dumps(event) + "\n" for event in events)
        Store(job.ledger).replace("attempt-0000.jsonl", lines.encode())
        return False

    monkeypatch.setattr(SlurmJob, "is_running", ends)

    exit_code = watch_slurm(SlurmJob(tmp_path / "job", str(tmp_path / "r")), "r")

    said = capsys.readouterr().out.splitlines()
    assert said == ["moved: step 3, to node2", "Going on from step 3"]
    assert exit_code == EXIT_FAILED  # it has left no word of its end
