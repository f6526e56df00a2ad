"""A launcher that dies while it queues a job: the next one finds the job, or queues the only one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.queueing import known_jobs
from launch.cluster.job_folder import job_folders
from launch.cluster.lost import folder_to_submit
from tests.conftest import TINY_RUN, launch
from tests.launch.played_slurm import PlayedSlurm

TRAIN = [
    "finetune",
    "--run=r",
    "--shards=shards/small",
    "--max-steps=2",
    "--init=random",
    *TINY_RUN,
]
PREPARE = ["preprocess", "--source=rows.jsonl", "--out=shards/mine", "--num-tasks=2"]
DIES = "case $* in *--test-only*) ;; *) kill -9 $PPID;; esac"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedSlurm:
    return PlayedSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def desk(tmp_path: Path, shard_set: Path, rows_file: Path) -> Path:
    shutil.copytree(shard_set, tmp_path / "desk" / "shards" / "small")
    shutil.copy(rows_file, tmp_path / "desk" / "rows.jsonl")
    return tmp_path / "desk"


def sbatch_of(slurm: PlayedSlurm) -> str:
    return (slurm.folder / "sbatch").read_text().split("\n", 2)[2]


def given(desk: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    return launch(*words, cwd=desk)


@pytest.mark.parametrize("words", [TRAIN, PREPARE])
def test_job_of_a_launcher_that_died_before_its_note_is_found(
    desk: Path, slurm: PlayedSlurm, words: list[str]
) -> None:
    slurm.add("77")  # somebody else's
    queues = sbatch_of(slurm)
    slurm.client("sbatch", queues.replace("echo $id", f"{DIES}\necho $id"))
    given(desk, words)
    assert slurm.jobs == ["2", "77"]
    slurm.client("sbatch", queues)

    for _ in range(2):
        done = given(desk, words)

        assert done.returncode == 0, done.stderr
        assert "already: job 2, PENDING (Resources)" in done.stdout
    assert slurm.jobs == ["2", "77"]


@pytest.mark.parametrize("words", [TRAIN, PREPARE])
def test_launcher_that_died_before_its_job_was_queued_is_followed_by_one_that_queues(
    desk: Path, slurm: PlayedSlurm, words: list[str]
) -> None:
    queues = sbatch_of(slurm)
    slurm.client("sbatch", queues.replace("id=$((", f"{DIES} && exit\nid=$(("))
    given(desk, words)
    assert slurm.jobs == []
    slurm.client("sbatch", queues)

    done = given(desk, words)

    assert done.returncode == 0, done.stderr
    assert slurm.jobs == ["1"]


def test_sbatch_that_outlives_its_launcher_is_waited_for(desk: Path, slurm: PlayedSlurm) -> None:
    queues = sbatch_of(slurm)
    waits = f"{DIES}\nwhile [ ! -e go ]; do sleep 0.05; done\n"
    slurm.client("sbatch", queues.replace("id=$((", f"{waits}id=$(("))
    given(desk, TRAIN)

    early = given(desk, TRAIN)
    (slurm.folder / "go").touch()
    while "just being queued" in (late := given(desk, TRAIN)).stderr:
        pass

    assert early.returncode == 2
    assert early.stderr.endswith("queued by another launcher. Try again in a moment.\n")
    assert late.returncode == 0, late.stderr
    assert "already: job 1" in late.stdout
    assert slurm.jobs == ["1"]


def test_slurm_that_does_not_answer_leaves_it_open(desk: Path, slurm: PlayedSlurm) -> None:
    slurm.client("sbatch", sbatch_of(slurm).replace("echo $id", DIES))
    given(desk, TRAIN)
    slurm.is_silent_about_jobs()

    done = given(desk, TRAIN)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "whether Slurm has it nobody can tell: scontrol -o show failed: Socket" in done.stderr
    assert slurm.jobs == ["1"]


def folders_of(desk: Path, words: list[str]) -> list[Path]:
    """Return the job folders that a command has left."""
    parent = "runs_instruct/r/job" if words is TRAIN else "shards/mine/job"
    return job_folders(desk / parent)


def refuse(slurm: PlayedSlurm) -> None:
    """Have Slurm refuse every job, though it would take it when it is asked."""
    first, _, rest = sbatch_of(slurm).partition("esac\n")
    slurm.client("sbatch", f"{first}esac\necho QOSMaxSubmitJobPerUserLimit >&2; exit 1\n{rest}")


@pytest.mark.parametrize("words", [TRAIN, PREPARE])
def test_job_that_slurm_refuses_leaves_no_folder(
    desk: Path, slurm: PlayedSlurm, words: list[str]
) -> None:
    refuse(slurm)

    done = given(desk, words)

    assert done.returncode == 2
    assert "was not queued: sbatch --parsable" in done.stderr
    assert done.stderr.count("\n") == 1
    assert folders_of(desk, words) == []


@pytest.mark.parametrize("words", [TRAIN, PREPARE])
def test_folder_stays_until_slurm_says_that_it_has_no_job_of_it(
    desk: Path, slurm: PlayedSlurm, words: list[str]
) -> None:
    queues = sbatch_of(slurm)
    refuse(slurm)
    slurm.is_silent_about_jobs()

    done = given(desk, words)

    [folder] = folders_of(desk, words)
    assert f"Folder {folder} stays: a job may have been queued from it" in done.stderr
    slurm.client("sbatch", queues)
    (slurm.folder / "silent").unlink()
    again = given(desk, words)
    assert again.returncode == 0, again.stderr
    assert slurm.jobs == ["1"]
    assert len(folders_of(desk, words)) == 1
    assert known_jobs(folders_of(desk, words)[0]) == ["1"]


@pytest.mark.parametrize("words", [TRAIN, PREPARE])
def test_job_that_slurm_takes_later_than_it_should_have_answered_is_found(
    desk: Path, slurm: PlayedSlurm, words: list[str]
) -> None:
    queues = sbatch_of(slurm)
    times_out = "echo 'Socket timed out on send/recv operation' >&2; exit 1"
    first, _, rest = queues.partition("esac\n")
    # Slurm has the question, and has not come to it yet.
    slurm.client("sbatch", f'{first}esac\necho "$2" > unheard; {times_out}')

    early = given(desk, words)
    script = (slurm.folder / "unheard").read_text().strip()
    assert early.returncode == 2
    assert "may be queued: sbatch --parsable" in early.stderr
    assert Path(script).is_file()
    slurm.client("sbatch", f"{first}esac\n{rest}")
    subprocess.run([slurm.folder / "sbatch", "--parsable", script], check=True)
    late = given(desk, words)

    assert late.returncode == 0, late.stderr
    assert "already: job 1" in late.stdout
    assert slurm.jobs == ["1"]


def fail_behind(parent: Path, left: str, error: BaseException) -> None:
    """Submit a job that fails when a file of its folder is there."""
    with folder_to_submit(parent) as folder:
        (folder / left).touch()
        raise error


@pytest.mark.parametrize("error", [OSError("no processes"), KeyboardInterrupt()])
def test_job_here_that_cannot_be_started_leaves_no_folder(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        fail_behind(tmp_path, "controller.log", error)
    assert job_folders(tmp_path) == []

    with pytest.raises(type(error)):  # it has been started
        fail_behind(tmp_path, "77_submitted.pkl", error)
    assert len(job_folders(tmp_path)) == 1
