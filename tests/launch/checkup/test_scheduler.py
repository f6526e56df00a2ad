"""A cluster with each setting broken in turn: one red line, the right one; the rest is noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.checkup import doctor, environment, scheduler, shared
from launch.checkup.finding import Finding
from launch.cluster.machine import NO_CLUSTER
from launch.flags.doctor import Doctor
from launch.flags.slurm import SlurmFlags
from tests.launch.checkup.conftest import failed, limits
from tests.launch.checkup.played_slurm import PlayedSlurm
from tests.launch.checkup.test_doctor import BROKEN


def look_at(slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch, flags: Doctor) -> list[Finding]:
    monkeypatch.setenv("PATH", f"{slurm.path()}:/usr/bin:/bin")
    monkeypatch.setattr(shared, "file_system", lambda *_: slurm.file_system)
    return doctor.look(flags).findings


def test_cluster_where_all_is_well_has_no_red_line(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = look_at(slurm, monkeypatch, Doctor())

    assert {finding.state for finding in findings} == {"ok"}, findings
    found = {finding.name: finding.found for finding in findings}
    assert found["partition"] == (
        "low: 4 nodes of up to 4 GPUs, MaxTime 1-00:00:00, MaxNodes UNLIMITED"
    )
    assert found["sbatch"].endswith("start at 2026-11-28T05:52:22")
    assert "120 s" in found["grace time"]


def set_config(**settings: str) -> Callable[[PlayedSlurm], None]:
    return lambda slurm: slurm.config.update(settings)


def set_partition(**facts: str) -> Callable[[PlayedSlurm], None]:
    return lambda slurm: slurm.partition.update(facts)


def set_client(name: str, script: str) -> Callable[[PlayedSlurm], None]:
    return lambda slurm: setattr(slurm, name, f"#!/bin/sh\n{script}")


REFUSES = "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1"
TOO_SMALL = "echo 'allocation failure: Requested node configuration is not available' >&2; exit 1"
AWAY = "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1"
DENIED = "echo 'slurm_load_ctl_conf error: Access/permission denied' >&2; exit 1"


def in_memory(slurm: PlayedSlurm) -> None:
    """Have other machines for nodes, and all folders here in this one's memory."""
    slurm.host = "elsewhere"
    slurm.file_system = "tmpfs"


RED_ON_SLURM = {
    "controller away": ("slurm", "Unable to contact", set_client("scontrol", AWAY)),
    "no rights": ("sbatch", "Invalid account", set_client("sbatch", REFUSES)),
    "partition inactive": ("partition", "INACTIVE", set_partition(State="INACTIVE")),
    "partition that is too small": ("sbatch", "node conf", set_client("sbatch", TOO_SMALL)),
    "no default partition": ("partition", "no default", set_partition(Default="NO")),
    "jobs lost at a preemption": (
        "preemption", "does not come back", set_partition(PreemptMode="CANCEL", GraceTime="4"),
    ),
    "no time before a kill": ("kill wait", "0 s", set_config(KillWait="0 sec")),
    "no arrays": ("arrays", "MaxArraySize is 1", set_config(MaxArraySize="1")),
    "no rights to ask": ("slurm", "denied", set_client("scontrol", DENIED)),
    "no node that is up": ("partition", "has no", lambda slurm: setattr(slurm, "inside", "gone")),
    "code in this machine's memory": ("shared disk", "only this machine has", in_memory),
}  # fmt: skip


