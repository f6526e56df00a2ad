"""What teammates ask of a run, who is told, and nodes that earlier runs have found at fault."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from jobs.bad_nodes import bad_nodes
from jobs.control import LOOK_SECONDS
from jobs.job_folder import replace_json
from tests.conftest import wait_for
from tests.jobs.test_notify import SECRET, Server, serving
from tests.slurm.conftest import Run, assert_ended_as_if_undisturbed


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_run_that_is_paused_gives_its_nodes_back_and_goes_on_when_it_is_resumed(
    pair: Run, undisturbed_pair: Run, server: Server
) -> None:
    address = pair.cwd / "address"
    address.write_text(server.url)
    address.chmod(0o600)
    pair.submit(f"--notify={address}")

    with pair.held_at(5):  # it must not end before it is asked, and looks as soon as it goes on
        held_at = time.monotonic()
        asked = pair.launch("control", "r", "pause")
        wait_for(lambda: time.monotonic() - held_at > LOOK_SECONDS, "its next look")
    pair.wait_for_end()
    shown = pair.launch("status").stdout
    resumed = pair.launch("control", "r", "resume")
    pair.wait_for_end()

    assert asked.stdout.startswith("Run r saves at its next step, and ends.\n")
    assert " paused " in shown
    assert "launch/control.py r resume" in shown
    assert resumed.returncode == 0, resumed.stderr
    assert len(pair.job_ids) == 2
    assert pair.events("resumed")[1]["step"] == pair.events("paused")[0]["step"]
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)
    told = [(letter["event"], letter["job_id"]) for letter in server.letters]
    assert told == [("resumed", pair.job_ids[1]), ("finished", pair.job_ids[1])]
    written = [path for path in pair.cwd.rglob("*") if path.is_file() and path != address]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_node_that_was_at_fault_in_other_runs_too_is_left_out_of_the_next(pair: Run) -> None:
    pair.submit()
    record, node = pair.cwd / "bad_nodes", "node2"
    cluster = pair.cluster.run("scontrol", "show", "config").partition("ClusterName")[2].split()[1]
    for job in (1, 2):
        fault = {
            "kind": "slow",
            "why": "rank 3 is slow",
            "run": "other",
            "utc_seconds": time.time(),
        }
        replace_json(record / cluster / node / f"{job:010d}-0000-slow.json", fault)

    with pair.held_at(7):
        os.kill(pair.pids()[1], signal.SIGKILL)
    pair.wait_for_start(2)
    pair.wait_for_end()

    [bad] = bad_nodes(record)
    assert pair.crashed_on() == [bad.node]
    assert (bad.cluster, bad.node, bad.num_faults, bad.runs) == (cluster, node, 3, ["other", "r"])
    arguments = [*pair.arguments, "--run=next", "--dry-run"]
    said = pair.launch("finetune", *arguments).stdout
    assert f"Without {node} until 20" in said
    assert f"#SBATCH --exclude={node}" in said
    assert f"Bad node {node} until 20" in pair.launch("status").stdout
    assert pair.launch("doctor", f"--trust={node}").stdout == f"Node {node}: 3 faults forgotten\n"
    assert "--exclude" not in pair.launch("finetune", *arguments).stdout
