"""Arrays that `status` shows, wherever the sets lie that they fill."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PosixPath

import pytest

from instruct_core.data.shard_plan import scan
from instruct_core.data.sources import Source
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from jobs.queueing import note_job
from launch.cluster.job_folder import array_parent, new_job_folder
from launch.cluster.slurm import SlurmJob
from launch.flags.status import Status
from launch.runs import overview
from launch.runs.arrays import state_of
from launch.runs.overview import show_status
from tests.launch.played_slurm import PlayedSlurm


def test_arrays_that_fill_a_bucket_are_shown_from_where_they_were_queued(
    project: Path,
    slurm: PlayedSlurm,
    rows_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    slurm.add("7")
    plan = scan(Source("rows", "rows", [str(rows_file)]), None, None, skip_bad_rows=False)
    for name in ("mine", "other"):  # the other was made elsewhere
        plan.save(Store(f"memory://bucket/sets/{name}"))
    store = Store("memory://bucket/sets/mine")
    folder = new_job_folder(array_parent(store))
    note_job(folder, "7")
    SlurmJob(folder).write_note(array_parent(store) / "slurm.json")

    show_status(Status(checkpoints=str(project / "checkpoints"), shards="memory://bucket/sets"))

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mine", "1", "PENDING", "7", "0", "of", "3"] in lines
    assert not [line for line in lines if line[:1] == ["other"]]


@pytest.mark.parametrize(
    ("slurm_says", "is_made", "told"),
    [
        ("COMPLETED", True, "complete"),
        ("COMPLETED", False, "ended"),
        ("RUNNING", False, "1 RUNNING"),
    ],
)
def test_array_that_has_ended_is_told_by_what_it_has_made(
    tmp_path: Path, slurm: PlayedSlurm, slurm_says: str, is_made: bool, told: str
) -> None:
    slurm.add("7")
    slurm.change("7", JobState=slurm_says)
    note_job(tmp_path, "7")

    assert state_of(SlurmJob(tmp_path), is_made) == told


def test_bucket_of_shards_that_does_not_answer_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Store.names

    def refuse(self: Store, folder: str = "") -> list[str]:
        if self.is_local:
            return names(self, folder)
        raise OSError(f"{self.url}: Could not connect")

    monkeypatch.setattr(Store, "names", refuse)

    with pytest.raises(
        ConfigError, match=r"--shards s3://b/sets cannot be used: .*Could not connect"
    ):
        show_status(Status(checkpoints=str(project / "checkpoints"), shards="s3://b/sets"))


class Forbidden(PosixPath):
    """A place in a folder that we may not enter; whoever is root may enter each."""

    def exists(self) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))


def test_set_that_is_somebodys_alone_keeps_nobody_from_the_others(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    (project / "shards" / "theirs").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(overview, "array_parent", lambda store: Forbidden(store.url))

    show_status(Status(checkpoints=str(project / "checkpoints")))

    assert any(line.split()[:1] == ["r"] for line in capsys.readouterr().out.splitlines())
