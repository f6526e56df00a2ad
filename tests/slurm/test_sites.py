"""A site with ways of its own: its plugin refuses, its sbatch talks, its ranks need an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster, Run

PLUGIN = """
function slurm_job_submit(job, partitions, user)
   if job.requeue == 1 then
      slurm.log_user("Jobs here do not ask to come back")
      return slurm.ERROR
   end
   if job.pn_min_memory ~= nil and job.pn_min_memory < 2^40 then
      slurm.log_user("Memory is for us to share out")
      return slurm.ERROR
   end
   return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, user)
   return slurm.SUCCESS
end
"""
TALKS = """#!/bin/sh
printf '%s\\n' '-----' '  Welcome to the machine, project 12' '-----'
exec {real} "$@"
"""
# As apptainer takes it: options, an image, a command; what the image would not see is not there.
APPTAINER = """#!/bin/sh
[ "$1" = exec ] || exit 2
shift
while [ "${1#-}" != "$1" ]; do
  case "$1" in --nv) shift;; --pwd) cd "$2"; shift 2;; --bind) seen="$seen $2"; shift 2;; esac
done
image=$1
shift
export INSIDE="$image:$seen"
exec "$@"
"""


@pytest.fixture
def site(other_cluster: Cluster, tmp_path: Path, light_shards: Path) -> Run:
    """A run on a cluster whose plugin refuses what ours ask for, and whose sbatch talks."""
    cluster = other_cluster(num_nodes=2, submit_plugin=PLUGIN)
    sbatch = cluster.folder / "bin" / "sbatch"
    real = sbatch.rename(sbatch.with_name("sbatch-itself"))
    sbatch.write_text(TALKS.format(real=real))
    sbatch.chmod(0o755)
    return Run(cluster, tmp_path, light_shards, "--gpus=1", "--setup=export GREETING=hello")


def test_run_is_refused_with_what_to_type_and_survives_with_it(site: Run) -> None:
    apptainer = site.cluster.folder / "bin" / "apptainer"
    apptainer.write_text(APPTAINER)
    apptainer.chmod(0o755)
    image = site.cwd / "torch.sif"
    image.touch()

    refused = site.launch("finetune", *site.arguments)
    words = refused.stderr.partition("Type: ")[2].split()
    site.submit(*words, f"--container={image}", "--sbatch=comment=mine")
    with site.held_at(5):
        first = Path(f"/proc/{site.pids()[0]}/environ").read_bytes().decode().split("\0")
        site.cluster.run("scancel", "--signal=USR2", site.job_id)
    site.wait_for_start(2)
    with site.held():
        second = Path(f"/proc/{site.pids()[0]}/environ").read_bytes().decode().split("\0")
    site.wait_for_end()

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert words == ["--sbatch", "requeue=", "--sbatch", "mem="]
    for environment in (first, second):
        assert "GREETING=hello" in environment
        [inside] = [word for word in environment if word.startswith("INSIDE=")]
        assert inside.startswith(f"INSIDE={image}:")
        assert str(site.cwd / "checkpoints_instruct") in inside
    assert "Comment=mine" in site.cluster.run("scontrol", "-o", "show", "job", site.job_id)
    assert site.events("finished"), site.log()[-3000:]


def test_nodes_without_ipv4_train_together(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path
) -> None:
    cluster = other_cluster(num_nodes=2, network="netns", ip=6)
    run = Run(cluster, tmp_path, light_shards, "--gpus=1", "--max-steps=3")

    run.submit()
    run.wait_for_end()

    [meeting] = run.folder.glob("job/*/rendezvous/*.json")
    assert '"address": "fd00:' in meeting.read_text()
