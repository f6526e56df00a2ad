"""What the reports of nodes mean, and the same asked of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.checkup import Alone, Together
from launch.checkup.nodes import check_this_machine, judge

NODES = ["node1", "node2", "node3"]
ALONE = [Alone(node, "") for node in NODES]
TOGETHER = [
    Together(node, won=node == "node2", late_seconds=0.1, clock=1000.0, reduce_seconds=0.01)
    for node in NODES
]


def test_nodes_that_see_each_other_are_well() -> None:
    findings = judge(NODES, ALONE, TOGETHER)

    assert {finding.state for finding in findings} == {"ok"}
    assert [finding.name for finding in findings] == [
        "nodes",
        "shared files",
        "clocks",
        "all-reduce",
    ]
    assert findings[-1].found == "17 MB in 10 ms, 2.2 GB/s"


def other(**facts: object) -> list[Together]:
    """Return the reports, that of node2 another one."""
    return [TOGETHER[0], replace(TOGETHER[1], **facts), TOGETHER[2]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("alone", "together", "name", "fix"),
    [
        (ALONE[::2], TOGETHER, "nodes", "--exclude node2"),
        ([*ALONE[::2], Alone("node2", "Permission denied")], TOGETHER, "nodes", "--exclude node2"),
        (ALONE, other(unseen=["the file of node1"]), "shared files", "--exclude node2"),
        (ALONE, other(problem="RuntimeError: no CUDA"), "all-reduce", "--exclude node2"),
        (ALONE, TOGETHER[::2], "all-reduce", "--exclude node2"),
        (ALONE, other(clock=1100.0), "clocks", "--exclude node2"),
    ],
)
def test_node_that_is_no_good_is_named(
    alone: list[Alone], together: list[Together], name: str, fix: str
) -> None:
    findings = judge(NODES, alone, together)

    [red] = [finding for finding in findings if finding.state == "would fail"]
    assert (red.name, red.fix) == (name, fix)
    assert "node2" in red.found


def test_two_that_each_made_the_one_file_are_no_nodes_fault() -> None:
    findings = judge(NODES, ALONE, [replace(report, won=True) for report in TOGETHER])

    [red] = [finding for finding in findings if finding.state == "would fail"]
    assert (red.name, red.fix) == ("shared files", "Give --checkpoints another place")


def test_job_that_begins_nowhere_tells_its_last_word() -> None:
    [red] = judge(NODES, [], [], log="slurmstepd: error: execve(): python: No such file")

    assert red.state == "would fail"
    assert "execve(): python: No such file" in red.found
    assert "--exclude node1" in red.fix


def test_clocks_a_little_apart_are_noted() -> None:
    findings = judge(NODES, ALONE, other(clock=1005.0))

    assert [(f.name, f.state) for f in findings if f.state != "ok"] == [("clocks", "note")]


def test_this_machine_is_looked_at_by_two_processes_that_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    findings = check_this_machine("a/checkpoints")

    assert {finding.state for finding in findings} == {"ok"}, findings
    assert findings[-1].name == "all-reduce"
    assert "GB/s" in findings[-1].found
    assert list(tmp_path.iterdir()) == []


def test_place_that_this_machine_cannot_use_is_told_by_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")

    [red] = check_this_machine("file/checkpoints")

    assert (red.name, red.state) == ("nodes", "would fail")
    assert "cannot use the checkpoints" in red.found
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
