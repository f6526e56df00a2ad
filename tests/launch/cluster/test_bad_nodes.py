"""Nodes that were at fault again and again are left out by launchers, shown, and forgiven by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from launch.cluster.bad_nodes import record
from launch.cluster.request import request_of, resources_of
from launch.cluster.script import batch_script
from launch.flags.slurm import SlurmFlags
from tests.conftest import launch
from tests.launch.played_slurm import PlayedSlurm

HOSTILE = "<b>\x1b[2Jbold[/red]\nnext"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record, in which node1 is bad."""
    folder = tmp_path / "bad"
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(folder))
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    for number in range(3):
        blame(folder, "node1", number)
    return folder


def blame(
    folder: Path, node: str, number: int, why: str = "Killed.", cluster: str = "cluster"
) -> None:
    place = folder / cluster / node
    place.mkdir(parents=True, exist_ok=True)
    document = {"kind": "failed", "why": why, "run": f"run-{number}", "utc_seconds": time.time()}
    (place / f"{number:010d}-0000-failed.json").write_text(json.dumps(document))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedSlurm:
    return PlayedSlurm(tmp_path / "slurm", monkeypatch)


@pytest.mark.usefixtures("folder", "slurm")
def test_job_does_without_a_bad_node_and_says_until_when_and_how_to_have_it_back(
    tmp_path: Path,
) -> None:
    request = request_of(SlurmFlags())

    resources = resources_of("x", SlurmFlags(exclude="node9"), request)
    assert "#SBATCH --exclude=node9,node1" in batch_script(tmp_path, resources).splitlines()
    [note] = request.notes
    assert note.startswith("Without node1 until 20")
    assert "at fault 3 times in a week in run-0, run-1, run-2, the last time: Killed." in note
    assert note.endswith("Have it back: python launch/doctor.py --trust node1")


@pytest.mark.usefixtures("folder", "slurm")
def test_bad_node_is_used_where_too_few_others_are_up() -> None:
    request = request_of(SlurmFlags(), nodes=2)

    assert request.left_out == ()
    assert "It is used all the same: too few others are up" in request.notes[0]


@pytest.mark.usefixtures("folder")
def test_node_that_is_down_is_no_other(slurm: PlayedSlurm) -> None:
    lines = ["NodeName=node1 CPUTot=4 RealMemory=64000 Partitions=low State=IDLE",
             "NodeName=node2 CPUTot=4 RealMemory=64000 Partitions=low State=DOWN*+DRAIN"]  # fmt: skip
    script = (slurm.folder / "scontrol").read_text()
    (slurm.folder / "nodes").write_text("\n".join(lines) + "\n")
    slurm.client(
        "scontrol", script.replace("*'show node'*) printf", "*'show node'*) cat nodes; true")
    )

    assert request_of(SlurmFlags()).left_out == ()


@pytest.mark.parametrize("words", [("nodelist=node1",), ("exclude=",)])
@pytest.mark.usefixtures("folder", "slurm")
def test_person_who_names_the_nodes_is_asked_nothing(words: tuple[str, ...]) -> None:
    request = request_of(SlurmFlags(sbatch=words))

    assert (request.left_out, request.notes) == ((), ())


@pytest.mark.usefixtures("slurm")
def test_node_of_the_same_name_in_another_cluster_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(tmp_path / "bad"))
    for number in range(3):
        blame(tmp_path / "bad", "node1", number, cluster="other")

    assert request_of(SlurmFlags()).left_out == ()


@pytest.mark.usefixtures("slurm", "folder")
def test_status_and_doctor_show_it_and_trust_takes_it_off(tmp_path: Path, folder: Path) -> None:
    blame(folder, "node1", 3, HOSTILE)

    shown = launch("status", cwd=tmp_path)
    document = json.loads(launch("status", "--json", cwd=tmp_path).stdout)
    checks = json.loads(launch("doctor", "--json", cwd=tmp_path).stdout)["checks"]
    trusted = launch("doctor", "--trust", "node1", cwd=tmp_path)
    again = launch("doctor", "--trust=node1", cwd=tmp_path)

    [line] = [line for line in shown.stdout.splitlines() if line.startswith("Bad node node1")]
    assert "\\u001b[2Jbold[/red] ↵ next" in line
    assert line.endswith("launch/doctor.py --trust node1")
    assert [(bad["node"], bad["num_faults"]) for bad in document["bad_nodes"]] == [("node1", 4)]
    [bad] = [check for check in checks if check["name"] == "bad nodes"]
    assert bad["state"] == "note"
    assert bad["fix"].endswith("launch/doctor.py --trust node1")
    assert (trusted.returncode, trusted.stdout) == (0, "Node node1: 4 faults forgotten\n")
    assert again.returncode == 2
    assert again.stderr.startswith("error: --trust node1 has nothing to forget")
    assert again.stderr.count("\n") == 1
    assert not list(folder.glob("*/*"))


@pytest.mark.parametrize("typed", ["", "../..", "node1,,node2", "*", "nóde"])
@pytest.mark.usefixtures("folder")
def test_wrong_names_are_refused_and_nothing_is_forgotten(
    tmp_path: Path, folder: Path, typed: str
) -> None:
    said = launch("doctor", f"--trust={typed}", cwd=tmp_path)

    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert "Known are node1." in said.stderr
    assert len(list(folder.glob("*/node1/*"))) == 3


def test_record_is_a_persons_own_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSTRUCT_BAD_NODES", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = record()
    monkeypatch.setenv("INSTRUCT_BAD_NODES", "")

    assert own == tmp_path / "instruct-cluster" / "bad-nodes"
    assert record() is None
