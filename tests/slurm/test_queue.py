"""Into Slurm's queue and out of it: arrays, dependencies, frozen code, several runs, what is said."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from instruct_core.config import PRESETS
from instruct_core.model.gpt2 import GPT2
from tests.conftest import REPO, wait_for, write_rows
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import Cluster, Run, assert_ended_as_if_undisturbed


def files_of(shards: Path) -> dict[str, bytes]:
    paths = [*shards.glob("train/*"), *shards.glob("val/*"), shards / "manifest.json"]
    return {str(path.relative_to(shards)): path.read_bytes() for path in paths}


@pytest.fixture
def desk(cluster: SlurmCluster, tmp_path: Path, shard_set: Path) -> Run:
    """A person's folder on the cluster; its launchers are what a test uses."""
    return Run(cluster, tmp_path, shard_set)


def num_queued(cluster: SlurmCluster, name: str) -> int:
    return len(cluster.run("squeue", "-h", "-r", "-n", name, "-o", "%i").split())


def pids_of_task(folder: Path) -> list[int]:
    """Return the Python processes of an array task, found by their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, env = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        is_python = (entry / "comm").read_text().startswith("python")
        of_task = f"INSTRUCT_JOB={folder}\0".encode() in env
        if is_python and of_task and b"submitit.core._submit" in command:
            found.append(int(entry.name))
    return found


def test_array_makes_the_same_shards_as_one_task_and_a_rerun_only_what_is_missing(
    desk: Run, rows_file: Path, shard_set: Path
) -> None:
    flags = [f"--source={rows_file}", "--out=s", "--num-tasks=3"]
    done = desk.launch("preprocess", *flags, "--follow")

    assert done.returncode == 0, done.stderr
    assert "array 0-2%128 of partition low" in done.stdout
    assert files_of(desk.cwd / "s") == files_of(shard_set)
    (desk.cwd / "s" / "train" / "00001.safetensors").unlink()
    again = desk.launch("preprocess", *flags, "--follow")
    assert "array 1%128" in again.stdout
    assert files_of(desk.cwd / "s") == files_of(shard_set)
    assert "nothing to do" in desk.launch("preprocess", *flags).stdout


def test_array_larger_than_the_cluster_allows_becomes_two(
    other_cluster: Cluster, tmp_path: Path, shard_set: Path
) -> None:
    """1,002 tasks where 1,001 are the most; they wait, because starting them takes minutes."""
    desk = Run(other_cluster(num_nodes=1), tmp_path / "desk", shard_set)
    rows = write_rows(tmp_path / "rows.jsonl", 1002 * 250, words=2)
    desk.cluster.run("scontrol", "update", "PartitionName=low", "State=DOWN")
    flags = [f"--source={rows}", "--out=s", "--num-tasks=1002", "--rows-per-shard=250"]

    done = desk.launch("preprocess", *flags)

    assert done.returncode == 0, done.stderr
    assert "Partition low is DOWN: the job waits until it is up" in done.stdout
    assert "array 0-1000%64" in done.stdout
    assert "array 0%64" in done.stdout
    assert num_queued(desk.cluster, "shards-s") == 1002
    assert "1002 PENDING" in desk.launch("status", f"--shards={desk.cwd}").stdout
    attached = desk.launch("preprocess", *flags)
    assert "are being made already" in attached.stdout
    assert num_queued(desk.cluster, "shards-s") == 1002
    # The very last task, which is array task 0 of the second array, makes the last shard.
    second = (desk.cwd / "s" / "job" / "0000" / "job_ids").read_text().split()[1]
    desk.cluster.run(
        "scancel", (desk.cwd / "s" / "job" / "0000" / "job_ids").read_text().split()[0]
    )
    desk.cluster.run("scontrol", "update", "PartitionName=low", "State=UP")
    wait_for(lambda: desk.cluster.job(second)["JobState"] == "COMPLETED", "the last task")
    assert [p.name for p in (desk.cwd / "s" / "train").iterdir()] == ["01001.safetensors"]


def test_task_that_is_killed_or_warned_comes_back_alone(desk: Run, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60_000, words=40)
    done = desk.launch("preprocess", f"--source={rows}", "--out=s", "--num-tasks=2")
    assert done.returncode == 0, done.stderr
    job_id = (desk.cwd / "s" / "job" / "0000" / "job_ids").read_text().strip()
    shards = desk.cwd / "s" / "train"
    wait_for(lambda: len(list(shards.glob("*"))) > 2, "some shards")

    for pid in pids_of_task(desk.cwd / "s" / "job" / "0000" / "task-00000"):
        os.kill(pid, signal.SIGKILL)
    desk.cluster.run("scancel", "--signal=USR2", f"{job_id}_1")

    manifest = desk.cwd / "s" / "manifest.json"
    wait_for(manifest.exists, "all shards")
    for task in (0, 1):
        record = f"{job_id}_{task}"
        wait_for(lambda r=record: desk.cluster.job(r)["JobState"] == "COMPLETED", "the task's end")
        assert desk.cluster.job(record)["Restarts"] == "1"


def test_questions_are_answered_by_an_array_and_a_killed_task_comes_back(
    desk: Run, tmp_path: Path
) -> None:
    model = GPT2(PRESETS["tiny"])
    model.initialize(seed=1)
    torch.save({"model": model.state_dict()}, tmp_path / "tiny.pt")
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"id": n, "prompt": f"Say {n}."}) + "\n" for n in range(60))
    )
    flags = [
        "--checkpoint=tiny.pt", "--source=q.jsonl", "--rows-per-part=10", "--max-new-tokens=200",
        "--temperature=1",
    ]  # fmt: skip
    alone = desk.launch("generate", *flags, "--out=one.jsonl", "--cluster=local", "--num-tasks=1")
    assert alone.returncode == 0, alone.stderr

    done = desk.launch("generate", *flags, "--out=a.jsonl", "--num-tasks=2")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "a.jsonl.parts" / "job" / "0000"
    pids = wait_for(lambda: pids_of_task(folder / "task-00001"), "the task's process")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert re.search(r"a\.jsonl +\d [A-Z, 0-9]+\d of 6", desk.launch("status").stdout)
    ended = desk.launch("generate", *flags, "--out=a.jsonl", "--num-tasks=2", "--follow")

    assert ended.returncode == 0, ended.stderr
    assert "array 0-1%128 of partition low" in done.stdout
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert "complete: nothing to do" in desk.launch("generate", *flags, "--out=a.jsonl").stdout
    assert re.search(r"a\.jsonl .*6 of 6", desk.launch("status").stdout)


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

    said = desk.submit("--shards=later", "--max-steps=5")

    assert "still being made" in said
    array = (desk.cwd / "later" / "job" / "0000" / "job_ids").read_text().strip()
    assert f"afterok:{array}" in cluster.job(desk.job_id)["Dependency"]
    assert "waits for another job" in desk.launch("status").stdout
    cluster.run("scontrol", "release", held)
    desk.wait_for_end()
    assert desk.events("finished")


def test_requeued_run_does_not_see_edited_code(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    project = tmp_path / "project"
    for package in ("launch", "jobs", "instruct_core"):
        shutil.copytree(REPO / package, project / package)
    run = Run(cluster, tmp_path / "desk", shard_set, "--gpus=1", code=project)
    run.submit()
    run.reach(7)

    (project / "jobs" / "attempt.py").write_text("raise RuntimeError('half-edited')\n")
    (project / "instruct_core" / "config.py").write_text("raise RuntimeError('half-edited')\n")
    cluster.run("scancel", "--signal=USR2", run.job_id)

    run.wait_for_start(2)
    run.wait_for_end()
    assert run.events("finished")


def test_two_runs_share_a_node(cluster: SlurmCluster, tmp_path: Path, shard_set: Path) -> None:
    runs = [
        Run(cluster, tmp_path, shard_set, "--nodes=1", "--max-steps=10", name=name)
        for name in ("one", "two")
    ]
    for run in runs:
        run.submit("--exclude=node[2-4]")

    for run in runs:
        run.wait_for_end()
        assert run.events("finished")
        assert cluster.job(run.job_id)["NodeList"] == "node1"
    first, second = (
        (float(str(run.events("started")[0]["utc_seconds"])),
         float(str(run.events("finished")[0]["utc_seconds"])))
        for run in runs
    )  # fmt: skip
    assert first[0] < second[1], "they ran one after the other"
    assert second[0] < first[1], "they ran one after the other"
    assert runs[0].hashes(10) == runs[1].hashes(10)


def test_run_submitted_from_inside_a_job_is_its_own(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    run = Run(cluster, tmp_path, shard_set, "--gpus=1")
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
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    run = Run(cluster, tmp_path, shard_set, "--gpus=1")
    run.submit()
    run.reach(5)
    shutil.copytree(run.checkpoints, run.checkpoints.with_name("other"))
    (run.checkpoints.with_name("other") / "slurm.json").write_text("")
    running = run.launch("status")
    cluster.run("scancel", run.job_id)
    run.wait_for_end("CANCELLED")
    stopped = run.launch("status")
    run.submit()
    follower = subprocess.run(
        [sys.executable, str(REPO / "launch" / "logs.py"), "r", "-f"],
        cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=150, check=True,
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


def test_first_failing_ranks_traceback_is_what_the_person_sees(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    """Three crashes without progress: a rank that cannot write what it read."""
    run = Run(cluster, tmp_path, shard_set, "--gpus=1")
    for attempt in range(3):
        (run.folder / f"samples-{attempt:04d}-00001.jsonl").mkdir(parents=True)
    run.submit()

    run.wait_for_end("FAILED")

    assert len(run.events("started")) == 3
    assert run.cluster.job(run.job_id)["Restarts"] == "2"
    status = run.launch("status", "r").stdout
    assert "Run r: failed" in status
    assert "IsADirectoryError" in status
    outcome = json.loads((run.folder / "job" / "0000" / "failed.json").read_text())
    assert "IsADirectoryError" in outcome["traceback"]
    excluded = run.cluster.job(run.job_id)["ExcNodeList"]
    assert excluded == run.crashed_on()[0] == run.crashed_on()[1], "the node that failed twice"


def test_missing_data_is_not_tried_again(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    shards = shutil.copytree(shard_set, tmp_path / "s")
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

_train = train


def _answer(pipe):
    while pipe.recv() == "alive?":
        pipe.send("alive")


def train(config, code_version, stop):
    workers = []
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        mine, theirs = context.Pipe()
        worker = context.Process(target=_answer, args=(theirs,), daemon=True)
        worker.start()
        workers.append((mine, worker))
    result = _train(config, code_version, stop)
    for pipe, worker in workers:
        try:
            pipe.send("alive?")
            answer = pipe.recv() if pipe.poll(10) else "dead"
        except OSError:
            answer = "dead"
        with open("{notes}", "a") as notes:
            notes.write(answer + "\\n")
        worker.kill()
    return result
"""


