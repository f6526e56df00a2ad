"""Arrays of tasks in Slurm's queue: shards, answers, tasks that are killed and come back alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import torch

from instruct_core.config import PRESETS
from instruct_core.model.gpt2 import GPT2
from tests.conftest import wait_for, write_rows
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import ONE_RANK, Cluster, Run


def files_of(shards: Path) -> dict[str, bytes]:
    assert (shards / "manifest.json").exists()  # it names the source, and so differs
    paths = [*shards.glob("train/*"), *shards.glob("val/*")]
    return {str(path.relative_to(shards)): path.read_bytes() for path in paths}


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
        if is_python and of_task and b"jobs.survival.rank" in command:
            found.append(int(entry.name))
    return found


def test_array_makes_the_same_shards_as_one_task_and_a_rerun_only_what_is_missing(
    desk: Run, rows_file: Path, shard_set: Path
) -> None:
    shutil.copy(rows_file, desk.cwd / "rows.jsonl")
    flags = ["--source=rows.jsonl", "--out=s", "--num-tasks=3"]  # as a person types it
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
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    """1,002 tasks where 1,001 are the most; they wait, because starting them takes minutes."""
    desk = Run(other_cluster(num_nodes=1), tmp_path / "desk", light_shards)
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
    for task, requeues in ((0, "0"), (1, "1")):  # the killed one goes on where it was
        record = f"{job_id}_{task}"
        wait_for(lambda r=record: desk.cluster.job(r)["JobState"] == "COMPLETED", "the task's end")
        assert desk.cluster.job(record)["Restarts"] == requeues


def test_training_waits_for_the_follow_up_of_a_task_that_may_not_be_requeued(
    desk: Run, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60_000, words=40)
    run = desk.cluster.run
    held = run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true").strip()
    words = [f"--source={rows}", "--out=s", "--num-tasks=2", "--val-rows=20", f"--after={held}"]
    # So little time is left after a warning that the task does not begin anew where it is.
    done = desk.launch("preprocess", *words, "--time=5", "--lead=170")
    assert done.returncode == 0, done.stderr
    ids = desk.cwd / "s" / "job" / "0000" / "job_ids"
    [array] = ids.read_text().split()
    desk.submit("--shards=s", "--max-steps=5", *ONE_RANK)
    run("scontrol", "update", f"JobId={array}", "Requeue=0")
    run("scontrol", "release", held)
    wait_for(lambda: len(list((desk.cwd / "s" / "train").glob("*"))) > 2, "some shards")

    desk.cluster.run("scancel", "--signal=USR2", f"{array}_1")

    wait_for(lambda: len(ids.read_text().split()) == 2, "the follow-up")
    ended = wait_for(
        lambda: (
            (state := desk.cluster.job(f"{array}_1")["JobState"]) in ("COMPLETED", "FAILED")
            and state
        ),
        "the task's end",
    )
    assert ended == "COMPLETED"
    assert ids.read_text().split()[1] in desk.cluster.job(desk.job_id)["Dependency"]
    desk.wait_for_end()
    assert (desk.cwd / "s" / "manifest.json").exists()
    assert desk.events("finished")


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
        "--checkpoint=tiny.pt", "--source=q.jsonl", "--rows-per-part=10", "--max-new-tokens=40",
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
