"""Flags that nobody has typed and a variable of the environment stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.checkup.scheduler import check_slurm
from launch.cluster.machine import choose_cluster
from launch.cluster.request import request_of, resources_of
from launch.cluster.slurm import test_submission as submission_tested
from launch.flags.slurm import SlurmFlags
from tests.launch.played_slurm import PlayedSlurm

NO_ACCOUNT = "echo 'sbatch: error: Invalid account or account/partition combination' >&2; exit 1"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARTITION", "ACCOUNT", "QOS", "CLUSTERS"):
        monkeypatch.delenv(f"SBATCH_{name}", raising=False)
    monkeypatch.setenv("SLURM_CLUSTERS", "")


def test_partition_of_the_environment_is_named_where_it_is_refused(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    said = r"--partition must be one of low, got gpu \(SBATCH_PARTITION=gpu is set\)\."

    with pytest.raises(ConfigError, match=said):
        request_of(SlurmFlags())
    assert "SBATCH_PARTITION=gpu is set" in check_slurm(SlurmFlags())[0][-1].found
    with pytest.raises(ConfigError) as typed:
        request_of(SlurmFlags(partition="other"))

    assert "SBATCH_PARTITION" not in str(typed.value)


def test_limits_of_a_partition_of_the_environment_are_its_own(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "low")

    with pytest.raises(ConfigError, match=r"--nodes must be at most 2 .*SBATCH_PARTITION=low is"):
        request_of(SlurmFlags(), nodes=3)

    assert "the cluster's default" not in request_of(SlurmFlags()).where


def test_slurms_refusal_names_what_nobody_has_typed(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.client("sbatch", NO_ACCOUNT)
    monkeypatch.setenv("SBATCH_ACCOUNT", "physics")
    monkeypatch.setenv("SBATCH_QOS", "high")
    flags = SlurmFlags(qos="low")

    with pytest.raises(ConfigError) as refused:
        submission_tested(Path("job"), resources_of("r", flags, request_of(flags)))

    assert "in partition low (SBATCH_ACCOUNT=physics): " in str(refused.value)


def test_variable_that_is_no_line_is_refused(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "a\nrm -r x")

    with pytest.raises(ConfigError, match="SBATCH_ACCOUNT must be one line that can be printed"):
        resources_of("r", SlurmFlags(), request_of(SlurmFlags()))


@pytest.mark.parametrize("variable", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
def test_cluster_of_the_environment_is_named_where_it_is_refused(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    slurm.client("sinfo", "echo \"error: No cluster 'moon' known\" >&2; exit 1")
    monkeypatch.setenv(variable, "moon")
    with pytest.raises(ConfigError, match=rf"does not answer \({variable}=moon\): "):
        choose_cluster("auto")
    os.environ["SLURM_CLUSTERS"] = ""  # as it was
    monkeypatch.setenv(variable, "moon,sun")
    with pytest.raises(ConfigError, match=f"{variable} names several clusters"):
        choose_cluster("auto")
