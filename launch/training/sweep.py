"""
Runs that differ in some settings: begin them all, or go on with those that have not ended.

    exit_code = sweep(flags, runs, shared)
"""

from __future__ import annotations

from collections.abc import Sequence

from instruct_core.errors import ConfigError, InstructError
from launch.console.ctrl_c import EXIT_INTERRUPTED
from launch.console.lines import say
from launch.flags.finetune import Finetune
from launch.flags.sweep import OneRun, Sweep
from launch.runs.results import show_results
from launch.training.start import finetune


def sweep(flags: Sweep, runs: Sequence[OneRun], shared: Finetune) -> int:
    """
    Train the runs, each as finetune does, and compare what came of them; return the exit code.

    A run that fails keeps no other from being trained; Ctrl-C does.

    Args:
        flags: What the person typed.
        runs: All combinations; none only compares.
        shared: Flags of finetune that all runs have.

    Raises:
        ConfigError: One of them cannot be trained so, named; those before it are on their way.
    """
    failed = 0
    for number, run in enumerate(runs, 1):
        say(f"Run {number} of {len(runs)}: {run.name}")
        try:
            exit_code = finetune(run.flags, run.arguments)
        except InstructError as error:
            raise ConfigError(f"Run {run.name}: {error}") from None
        if exit_code == EXIT_INTERRUPTED:
            return exit_code
        failed = failed or exit_code
    if not shared.dry_run:
        show_results(flags.name, shared.checkpoints, flags.json)
    return failed
