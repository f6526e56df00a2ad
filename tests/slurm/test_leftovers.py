"""A test session that is killed leaves no cluster behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO, wait_for
from tests.slurm.configuration import has_cgroups
from tests.slurm.leftovers import cgroups_of, processes_of

BOOTS = """
import os, signal, sys
from pathlib import Path
from tests.conftest import wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.configuration import ClusterSettings

has_cgroups = sys.argv[3] == "True"
settings = ClusterSettings(num_nodes=1, network=sys.argv[2], cgroups=has_cgroups)
cluster = SlurmCluster(Path(sys.argv[1]), settings)
cluster.__enter__()
job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 1000").strip()
wait_for(lambda: cluster.job(job)["JobState"] == "RUNNING", "the job")
print(*cluster._networks, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("network", "cgroups"), [("loop", has_cgroups()), ("netns", False)])
def test_cluster_of_a_session_that_is_killed_goes_with_it(
    tmp_path: Path, network: str, cgroups: bool
) -> None:
    folder = tmp_path / "c"

    done = subprocess.run(
        [sys.executable, "-c", BOOTS, str(folder), network, str(cgroups)],
        cwd=REPO, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not folder.exists(), "the end of its files")
    assert processes_of(folder) == []
    assert not any(own.exists() for own in cgroups_of(folder))
    there = subprocess.check_output(["ip", "netns", "list"], text=True).split()
    assert not set(done.stdout.split()) & set(there)
