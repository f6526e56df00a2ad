"""A launch on a site with ways of its own: said, queued, kept, shown, and no part of what a run is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TINY_RUN, launch
from tests.launch.played_slurm import PlayedSlurm

OWN = (
    "--sbatch=reservation=course",
    "--sbatch=requeue=",
    "--setup=module load cuda",
    "--gpu-type=a100",
)


def test_sites_ways_are_queued_kept_and_shown(
    slurm: PlayedSlurm, desk: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSTRUCT_SITE", raising=False)
    (desk / "site.toml").write_text('account = "lab"\nsbatch = ["mem="]\n')
    slurm.gpus("gpu:a100:4")
    command = ("finetune", "--run=r", f"--shards={shard_set}", *TINY_RUN, "--max-steps=20")

    first = launch(*command, *OWN, cwd=desk)
    again = launch(*command, *OWN, cwd=desk)
    other = launch(*command, "--setup=module load other", cwd=desk)
    shown = launch("status", "r", cwd=desk)
    slurm.change("1", JobState="CANCELLED")
    resumed = launch(*command, cwd=desk)

    assert first.returncode == 0, first.stderr
    assert f"Site    {desk}/site.toml: --account=lab --sbatch=mem=; what is typed" in first.stdout
    assert "sbatch  without --mem, --reservation=course, without --requeue\n" in first.stdout
    assert (again.returncode, again.stderr) == (0, "")
    assert "is on Slurm already: job 1, PENDING (Resources)." in again.stdout
    assert other.returncode == 2
    assert "--setup is " in other.stderr
    assert (
        "Asked of Slurm: --gpu-type=a100 --sbatch=mem= --sbatch=reservation=course" in shown.stdout
    )
    assert "'--setup=module load cuda'" in shown.stdout
    assert resumed.returncode == 0, resumed.stderr
    scripts = [path.read_text() for path in sorted(desk.glob("runs_instruct/r/job/*/job.sh"))]
    assert len(scripts) == 2
    for script in scripts:
        assert "--account=lab" in script
        assert "--gpus-per-node=a100:1" in script
        assert "--reservation=course" in script
        assert "\nmodule load cuda\n" in script
        assert "--mem=" not in script
        assert "--requeue" not in script
    config = json.loads((desk / "checkpoints_instruct/r/run.json").read_text())["config"]
    assert not any(word in json.dumps(config) for word in ("course", "cuda", "a100", "lab"))


def test_arrays_have_them_too(
    slurm: PlayedSlurm, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('account = "lab"\n[preprocess]\nqos = "own"\n')
    monkeypatch.setenv("INSTRUCT_SITE", str(profile))
    (desk / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 40)

    done = launch(
        "preprocess", "--source=rows.jsonl", "--sbatch=hold", "--setup=module load x", "--dry-run",
        cwd=desk,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert f"Site: {profile}: --account=lab --qos=own" in done.stdout
    assert "sbatch  --hold\n" in done.stdout
    for line in ("#SBATCH --account=lab", "#SBATCH --qos=own", "#SBATCH --hold", "module load x"):
        assert f"\n{line}\n" in done.stdout


def test_wrong_profile_stops_a_launch_before_anything_is_written(
    slurm: PlayedSlurm, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSTRUCT_SITE", raising=False)
    (desk / "site.toml").write_text('acct = "lab"\n')

    done = launch("finetune", "--run=r", cwd=desk)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: Profile {desk}/site.toml has an unknown key acct.")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in desk.iterdir()] == ["site.toml"]


def test_job_of_another_cluster_is_asked_for_there(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    slurm.client("sbatch", 'case "$*" in *--test-only*) exit 0;; esac\necho "hello"\necho "41;far"')
    slurm.client("sinfo", "echo low $SLURM_CLUSTERS >> clusters; echo low")
    command = ("finetune", "--run=r", f"--shards={shard_set}", *TINY_RUN, "--clusters=far")

    first = launch(*command, cwd=desk)

    assert first.returncode == 0, first.stderr
    assert (slurm.folder / "clusters").read_text() == "low far\n"
    [script] = desk.glob("runs_instruct/r/job/*/job.sh")
    assert "#SBATCH --clusters=far\n" in script.read_text()
    note = json.loads((desk / "checkpoints_instruct/r/slurm.json").read_text())
    assert note["cluster"] == "far"
    assert (script.parent / "job_ids").read_text() == "41\n"


def test_job_on_another_cluster_is_ended_there(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    command = ("finetune", "--run=r", f"--shards={shard_set}", *TINY_RUN, "--clusters=far")

    queued = launch(*command, cwd=desk)
    again = launch(*command, cwd=desk)
    refused = launch(*command, "--compile", cwd=desk)

    assert "end it: scancel -M far 1" in again.stdout
    assert "save and end it: scancel -M far 1;" in queued.stdout + queued.stderr
    assert "Not taken: scancel -M far 1 first" in refused.stderr
    assert slurm.jobs == ["1"]
