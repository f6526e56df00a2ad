"""The doctor on a real cluster: all well, settings that break a promise, and a node that is no good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.slurm.conftest import Cluster, Run
from tests.slurm.processes import run_command


def checks_of(desk: Run, *arguments: str, code: int) -> list[dict[str, Any]]:
    done = desk.launch("doctor", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return list(json.loads(done.stdout)["checks"])


def red(checks: list[dict[str, Any]]) -> list[str]:
    return [check["name"] for check in checks if check["state"] == "would fail"]


def test_nodes_look_at_each_other_and_leave_nothing(desk: Run) -> None:
    before = sorted(desk.cwd.iterdir())

    checks = checks_of(desk, "--deep", code=0)

    found = {check["name"]: check["found"] for check in checks}
    assert found["nodes"] == "4 nodes: Python, code and checkpoints are there"
    assert "GB/s" in found["all-reduce"]
    assert sorted(desk.cwd.iterdir()) == before


def test_partition_that_takes_no_jobs_is_told_and_no_job_is_tried(desk: Run) -> None:
    checks = checks_of(desk, "--partition=closed", "--deep", code=1)

    assert red(checks) == ["partition"]
    assert checks[-1]["fix"] == "Fix partition first"


def test_node_without_the_shared_folder_is_named(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    cluster = other_cluster(num_nodes=3, gpus=0)
    desk = Run(cluster, tmp_path / "desk", light_shards)
    slurmd = (cluster.folder / "slurmd.node2.pid").read_text().strip()
    hide = ("mount", "-t", "tmpfs", "none", str(desk.cwd))
    run_command("nsenter", f"--target={slurmd}", "--mount", "--root", *hide)

    checks = checks_of(desk, "--deep", code=1)

    assert red(checks) == ["nodes"]
    assert (checks[-1]["name"], checks[-1]["fix"]) == ("nodes", "--exclude node2")
    assert list(desk.cwd.iterdir()) == []


def test_settings_that_break_a_promise_are_the_red_lines(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    cluster = other_cluster(num_nodes=1, kill_wait_seconds=1, max_array_size=1, requeue=0)

    checks = checks_of(Run(cluster, tmp_path / "desk", light_shards), code=1)

    assert red(checks) == ["kill wait", "arrays"]
    assert {check["name"]: check["state"] for check in checks}["requeue"] == "note"


UP = "State=UP PreemptMode=REQUEUE GraceTime=30 MaxNodes=UNLIMITED"
# Of a running cluster: what an administrator types, and the line of it that is another one then.
BREAKS = {
    "PartitionName=low State=INACTIVE": ("partition", "would fail"),
    "PartitionName=low PreemptMode=CANCEL GraceTime=0": ("preemption", "would fail"),
    "PartitionName=low MaxNodes=0": ("sbatch", "would fail"),
    "PartitionName=low GraceTime=0": ("grace time", "note"),
    "PartitionName=low State=DOWN": ("partition", "note"),
    "NodeName=ALL State=DRAIN Reason=trial": ("partition", "note"),
}


def test_each_setting_that_an_administrator_changes_is_the_one_line_that_changes(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    cluster = other_cluster(num_nodes=1, gpus=0)
    desk = Run(cluster, tmp_path / "desk", light_shards)
    cluster.run("scontrol", "update", "PartitionName=low", *UP.split())
    well = {check["name"]: check["state"] for check in checks_of(desk, code=0)}

    for breaks, (name, state) in BREAKS.items():
        cluster.run("scontrol", "update", *breaks.split())
        now = checks_of(desk, code=int(state == "would fail"))
        cluster.run("scontrol", "update", "PartitionName=low", *UP.split())

        changed = [check for check in now if check["state"] != well[check["name"]]]
        assert [(check["name"], check["state"]) for check in changed] == [(name, state)], breaks
        assert changed[0]["fix"]