def test_warned_workers_outlive_the_warning(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path, undisturbed_pair: Run
) -> None:
    """Processes as a DataLoader has them, forked and spawned, get every signal of the step."""
    project = tmp_path / "project"
    for package in ("launch", "jobs", "instruct_core"):
        shutil.copytree(REPO / package, project / package)
    with (project / "jobs" / "attempt.py").open("a") as file:
        file.write(WORKERS.format(notes=tmp_path / "workers"))
    run = Run(cluster, tmp_path, shard_set, "--gpus=1", code=project)
    run.submit()
    run.reach(7)

    cluster.run("scancel", "--signal=USR2", run.job_id)

    run.wait_for_start(2)
    run.wait_for_end()
    notes = (tmp_path / "workers").read_text().split()
    assert notes == ["alive"] * 8, "both kinds of worker of both ranks, in both attempts"
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


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
        (["--gpus=3"], "--tokens-per-step must be a multiple of ranks x --micro-batch-size"),
        (["--after=next"], "--after must be job ids separated by commas, got next"),
        (["--after=99999"], "--after 99999: Slurm knows no such job"),
        (["--constraint=fast"], "Partition low has no node left with constraint fast"),
        (["--exclude=node[1-4]"], "Partition low has no node left with --exclude node[1-4]"),
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


