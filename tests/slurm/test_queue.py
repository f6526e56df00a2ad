"""Into Slurm's queue and out of it: arrays, dependencies, frozen code, several runs, what is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import HANGS_SECONDS, REPO, wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import ONE_RANK, Run, assert_ended_as_if_undisturbed


def test_training_waits_for_shards_that_are_being_made(
    desk: Run, rows_file: Path, cluster: SlurmCluster
) -> None:
    held = cluster.run(
        "sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"
    ).strip()
    made = desk.launch(
        "preprocess", f"--source={rows_file}", "--out=later", "--num-tasks=2", f"--after={held}"
    )
    assert made.returncode == 0, made.stderr

    said = desk.submit("--shards=later", "--max-steps=5", *ONE_RANK)

    assert "still being made" in said
    array = (desk.cwd / "later" / "job" / "0000" / "job_ids").read_text().strip()
    assert f"afterok:{array}" in cluster.job(desk.job_id)["Dependency"]
    assert "waits for another job" in desk.launch("status").stdout
    cluster.run("scontrol", "release", held)
    desk.wait_for_end()
    assert desk.events("finished")


def test_run_behind_tasks_that_failed_is_told_and_replaced_by_the_same_command(
    desk: Run, rows_file: Path, cluster: SlurmCluster
) -> None:
    held = cluster.run(
        "sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"
    ).strip()
    words = [f"--source={rows_file}", "--out=later", "--num-tasks=2"]
    made = desk.launch("preprocess", *words, f"--after={held}")
    assert made.returncode == 0, made.stderr
    desk.submit("--shards=later", "--max-steps=5", *ONE_RANK)
    waiting = desk.job_id
    array = (desk.cwd / "later" / "job" / "0000" / "job_ids").read_text().strip()

    cluster.run("scancel", held, array)
    wait_for(lambda: cluster.job(waiting)["Reason"] == "DependencyNeverSatisfied", "the wait's end")
    told = desk.launch("logs", "r", "-f")
    assert desk.launch("preprocess", *words, "--follow").returncode == 0
    said = desk.submit("--shards=later", "--max-steps=5", *ONE_RANK)

    assert told.returncode == 1
    assert "run r can never start: what it waits for has failed" in told.stderr
    assert f"Job {waiting} is cancelled, and replaced" in said
    assert cluster.job(waiting)["JobState"] == "CANCELLED"
    desk.wait_for_end()
    assert desk.events("finished")


def test_requeued_run_does_not_see_edited_code(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    project = tmp_path / "project"
    for package in ("launch", "jobs", "instruct_core"):
        shutil.copytree(REPO / package, project / package)
    run = Run(cluster, tmp_path / "desk", light_shards, *ONE_RANK, code=project)
    run.submit()

    (project / "jobs" / "attempt.py").write_text("raise RuntimeError('half-edited')\n")
    (project / "instruct_core" / "config.py").write_text("raise RuntimeError('half-edited')\n")
    with run.held_at(7):
        cluster.run("scancel", "--signal=USR2", run.job_id)

    run.wait_for_start(2)
    run.wait_for_end()
    assert run.events("finished")


def test_two_runs_share_a_node(cluster: SlurmCluster, tmp_path: Path, light_shards: Path) -> None:
    first, second = (
        Run(cluster, tmp_path, light_shards, "--nodes=1", "--max-steps=10", name=name)
        for name in ("one", "two")
    )
    first.submit("--exclude=node[2-4]")

    with first.held():  # it cannot have ended when the second one trains
        second.submit("--exclude=node[2-4]")
        second.wait_for_start(1)

    for run in (first, second):
        run.wait_for_end()
        assert run.events("finished")
        assert cluster.job(run.job_id)["NodeList"] == "node1"
    assert first.hashes(10) == second.hashes(10)


def test_run_submitted_from_inside_a_job_is_its_own(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    run = Run(cluster, tmp_path, light_shards, "--gpus=1")
    command = " ".join([sys.executable, str(REPO / "launch" / "finetune.py"), *run.arguments])

    cluster.run(
        *("sbatch", "--wait", "--mem-per-cpu=50", "--ntasks=3", f"--chdir={tmp_path}"),
        *("--output=outer.log", f"--wrap={command}"),
    )

    assert "Run r: job" in (tmp_path / "outer.log").read_text()
    run.wait_for_end()
    assert run.cluster.job(run.job_id)["NumTasks"] == "2"
    assert run.events("finished")


def test_log_and_status_tell_of_all_attempts(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    run = Run(cluster, tmp_path, light_shards, "--gpus=1")
    run.submit()
    with run.held_at(5):  # it must not end while somebody looks at it
        shutil.copytree(run.checkpoints, run.checkpoints.with_name("other"))
        (run.checkpoints.with_name("other") / "slurm.json").write_text("")
        running = run.launch("status")
        cluster.run("scancel", run.job_id)
    run.wait_for_end("CANCELLED")
    stopped = run.launch("status")
    run.submit()
    follower = subprocess.run(
        [sys.executable, str(REPO / "launch" / "logs.py"), "r", "-f"],
        cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=HANGS_SECONDS, check=True,
    )  # fmt: skip

    assert "RUNNING" in running.stdout
    assert "other  unreadable" in running.stdout
    assert "stopped" in stopped.stdout
    assert follower.stdout.count("=== start") == 2
    assert "rank 0 stopped step" in follower.stdout
    assert "rank 0 finished step 30" in follower.stdout
    status = run.launch("status", "r").stdout
    assert "Run r: finished, step 30 of 30" in status
    assert ", ".join(run.job_ids) in status
    assert "finished" in run.launch("status").stdout


FAILS_ON_RANK_1 = """
import json, os
if os.environ.get("SLURM_PROCID") == "1":
    whole = json.dumps
    def dumps(value, **how):
        if isinstance(value, dict) and value.keys() == {"step", "samples"}:
            raise ArithmeticError("rank 1 has read")
        return whole(value, **how)
    json.dumps = dumps
