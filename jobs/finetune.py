"""
A fine-tuning job as submitit sees it: a callable whose whole state is its config.

    executor.submit(FinetuneJob(config))

Launchers import this module, so torch is imported only when the job runs. The saving is done in
the training loop, where all ranks agree on a step; `checkpoint` runs in submitit's signal handler
on one rank alone, and only says that the same config should run again.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import submitit

from instruct_core.config import TrainConfig
from jobs.environment import loading
from jobs.failures import failure_report
from jobs.job_folder import ASKS_BACK, job_folder
from jobs.patient import load
from jobs.survival.exclusion import exclude_anew
from jobs.survival.stop_signal import StopSignal


@dataclass(frozen=True)
class FinetuneJob:
    """What every rank runs, at every attempt."""

    config: TrainConfig
    code_version: str
    needs_gpu: bool = False  # its settings were chosen for GPUs
    is_debugged: bool = False  # in the launcher's own process, with nobody to bring it back

    def __call__(self) -> str:
        """Train until the end or until a warning; return "finished" or "stopped"."""
        rank = submitit.JobEnvironment().global_rank
        with StopSignal() as stop, failure_report(job_folder(), rank):
            logging.basicConfig(
                level=logging.INFO if rank == 0 else logging.WARNING,
                format=f"%(asctime)s rank {rank} %(message)s",
                datefmt="%Y-%m-%dT%H:%M:%S",
            )
            logging.getLogger("submitit").propagate = False  # it has a handler of its own
            with loading():
                load("jobs.attempt")
            from jobs.attempt import train

            result = train(self.config, self.code_version, stop, self.is_debugged, self.needs_gpu)
            if result.answer == "requeue" and not self.is_debugged:
                _hand_over(stop)
            if result.answer == "unsure":
                sys.exit(ASKS_BACK)  # the batch script asks until Slurm answers
            stop.ignore_from_now_on()
            return result.outcome

    def imports(self, num_ranks: int) -> list[str]:
        """Return what every rank will load, for a process that they are forked from."""
        config = self.config
        recomputes = config.activation_checkpointing == "on"
        compiler = config.compile or recomputes or config.is_in_parts(num_ranks)
        return ["jobs.attempt", *(["torch._dynamo"] if compiler else [])]

    def checkpoint(self, *args: Any, **kwargs: Any) -> submitit.helpers.DelayedSubmission:
        """Return what runs after a requeue; submitit calls this, see the module's page."""
        return submitit.helpers.DelayedSubmission(self, *args, **kwargs)


def _hand_over(stop: StopSignal) -> NoReturn:
    """Have submitit requeue the job; where that fails, who started this rank knows what to do."""
    try:
        stop.hand_over()
    except SystemExit as end:  # rank 0 has requeued it
        if end.code != ASKS_BACK and submitit.JobEnvironment().cluster == "slurm":
            exclude_anew()
        raise