def test_cluster_without_gpus_runs_ranks_on_cores(
    other_cluster: Cluster, tmp_path: Path, shard_set: Path
) -> None:
    run = Run(other_cluster(num_nodes=2, gpus=0), tmp_path / "run", shard_set, "--max-steps=5")

    refused = run.launch("finetune", *run.arguments, "--mem=0.5")
    said = run.submit("--mem=3")

    assert "are free on a node of partition low. Use more --mem" in refused.stderr
    assert "partition low has no GPUs, so 4 CPU ranks run (gloo)" in said
    run.wait_for_end()
    assert run.events("finished")


def test_real_accounting_is_no_obstacle(
    other_cluster: Cluster, tmp_path: Path, shard_set: Path, undisturbed_pair: Run
) -> None:
    for name in ("mariadbd", "slurmdbd"):
        if shutil.which(name) is None:
            pytest.skip(
                f"needs {name}: apt-get install slurmdbd slurm-wlm-mysql-plugin mariadb-server"
            )
    cluster = other_cluster(num_nodes=2, accounting="dbd")
    run = Run(cluster, tmp_path / "run", shard_set, "--gpus=1")
    run.submit()
    run.reach(7)

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


def test_launcher_that_dies_after_submitting_leaves_a_run_that_goes_on(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    """Nothing depends on the shell: it is killed as soon as the job has an id."""
    desk = Run(cluster, tmp_path, shard_set, "--gpus=1")
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
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    job_ids = desk.cluster.run("squeue", "-h", "-n", "instruct-gpt2-builtin", "-o", "%i").split()
    desk.cluster.run("scancel", *job_ids)

    assert len(job_ids) == 1
    # A quick array is done before the second command asks; the wait itself has a test of its own.
    assert "still being made" in said[1] or "3,561 rows" in said[1]
    assert "gpt2-builtin" in said[2]