"""


def test_first_failing_ranks_traceback_is_what_the_person_sees(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    """Three crashes without progress: a rank that fails as soon as it has read."""
    (tmp_path / "sitecustomize.py").write_text(FAILS_ON_RANK_1)
    run = Run(cluster, tmp_path, light_shards, "--gpus=1", f"--setup=export PYTHONPATH={tmp_path}")
    run.submit()

    run.wait_for_end("FAILED")

    assert len(run.events("started")) == 3
    assert (
        run.cluster.job(run.job_id)["Restarts"] == "1"
    )  # once on the same nodes, then without one
    status = run.launch("status", "r").stdout
    assert "Run r: failed" in status
    assert "rank 1 has read" in status
    outcome = json.loads((run.folder / "job" / "0000" / "failed.json").read_text())
    assert "rank 1 has read" in outcome["traceback"]
    excluded = run.cluster.job(run.job_id)["ExcNodeList"]
    assert excluded == run.crashed_on()[0] == run.crashed_on()[1], "the node that failed twice"


def test_missing_data_is_not_tried_again(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    shards = shutil.copytree(light_shards, tmp_path / "s")
    held = cluster.run(
        "sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"
    ).strip()
    run = Run(cluster, tmp_path, Path(shards), "--gpus=1")
    run.submit(f"--after={held}")

    (tmp_path / "s" / "train" / "00001.safetensors").unlink()
    cluster.run("scontrol", "release", held)

    run.wait_for_end("FAILED")
    assert run.cluster.job(run.job_id)["Restarts"] == "0"
    assert len(run.events("started")) == 1
    assert "00001.safetensors" in run.launch("status").stdout


# Appended to a copy of jobs/attempt.py: worker processes as a DataLoader has them, forked and
# spawned inside the job; each is asked once before the end whether it still lives.
WORKERS = """

import multiprocessing
import time

_train = train


def _answer(pipe):
    while pipe.recv() == "alive?":
        pipe.send("alive")


def train(*arguments, **options):
    workers = []
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        mine, theirs = context.Pipe()
        worker = context.Process(target=_answer, args=(theirs,), daemon=True)
        worker.start()
        workers.append((mine, worker))
    result = _train(*arguments, **options)
    for pipe, worker in workers:
        try:
            pipe.send("alive?")
            answer = pipe.recv() if pipe.poll(10) else "dead"
        except OSError:
            answer = "dead"
        with open("{notes}", "a") as notes:
            notes.write(answer + "\\n")
        worker.kill()
    # The first rank to go has the job requeued, and Slurm ends the others then: all wait for all.
    while len(open("{notes}").read().split()) % 4:
        time.sleep(0.1)
    return result
"""


def test_warned_workers_outlive_the_warning(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    """Processes as a DataLoader has them, forked and spawned, get every signal of the step."""
    project = tmp_path / "project"
    for package in ("launch", "jobs", "instruct_core"):
        shutil.copytree(REPO / package, project / package)
    with (project / "jobs" / "attempt.py").open("a") as file:
        file.write(WORKERS.format(notes=tmp_path / "workers"))
    run = Run(cluster, tmp_path, light_shards, "--gpus=1", code=project)
    run.submit()

    with run.held_at(7):
        cluster.run("scancel", "--signal=USR2", run.job_id)

    run.wait_for_start(2)
    run.wait_for_end()
    notes = (tmp_path / "workers").read_text().split()
    assert notes == ["alive"] * 8, "both kinds of worker of both ranks, in both attempts"
    assert_ended_as_if_undisturbed(run, undisturbed_pair)
