"""What is refused before it is queued, what a dry run shows, and what is queued on other clusters."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANGS_SECONDS, REPO, wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import ONE_RANK, Cluster, Run, assert_ended_as_if_undisturbed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--partition=nowhere"],
            "--partition must be one of low, high, gpu, short, closed, got nowhere",
        ),
        (["--partition=closed"], "--partition closed takes no jobs now: it is INACTIVE"),
        (
            ["--partition=short", "--time=31"],
            "--time must be at most 30 minutes in partition short",
        ),
        (["--time=0"], "--time must be at least 1, got 0"),
        (["--nodes=5"], "--nodes must be at most 4 in partition low"),
        (["--gpus=5"], "--gpus must be at most 4 in a node of partition low, got 5"),
        (["--cpus-per-task=5"], "--cpus-per-task must be at most 4 for 2 ranks"),
        (["--mem=5"], "--mem must be at most 3.9 GB in partition low, got 5.0"),
        (["--gpus=3"], "There must be at most 4 ranks, one for each sequence of a step"),
        (["--after=next"], "--after must be job ids separated by commas, got next"),
        (["--after=99999"], "--after 99999: Slurm knows no such job"),
        (["--constraint=fast"], "Partition low has no node left with --constraint fast"),
        (["--exclude=node[1-4]"], "Partition low has no node left with --exclude node[1-4]"),
        (["--sbatch=reservation=nobodys"], "Slurm refuses this job in partition low: "),  # it alone
        (["--checkpoints=/proc/here"], "--checkpoints /proc/here cannot be written"),
        (["--init=nowhere"], "--init nowhere is not there"),
        (["--shards=nowhere"], "Shards nowhere are not there or not finished"),
    ],
)
def test_what_would_fail_in_the_queue_is_refused_before(
    desk: Run, flags: list[str], expected: str
) -> None:
    before = sorted(desk.cwd.rglob("*"))

    done = desk.launch("finetune", *desk.arguments, *flags)

    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(desk.cwd.rglob("*")) == before


def test_dry_run_shows_the_batch_script_and_writes_nothing(desk: Run) -> None:
    done = desk.launch("finetune", *desk.arguments, "--dry-run", "--account=lab", "--lead=90")

    assert done.returncode == 0, done.stderr
    for line in (
        "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=2", "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=1", "#SBATCH --signal=USR2@90", "#SBATCH --time=60",
        "#SBATCH --requeue", "#SBATCH --account=lab", "--kill-on-bad-exit=1",
    ):  # fmt: skip
        assert line in done.stdout
    assert "torchrun" not in done.stdout
    assert not list(desk.cwd.iterdir())
    assert not desk.cluster.run("squeue", "-h", "-n", "instruct-r")


def test_run_is_queued_while_nodes_are_down_and_begins_when_they_are_back(desk: Run) -> None:
    # One that is only down comes back when its slurmd is heard of again.
    for down in ("State=DRAIN", "State=DOWN"):
        desk.cluster.run("scontrol", "update", "NodeName=node[2-4]", down, "Reason=power")
    try:
        said = desk.submit("--gpus=1", "--max-steps=5")
        state = desk.state()
    finally:
        desk.cluster.run("scontrol", "update", "NodeName=node[2-4]", "State=RESUME")

    assert "Up now are 1 of 2 nodes of partition low: the job waits for the rest" in said
    assert state == "PENDING"
    desk.wait_for_end()
    assert desk.events("finished")


def test_cluster_without_gpus_runs_ranks_on_cores(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    run = Run(other_cluster(num_nodes=2, gpus=0), tmp_path / "run", light_shards, "--max-steps=5")

    refused = run.launch("finetune", *run.arguments, "--mem=0.5")
    said = run.submit("--mem=3")

    assert "are free on a node of partition low. Use more --mem" in refused.stderr
    assert "4 CPU ranks on 2 nodes (no GPU on a node of partition low: gloo)" in said
    run.wait_for_end()
    assert run.events("finished")


def test_real_accounting_is_no_obstacle(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    for name in ("mariadbd", "slurmdbd"):
        if shutil.which(name) is None:
            pytest.skip(
                f"needs {name}: apt-get install slurmdbd slurm-wlm-mysql-plugin mariadb-server"
            )
    cluster = other_cluster(num_nodes=2, accounting="dbd")
    run = Run(cluster, tmp_path / "run", light_shards, "--gpus=1")
    run.submit()

    with run.held_at(7):
        run.cluster.run("scancel", "--signal=USR2", run.job_id)

    run.wait_for_start(2)
    run.wait_for_end()
    wait_for(
        lambda: (
            "COMPLETED" in run.cluster.run("sacct", "-X", "-n", "-j", run.job_id, "-o", "State")
        ),
        "the accounting",
    )
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_sweep_is_a_job_for_each_run_and_compares_them_later(
    desk: Run, light_shards: Path, cluster: SlurmCluster
) -> None:
    shared = [word for word in desk.arguments if not word.startswith("--run=")]
    runs = [Run(cluster, desk.cwd, light_shards, name=f"s-seed-{seed}") for seed in (1, 2)]
    words = ("--over", "seed=1,2", *shared, "--max-steps=3", *ONE_RANK)

    begun = desk.launch("sweep", "s", *words)
    again = desk.launch("sweep", "s", *words)
    for run in runs:
        run.wait_for_end()
    compared = desk.launch("sweep", "s")

    assert begun.returncode == again.returncode == compared.returncode == 0, begun.stderr
    assert len({run.job_id for run in runs}) == 2
    assert [len(run.job_ids) for run in runs] == [1, 1]
    states = [line.split()[:3] for line in compared.stdout.splitlines()[1:3]]
    assert sorted(states) == [["s-seed-1", "1", "finished"], ["s-seed-2", "2", "finished"]]


def test_launcher_that_dies_after_submitting_leaves_a_run_that_goes_on(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    """Nothing depends on the shell: it is killed as soon as the job has an id."""
    desk = Run(cluster, tmp_path, light_shards, *ONE_RANK)
    env = desk.cluster.env | {"HF_HUB_OFFLINE": "1"}
    launcher = subprocess.Popen(
        [sys.executable, str(REPO / "launch" / "finetune.py"), *desk.arguments, "--follow"],
        cwd=desk.cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: list((desk.folder / "job").glob("*/job_ids")), "the submission")

    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()

    desk.wait_for_end()
    assert desk.events("finished")


def test_quickstart_of_the_readme_works_as_it_stands(desk: Run) -> None:
    text = (REPO / "README.md").read_text().split("## On Slurm\n")[1]
    block = text.split("```sh\n")[1].split("```")[0]
    (desk.cwd / "launch").symlink_to(REPO / "launch")
    said = []
    for command in block.splitlines():
        words = [word for word in command.split() if word != "-f"]  # it would wait for the end
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=desk.cwd, env=desk.cluster.env, text=True,
            capture_output=True, timeout=HANGS_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    job_ids = desk.cluster.run("squeue", "-h", "-n", "instruct-gpt2-builtin", "-o", "%i").split()
    desk.cluster.run("scancel", *job_ids)

    assert len(job_ids) == 1
    # A quick array is done before the second command asks; the wait itself has a test of its own.
    assert "still being made" in said[1] or "3,561 rows" in said[1]
    assert "gpt2-builtin" in said[2]
