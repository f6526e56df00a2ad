"""
Ask something of a run that trains or waits: what launch/control.py does for save, stop, pause and extend.

    exit_code = control(Control(run="my-run", verb="pause"))

Nothing is signalled: a small file in the run's folder says what is wanted, and the run's own rank 0
finds it. Whoever may write that folder may ask.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from instruct_core.errors import ConfigError, InstructError, SlurmError
from jobs.control import Verb, ask, last_step, requests_in
from launch.cluster.frozen_code import CODE
from launch.cluster.local import LocalJob
from launch.cluster.lock import RunLock
from launch.cluster.slurm import SlurmJob
from launch.console.lines import say
from launch.flags.control import Control
from launch.runs.commands import run_command
from launch.runs.run import Run
from launch.runs.status import RunStatus


def control(flags: Control) -> int:
    """
    Ask a run to save, to stop, to pause or to end later; return the exit code.

    Raises:
        ConfigError: It cannot do that as it stands, or its folder is not ours to write.
        MissingError: There is no such run.
    """
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    status = RunStatus.of(run)
    match flags.verb:
        case "extend":
            _extend(run, status, flags.steps)
        case "save":
            _save(run, status)
        case "stop":
            _end(run, status, "stop")
        case "pause":
            _end(run, status, "pause")
    return 0


def who() -> str:
    """Return who asks, for others to read."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number that has no name here
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def allowed(run: Run) -> Iterator[None]:
    """Turn what a disk or a store refuses into one line about the run; raises ConfigError."""
    try:
        yield
    except InstructError:
        raise
    except OSError as error:
        raise ConfigError(
            f"Run {run.name} does this for those who may write its folder, and {run.store.url} refuses: "
            f"{(error.strerror or str(error)).rstrip('.')}. Ask who owns it."
        ) from None


@contextmanager
def at_rest(run: Run, verb: str) -> Iterator[None]:
    """
    Hold a run that neither trains nor waits, so that no launcher begins it meanwhile.

    Raises:
        ConfigError: It does one of them, or nobody can tell.
    """
    lock = RunLock(run.lock)
    try:
        queued = SlurmJob.found(run.slurm_note)
        state = ""
        if not lock.acquire():
            LocalJob.found(run.lock)  # a launcher that has it, it names
            state = "it is training"
        elif queued is not None and queued.is_running():
            state = f"job {queued.label}"
        if state:
            raise ConfigError(
                f"Run {run.name} cannot be {verb}: {state}. First: "
                f"{run_command(run.store, 'control', 'stop')}"
            )
        lock.name_work(verb)
        yield
    finally:
        lock.close()


def ask_run(run: Run, verb: Verb, steps: int | None = None) -> None:
    """
    Leave a request in a run's folder.

    Raises:
        ConfigError: It is not ours to write, or the code that its job runs takes no requests.
    """
    with allowed(run):
        ask(run.store, verb, who(), steps)


def is_training(status: RunStatus) -> bool:
    """Return True if its ranks may be at work now."""
    if RunLock.is_held(status.run.lock):
        return True
    try:
        records = status.slurm.records() if status.slurm is not None else []
    except SlurmError:
        return True  # nobody can tell: what is asked waits for it
    return any(record.is_running for record in records)


def _save(run: Run, status: RunStatus) -> None:
    if not is_training(status):
        raise ConfigError(
            f"Run {run.name} is not training ({status.state()}): there is nothing to save."
        )
    _refuse_old_code(status)
    ask_run(run, "save")
    say(f"Run {run.name} saves before its next step, and goes on.")


def _extend(run: Run, status: RunStatus, steps: int) -> None:
    ends_at = last_step(requests_in(run.store), run.config.max_steps)
    if steps <= ends_at:
        raise ConfigError(
            f"Run {run.name} ends at step {ends_at}, and the end can only move later: got {steps}."
        )
    if status.is_active():
        _refuse_old_code(status)
    ask_run(run, "extend", steps)
    say(f"Run {run.name} ends at step {steps} instead of {ends_at}.")
    if not status.is_active():
        say(f"It is not on its way ({status.state()}). Have it go on: {_again(run)}")


def _end(run: Run, status: RunStatus, verb: Verb) -> None:
    state = status.state()
    if not status.is_active() and not (verb == "stop" and state == "paused"):
        raise ConfigError(f"Run {run.name} is not on its way: {state}. There is nothing to {verb}.")
    if (holds := status.asked()) is not None and (holds.verb in (verb, "stop")):
        raise ConfigError(
            f"Run {run.name} was asked to {holds.verb} already, by {status.asked_by()}: {state}."
        )
    _refuse_old_code(status)
    trains = is_training(status)
    ask_run(run, verb)
    if state == "paused":
        say(f"Run {run.name} is stopped: resume does not start it any more.")
    elif trains:
        say(f"Run {run.name} saves at its next step, and ends.")
    elif _cancelled(status):
        say(f"Run {run.name} was waiting, and is out of the queue.")
    else:
        say(f"Run {run.name} waits ({state}), and ends as soon as it starts.")
    say(f"{'Later':8}{_again(run) if verb == 'stop' else _resume(run)}")


def _cancelled(status: RunStatus) -> bool:
    """Take a job that waits out of the queue; False where Slurm does not let us."""
    try:
        assert status.slurm is not None, "only Slurm has jobs wait"
        status.slurm.cancel_waiting()
        return not status.is_active()
    except SlurmError:
        return False


def _refuse_old_code(status: RunStatus) -> None:
    for folder in status.job_folders()[-1:]:
        if not (folder / CODE / "jobs" / "control.py").exists():
            raise ConfigError(
                f"Run {status.run.name} was started with code that takes no requests: {folder / CODE}. "
                "Stop it as its queue does (scancel, or kill), and give its command again."
            )


def _again(run: Run) -> str:
    return run_command(run.store, "finetune")


def _resume(run: Run) -> str:
    return run_command(run.store, "control", "resume")
