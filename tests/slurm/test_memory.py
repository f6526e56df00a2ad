"""A cluster that holds jobs to their memory, by cgroups: a rank that needs more is told as that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.configuration import has_cgroups
from tests.slurm.conftest import Cluster, Run
from tests.slurm.leftovers import cgroups_of

needs_cgroup_v1 = pytest.mark.skipif(
    not has_cgroups(), reason="needs cgroup v1 at /sys/fs/cgroup; newer Slurms are not tried yet"
)


@needs_cgroup_v1
def test_rank_that_runs_out_of_memory_is_told_as_that(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    cluster = other_cluster(num_nodes=1, gpus=0, cgroups=True)
    # Past the launcher, which would refuse that little; with what a rank just needs it would read its
    # libraries again and again, for minutes.
    words = ("--nodes=1", "--gpus=1", "--mem=3", "--sbatch=mem=100M")
    run = Run(cluster, tmp_path, light_shards, *words)
    run.submit()

    run.wait_for_end("FAILED")

    assert run.cluster.job(run.job_id)["Restarts"] == "0"
    note = run.launch("status", "r").stdout
    assert "was killed: the job's 0.1 GB of memory on a node are used up. Raise --mem." in note
    # Another cluster has a node1 and a job 2 too: their memory would be counted together.
    assert all((own / "slurm_node1").is_dir() for own in cgroups_of(cluster.folder))
