"""What can be typed after launch/checkpoints.py: a verb, a run, and the flags of the verb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from launch.flags.run import Checkpoints, RunName, Runs, Step
from launch.flags.values import PATH


@dataclass(frozen=True)
class Ls:
    """List a run's checkpoints: step, size, age, validation loss, attempt. Compares sizes only."""

    run: RunName
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None


@dataclass(frozen=True)
class Verify:
    """Read every byte of a run's checkpoints and compare hashes; exit code 1 if one is damaged."""

    run: RunName
    step: int | None = None
    """Only this step (default: all)."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None


@dataclass(frozen=True)
class Prune:
    """
    Remove checkpoints that need not stay.

    The last few stay, those kept for good, the best by validation loss, and never less than one that
    was read back and found right.
    """

    run: RunName
    keep: int | None = None
    """Newest checkpoints that stay (default: as the run itself does)."""
    keep_every: int | None = None
    """Steps divisible by this stay, 0 for none (default: as the run itself does)."""
    damaged: bool = False
    """Remove the damaged ones as well that were set aside."""
    dry_run: bool = False
    """Only say what would go."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None


@dataclass(frozen=True)
class Export:
    """
    Make a folder that AutoModelForCausalLM and AutoTokenizer load.

    Of a run that was trained with --lora it is PEFT's folder of adapters, or with --merge a whole model.
    """

    run: RunName
    out: Annotated[str, PATH]
    """Path or URL of the folder; it must be empty or not there yet."""
    step: Step = "newest"
    merge: bool = False
    """Add the adapters of a run with --lora to its base: the folder then needs nothing else."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Runs = None


VERBS = {"ls": Ls, "verify": Verify, "prune": Prune, "export": Export}
