"""
A training run on its way into Slurm's queue: what it asks for, checked, shown, submitted.

    queued = QueuedRun(flags, "my-run")
    config = resolve(..., queued.machine)
    queued.check(config, folder)
    job = queued.submit(FinetuneJob(config, version), folder, ledger)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from instruct_core.config import TrainConfig
from instruct_core.storage.store import Store
from jobs.finetune import FinetuneJob
from jobs.ledger import read_ledger
from jobs.survival.deadline import needed_seconds
from launch.cluster.machine import Machine
from launch.cluster.partition import cluster_limits
from launch.cluster.request import request_of, resources_of
from launch.cluster.script import Resources, batch_script
from launch.cluster.slurm import SlurmJob, running_array, submit_slurm, test_submission
from launch.console.lines import say
from launch.flags.finetune import Finetune
from launch.runs.places import absolute


class QueuedRun:
    """
    What a run asks of Slurm.

    Args:
        flags: What the person typed.
        run: The run's name.

    Raises:
        ConfigError: The cluster has no such partition, or its nodes are too small.
        SlurmError: Slurm does not answer.
    """

    def __init__(self, flags: Finetune, run: str) -> None:
        self._flags, self._run = flags, run
        self._request = request_of(flags.slurm, flags.nodes, flags.gpus)
        for note in self._request.notes:
            say(note)

    @property
    def machine(self) -> Machine:
        """What one node gives the run."""
        request = self._request
        return Machine(
            request.gpus_per_node,
            request.cpus_per_task * self._flags.gpus,
            request.mem_mb * 2**20,
            f"a node of partition {request.partition}",
            "more --mem, fewer --gpus or a smaller --model",
        )

    def check(self, config: TrainConfig, folder: Path) -> None:
        """Have Slurm judge the job, and say what a person should know beforehand."""
        start = test_submission(folder, self._resources(config))
        if start:
            say(f"Expected start: {start}")
        if not cluster_limits().requeue_by_default:
            say(
                "Requeue: this cluster does not requeue jobs by itself (JobRequeue=0), so the job asks "
                "for it (--requeue); should Slurm refuse, a follow-up job is chained "
                "(--dependency=singleton)"
            )

    def show(self, config: TrainConfig, folder: Path) -> None:
        """Print the batch script as it would be submitted."""
        say(f"\n{batch_script(folder / 'NEXT', self._resources(config))}")

    def submit(self, function: FinetuneJob, folder: Path, ledger: str) -> SlurmJob:
        """Queue the job; return it."""
        submit_slurm(function, folder, self._resources(function.config))
        return SlurmJob(folder, ledger)

    def _resources(self, config: TrainConfig) -> Resources:
        flags = self._flags
        saves = [
            event
            for event in read_ledger(Store(absolute(config.runs)) / self._run)
            if event["event"] == "saved"
        ]
        needed = 0.0
        if saves:
            needed = needed_seconds(saves[-1].get("step_seconds", 0.0), saves[-1]["seconds"])
        one = resources_of(f"instruct-{self._run}", flags.slurm, self._request, needed)
        making = running_array(Store(config.shards))
        after = (*one.after, *(making.job_ids if making is not None else ()))
        return replace(
            one,
            nodes=flags.nodes,
            tasks_per_node=flags.gpus,
            after=tuple(dict.fromkeys(after)),
        )
