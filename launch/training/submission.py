"""
Where a run is sent: into Slurm's queue, or to this machine. Both are asked the same questions.

    submission = choose_submission(flags, run)
    config = settle(..., submission.machine)
    notes = submission.check(config)
    submitted = submission.submit(FinetuneJob(config, version), folder, lock)
    exit_code = submitted.follow()
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from instruct_core.config import TrainConfig
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from jobs.finetune import FinetuneJob
from jobs.ledger import newest_timed_save
from jobs.queueing import settle
from jobs.survival.deadline import needed_seconds
from launch.cluster.in_process import only_task_of
from launch.cluster.local import LocalJob, submit_local
from launch.cluster.lock import RunLock
from launch.cluster.machine import (
    CLUSTERS,
    Machine,
    check_nodes_here,
    choose_cluster,
    this_machine,
)
from launch.cluster.partition import cluster_limits
from launch.cluster.request import request_of, resources_of
from launch.cluster.script import Resources, batch_script, notes_on
from launch.cluster.slurm import SlurmJob, running_array, submit_slurm, test_submission
from launch.console.ctrl_c import EXIT_INTERRUPTED
from launch.console.display import zone
from launch.console.lines import counted, ctrl_c_waits, say
from launch.flags.finetune import Finetune
from launch.flags.site import Site
from launch.flags.slurm import without_slurm
from launch.runs.commands import run_command
from launch.runs.follower import watch, watch_slurm
from launch.runs.run import Run


class Submitted(NamedTuple):
    """A job on its way."""

    job: LocalJob | SlurmJob
    next_step: str  # what can be typed now
    follow: Callable[[], int]  # shows how it goes if that was asked for; returns the exit code
    unwatched: str = ""  # what can be typed instead where the command that started it returns


class Submission(Protocol):
    """What a launch asks of the place where its job will run."""

    where: str  # in words
    machine: Machine  # what one node gives the run
    minutes: int | None  # of one start; None where nothing limits it
    can_wait: bool  # for shards that are still being made

    def check(self, config: TrainConfig) -> list[str]:
        """Have the job judged, and return what a person should know beforehand."""

    def script(self, config: TrainConfig) -> str:
        """Return the batch script as it would be submitted; "" where there is none."""

    def submit(self, function: FinetuneJob, folder: Path, lock: RunLock) -> Submitted:
        """Start or queue the job, note it beside the run, and let go of the lock."""


def choose_submission(flags: Finetune, run: Run) -> Submission:
    """
    Return where a run's job goes.

    Raises:
        ConfigError: It cannot go where it was sent, or does not fit there.
        SlurmError: Slurm does not answer.
    """
    cluster, why = choose_cluster(flags.cluster, flags.slurm.clusters)
    if cluster == "debug":
        return InThisProcess(flags, run)
    return OnSlurm(flags, run) if cluster == "slurm" else OnThisMachine(flags, run, why)


class OnSlurm:
    """
    A run in Slurm's queue.

    Args:
        flags: What the person typed.
        run: That is sent.

    Raises:
        ConfigError: The cluster has no such partition, or its nodes are too small.
        SlurmError: Slurm does not answer.
    """

    can_wait = True

    def __init__(self, flags: Finetune, run: Run) -> None:
        self._flags, self._run = flags, run
        self._request = request = request_of(
            flags.slurm, flags.nodes + flags.spare_nodes, flags.gpus
        )
        self.minutes: int | None = request.minutes
        spare = f", {counted(flags.spare_nodes, 'node')} to spare" if flags.spare_nodes else ""
        self.where = f"Slurm, {request.where}{spare}"
        self.machine = Machine(
            request.gpus_per_node,
            request.cpus_per_task * flags.gpus,
            request.mem_mb * 2**20 if request.mem_mb else None,
            f"a node of partition {request.partition}",
            "more --mem or fewer --gpus",
            gpu_bytes=request.gpu_bytes,
            has_bf16=request.has_bf16,
        )

    def check(self, config: TrainConfig) -> list[str]:
        """Have Slurm judge the job, and return what a person should know beforehand."""
        resources = self._resources(config)
        notes = [*self._request.notes, *notes_on(resources)]
        if line := Site.found().line("finetune"):
            notes.insert(0, f"Site    {line}")
        start = test_submission(self._run.job_parent, resources)
        if start and not resources.after:  # nobody knows when what it waits for ends
            notes.append(f"Expected start: {start} {zone()}")
        if not cluster_limits().requeue_by_default:
            notes.append(
                "Requeue: this cluster does not requeue jobs by itself (JobRequeue=0), so the job asks "
                "for it (--requeue); should Slurm refuse, a follow-up job is chained "
                "(--dependency=afterany)"
            )
        return notes

    def script(self, config: TrainConfig) -> str:
        """Return the batch script as it would be submitted."""
        return batch_script(self._run.job_parent / "NEXT", self._resources(config))

    def submit(self, function: FinetuneJob, folder: Path, lock: RunLock) -> Submitted:
        """Queue the job and note it beside the run; its note keeps other launchers off from then on."""
        run = self._run
        submit_slurm(function, folder, self._resources(function.config))
        job = SlurmJob(folder, run.ledger.url, cluster=os.environ.get(CLUSTERS, ""))
        try:
            job.write_note(run.slurm_note)
        except OSError:
            job.cancel()
            raise
        settle(folder)
        lock.close()
        next_step = (
            f"{run_command(run.store, 'logs', '-f')}; save and end it: {job.cancel_command}; go on "
            "later: the same command again"
        )
        follow = self._flags.follow
        return Submitted(job, next_step, lambda: watch_slurm(job, run) if follow else 0)

    def _resources(self, config: TrainConfig) -> Resources:
        flags = self._flags
        save = newest_timed_save(self._run.ledger)
        needed = 0.0
        if save is not None:
            needed = needed_seconds(save.step_seconds or 0.0, save.seconds or 0.0)
        places = (
            config.checkpoints,
            config.runs,
            config.shards,
            config.init.removeprefix("random"),
        )
        name = f"instruct-{self._run.name}"
        one = resources_of(name, flags.slurm, self._request, needed, places)
        making = running_array(Store(config.shards))
        after = (*one.after, *(making.job_ids if making is not None else ()))
        return replace(
            one,
            nodes=flags.nodes,
            spare_nodes=flags.spare_nodes,
            tasks_per_node=flags.gpus,
            after=tuple(dict.fromkeys(after)),
        )


class OnThisMachine:
    """
    A run on this machine.

    Args:
        flags: What the person typed.
        run: That is sent.
        why: Why here, if that was not typed.

    Raises:
        ConfigError: More machines than this one were asked for.
    """

    can_wait = False

    def __init__(self, flags: Finetune, run: Run, why: str) -> None:
        check_nodes_here(flags.nodes)
        if flags.spare_nodes:
            raise ConfigError(
                f"--spare-nodes needs Slurm, got {flags.spare_nodes} on this machine. Leave it out."
            )
        self._run, self._num_tasks, self._flags = run, flags.gpus, flags.slurm
        self.where = f"this machine ({why})" if why else "this machine"
        self.machine = this_machine()
        self.minutes: int | None = None

    def check(self, config: TrainConfig) -> list[str]:  # noqa: ARG002  asked as Slurm is
        """Return what a person should know beforehand: nobody has to judge the job."""
        return without_slurm(self._flags)

    def script(self, config: TrainConfig) -> str:  # noqa: ARG002
        """Return "": there is no batch script."""
        return ""

    def submit(self, function: FinetuneJob, folder: Path, lock: RunLock) -> Submitted:
        """Start the job, which holds the lock as long as it lives."""
        run, num_tasks = self._run, self._num_tasks
        run.forget_slurm()
        # Half started, it would hold the lock, and nobody could tell whose that is.
        with ctrl_c_waits() as came:
            imports = function.imports(num_tasks)
            job = submit_local(function, folder, num_tasks, lock, imports=imports)
            job.ledger = run.ledger.url
            lock.name_job(job.pid, folder, job.ledger)
            lock.close()  # the job has inherited it
            if came:
                job.warn(signal.SIGTERM)
                say(f"Stopping run {run.name}, just begun. Give the same command again to go on.")
        next_step = f"Ctrl-C saves and stops; curves: tensorboard --logdir {shlex.quote(run.runs)}"
        unwatched = (
            f"watch it: {run_command(run.store, 'finetune')}; save and end it: "
            f"{run_command(run.store, 'control', 'stop')}"
        )
        return Submitted(job, next_step, lambda: watch(job, run), unwatched)


class InThisProcess(OnThisMachine):
    """A run in the launcher's own process, for a debugger; it saves and goes on like any other."""

    def __init__(self, flags: Finetune, run: Run) -> None:
        super().__init__(flags, run, why="")
        self.where = "this process, for a debugger"
        if flags.gpus != 1:
            raise ConfigError(
                f"--gpus must be 1 with --cluster debug, got {flags.gpus}: one rank has one debugger."
            )

    def submit(self, function: FinetuneJob, folder: Path, lock: RunLock) -> Submitted:
        """Return what runs the job, and holds the lock as long."""
        run = self._run
        run.forget_slurm()
        job = LocalJob(folder, os.getpid(), run.ledger.url)
        lock.name_job(job.pid, folder, job.ledger)

        def follow() -> int:
            with only_task_of(folder):
                outcome = replace(function, is_debugged=True)()
            lock.close()
            return 0 if outcome == "finished" else EXIT_INTERRUPTED

        return Submitted(job, "breakpoint() stops it anywhere; Ctrl-C ends it", follow)