@pytest.mark.parametrize("what", RED_ON_SLURM)
def test_what_is_broken_on_a_cluster_is_the_one_red_line(
    what: str,
    slurm: PlayedSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, found, breaks = RED_ON_SLURM[what]
    breaks(slurm)

    findings = look_at(slurm, monkeypatch, Doctor())

    [red] = failed(findings)
    assert red.name == name
    assert found in red.found
    assert red.fix
    assert doctor.doctor(Doctor()) == 1
    [line] = [li for li in capsys.readouterr().out.splitlines() if li.startswith("would fail ")]
    assert line.split()[2:][: len(name.split())] == name.split()
    assert red.fix in line


NOTED_ON_SLURM = {
    "job asks for its requeue": ("requeue", "JobRequeue=1", set_config(JobRequeue="0")),
    "TERM is the warning": (
        "warning", "preempt_send_user_signal", set_config(SlurmctldParameters="(null)"),
    ),
    "no grace time": ("grace time", "one that a step", set_partition(GraceTime="4")),
    "preempted jobs are cancelled": (
        "preemption", "PreemptMode=REQUEUE", set_partition(PreemptMode="CANCEL"),
    ),
    "all nodes down": ("partition", "sinfo -R", lambda slurm: setattr(slurm, "state", "IDLE+DRAIN")),
    "partition down": ("partition", "wait until it is up", set_partition(State="DOWN")),
    "too few files for all nodes": (
        "open files", "raise the hard limit", lambda slurm: setattr(slurm, "gres", "gpu:4000"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOTED_ON_SLURM)
def test_what_a_run_outlives_is_noted(
    what: str, slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fix, breaks = NOTED_ON_SLURM[what]
    breaks(slurm)

    findings = look_at(slurm, monkeypatch, Doctor())

    [noted] = [finding for finding in findings if finding.state != "ok"]
    assert (noted.name, noted.state) == (name, "note")
    assert fix in noted.fix
    assert doctor.doctor(Doctor()) == 0


def test_every_line_of_a_cluster_is_one_that_a_test_has_seen_change(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {finding.name for finding in look_at(slurm, monkeypatch, Doctor())}

    seen = {
        name for name, *_ in (*BROKEN.values(), *RED_ON_SLURM.values(), *NOTED_ON_SLURM.values())
    }
    assert lines - {"checkpoints", "job folder"} <= seen, "those two break in tests of their own"


def test_limit_of_open_files_counts_where_jobs_take_it_over(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "resource", limits(64, 100))

    [red] = failed(look_at(slurm, monkeypatch, Doctor()))

    fix = "Have an administrator raise the hard limit of 100 to 236"
    assert (red.name, red.fix) == ("open files", fix)


@pytest.mark.parametrize(
    "settings",
    [{"PropagateResourceLimits": "NONE"}, {"PropagateResourceLimitsExcept": "MEMLOCK,NOFILE"}],
)
def test_limit_of_open_files_is_the_nodes_where_jobs_do_not_take_it_over(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    monkeypatch.setattr(environment, "resource", limits(64, 100))
    slurm.config |= settings

    assert failed(look_at(slurm, monkeypatch, Doctor())) == []


def test_partition_that_is_asked_for_is_the_one_that_is_looked_at(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.partition["GraceTime"] = "0"

    findings = look_at(slurm, monkeypatch, Doctor(slurm=SlurmFlags(partition="high")))

    found = {finding.name: finding.found for finding in findings}
    assert found["partition"].startswith("high: ")
    assert found["preemption"] == "no job takes the nodes of another"
    assert "grace time" not in found


def test_partition_that_is_none_is_refused(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--partition must be one of low, high, got gone"):
        look_at(slurm, monkeypatch, Doctor(slurm=SlurmFlags(partition="gone")))


def test_partition_on_a_machine_without_slurm_is_one_red_line(desk: Path) -> None:
    [red] = failed(doctor.look(Doctor(slurm=SlurmFlags(partition="low"))).findings)

    assert (red.name, "no sbatch" in red.found) == ("slurm", True)


def test_controller_that_hangs_is_given_up_and_not_asked_again(
    slurm: PlayedSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.scontrol = f"#!/bin/sh\necho asked >> {tmp_path}/asked; exec sleep 60"
    monkeypatch.setattr(scheduler, "ANSWER_SECONDS", 0.5)

    [red] = failed(look_at(slurm, monkeypatch, Doctor()))

    assert (red.name, "did not answer within" in red.found) == ("slurm", True)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_clients_without_a_cluster_are_no_cluster(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"scontrol: fatal: {NO_CLUSTER}"
    slurm.scontrol = f"#!/bin/sh\necho '{said}' >&2; exit 1"

    findings = look_at(slurm, monkeypatch, Doctor())

    assert failed(findings) == []
    assert [finding.name for finding in findings if finding.state == "note"] == ["slurm"]


def test_partition_that_takes_no_jobs_is_not_named_as_the_one_to_give(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.partition["State"] = "INACTIVE"

    flags = Doctor(slurm=SlurmFlags(partition="low"))
    [red] = failed(look_at(slurm, monkeypatch, flags))

    assert red.fix == "Give one of high with --partition"


def test_fault_of_a_partition_is_not_laid_to_an_account(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.sbatch = TOO_SMALL

    [red] = failed(look_at(slurm, monkeypatch, Doctor()))

    assert (red.name, red.fix) == ("sbatch", "See what it allows: scontrol show partition low")
