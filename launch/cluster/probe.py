"""
A job that looks at nodes: one process on each, which is never started again.

    job_id = submit_probe(folder, resources, [sys.executable, "-m", "jobs.checkup", ...])

It is a script of its own: a run's has all that brings it back, and here a node that fails is the answer.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from instruct_core.errors import ConfigError, SlurmError
from jobs.queueing import submit_script
from launch.cluster.frozen_code import CODE, freeze_code
from launch.cluster.script import Resources, with_options

LOG = "log.out"


def submit_probe(folder: Path, resources: Resources, words: Sequence[str]) -> str:
    """
    Queue one process a node, whose words are followed by its rank, their number and its node.

    Args:
        folder: Of the job; it is there.
        resources: What it asks for.
        words: The command.

    Raises:
        ConfigError: Slurm refuses it.
    """
    freeze_code(folder)
    script = folder / "job.sh"
    script.write_text(probe_script(folder, resources, words), encoding="utf-8")
    try:
        return submit_script(script)
    except SlurmError as error:
        raise ConfigError(f"Slurm refuses a job on {resources.nodes} nodes: {error}.") from None


def probe_script(folder: Path, resources: Resources, words: Sequence[str]) -> str:
    """Return the batch script."""
    asked = {
        "job-name": resources.name,
        "time": resources.minutes,
        "partition": resources.partition,
        "nodes": resources.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": resources.cpus_per_task,
        "gpus-per-node": resources.gpus,
        "mem": f"{resources.mem_mb}MB" if resources.mem_mb else None,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "clusters": resources.clusters,
        "output": folder / LOG,
        "chdir": folder,
    }
    options = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None]
    return with_options(
        "\n".join(["#!/bin/bash", *options, "#SBATCH --no-requeue"]), resources.sbatch
    ) + "\n".join(
        [
            *resources.setup,
            f"export PYTHONPATH={shlex.quote(str(folder / CODE))} PYTHONSAFEPATH=1",
            _srun_line(folder, resources, words),
            "",
        ]
    )


def _srun_line(folder: Path, resources: Resources, words: Sequence[str]) -> str:
    python, container = shlex.quote(words[0]), resources.container
    program = container.command(words[0], folder) if container is not None else python
    command = (
        f'exec {program} {shlex.join(words[1:])} "$SLURM_PROCID" "$SLURM_NTASKS" "$SLURMD_NODENAME"'
    )
    more = container.srun(folder) if container is not None else ()
    # A node that cannot start it must not end it on the others.
    return shlex.join(["srun", "--kill-on-bad-exit=0", *more, "bash", "-c", command])
