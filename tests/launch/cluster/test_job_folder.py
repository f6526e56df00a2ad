"""Where jobs have their folders, and who may write there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from launch.cluster.job_folder import array_parent, new_job_folder
from launch.runs.run import Run


def test_nobody_else_may_write_what_a_job_runs(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        folder = new_job_folder(tmp_path / "job")
    finally:
        os.umask(before)

    modes = [path.stat().st_mode & 0o022 for path in (folder, folder.parent)]
    assert modes == [0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_somebody_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    parent = tmp_path / "job"
    parent.mkdir()
    os.chown(parent, 1, 1)

    with pytest.raises(ConfigError, match="belongs to"):
        new_job_folder(parent)

    assert list(parent.iterdir()) == []


def test_shard_sets_of_one_name_in_two_buckets_have_their_own_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = Store("memory://a/x/alpaca"), Store("memory://b/y/alpaca")

    assert array_parent(one) != array_parent(other)
    assert array_parent(one) == array_parent(Store("memory://a/x/alpaca"))


def test_runs_of_one_name_in_two_buckets_do_not_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = Run("r", Store("memory://a/r"), "memory://a/runs")
    other = Run("r", Store("memory://b/r"), "memory://b/runs")

    assert len({one.lock, other.lock, one.slurm_note, other.slurm_note}) == 4


def test_jobs_that_were_begun_under_the_last_word_alone_are_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "runs_instruct" / "array-jobs" / "alpaca"
    old.mkdir(parents=True)
    (old / "slurm.json").write_text("{}")

    assert array_parent(Store("memory://a/x/alpaca")) == old
