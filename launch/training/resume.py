"""
Have a paused run go on: what launch/control.py does for resume.

    exit_code = resume(Control(run="my-run", verb="resume"))

It is what its finetune command would do if nothing but the name were typed: the same settings, nodes
and partition, on Slurm if it was there and here if it was here.
"""

from __future__ import annotations

from functools import partial

from instruct_core.errors import ConfigError
from instruct_core.storage.looks import is_there
from instruct_core.storage.patience import on_a_disk
from jobs.job_folder import JOB_IDS
from launch.console.lines import say
from launch.flags.control import Control
from launch.flags.finetune import Finetune
from launch.flags.parse import parse_flags
from launch.runs.commands import run_command
from launch.runs.control import ask_run, is_training
from launch.runs.run import Run
from launch.runs.status import RunStatus
from launch.training.start import finetune


def resume(flags: Control) -> int:
    """
    Start a paused run again, or have one that waits not pause; return the exit code.

    Raises:
        ConfigError: It is not paused.
        MissingError: There is no such run.
    """
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    status = RunStatus.of(run)
    state, asked = status.state(), status.asked()
    pauses = asked is not None and asked.verb == "pause"
    if status.is_active():
        if not pauses:
            raise ConfigError(f"Run {run.name} is not paused, it is on its way: {state}.")
        if is_training(status):
            raise ConfigError(f"Run {run.name} is pausing ({state}). Give this again in a moment.")
        ask_run(run, "resume")
        say(f"Run {run.name} waits ({state}), and does not pause when it starts.")
        return 0
    if state != "paused":
        raise ConfigError(
            f"Run {run.name} is not paused: {state}. To have it go on: "
            f"{run_command(run.store, 'finetune')}"
        )
    words = [f"--run={run.name}", f"--checkpoints={run.checkpoints}"]
    words += [f"--runs={run.ledger.url.rpartition('/')[0]}", f"--cluster={_cluster(status)}"]
    return finetune(parse_flags(Finetune, words), words, watches=False)


def _cluster(status: RunStatus) -> str:
    """Return where its last job ran."""
    folders = status.job_folders()
    ids = [folder / JOB_IDS for folder in folders[-1:]]
    return "slurm" if any(on_a_disk(path, partial(is_there, path)) for path in ids) else "local"
