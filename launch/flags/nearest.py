"""
Which flag a person may have meant who typed another.

    nearest("--gpu", ["gpus", "gpu_type"])               # ["--gpus"]
    nearest("--gpus-per-node", ["gpus", "gpu_type"])     # ["--gpus"]
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from instruct_core.recipe import flag_of

MOST = 2  # that are named
FEWEST = 3  # letters from which the rest of a flag is guessed
SLIP = 0.9  # how alike a flag is that was only mistyped
ALIKE = 0.75  # a letter too many, too few or beside its place, in words of four letters and more
AS_GOOD = 0.1  # how far behind the best another may be
OTHERS_SAY = {
    "lr": ("learning_rate",),
    "batch_size": ("micro_batch_size", "tokens_per_step"),
    "num_train_epochs": ("epochs",),
    "steps": ("max_steps",),
    "output": ("out", "checkpoints"),
    "output_dir": ("out", "checkpoints"),
    "data": ("source", "shards"),
    "dataset": ("source", "shards"),
    "name": ("run",),
    "source": ("shards",),
    "resume": ("run",),
    "gres": ("gpus",),
    "dependency": ("after",),
    "max_tokens": ("max_new_tokens", "seq_len"),
    "bf16": ("precision",),
    "fp16": ("precision",),
    # sbatch's short ones
    "-A": ("account",),
    "-C": ("constraint",),
    "-G": ("gpus",),
    "-M": ("clusters",),
    "-N": ("nodes",),
    "-c": ("cpus_per_task",),
    "-d": ("after",),
    "-p": ("partition",),
    "-q": ("qos",),
    "-t": ("time",),
    "-x": ("exclude",),
}  # what comparable tools call it: what it may be here


def nearest(typed: str, known: Sequence[str]) -> list[str]:
    """
    Return the flags that may be meant, the likeliest first; [] where nothing is like it.

    Args:
        typed: As on the command line, with its dashes.
        known: The flags that there are, as fields have them: micro_batch_size, no_async_save.
    """
    name = typed.lstrip("-").replace("-", "_")
    said = [each for each in OTHERS_SAY.get(typed, OTHERS_SAY.get(name, ())) if each in known]
    name = name.lower()
    # The same in the singular or the plural leaves no doubt; whole words in common count more than
    # letters: --cpus is nearer to --cpus-per-task than to --gpus.
    found = said or [each for each in known if _singular(each) == _singular(name)]
    found = found or _alike(name, known, SLIP, 0.0)
    found = found or [each for each in known if _begins_alike(each, name)]
    found = found or [each for each in known if name and each.endswith(f"_{name}")]
    found = found or [each for each in known if _ends_alike(each, name)]
    found = found or [each for each in known if len(name) >= FEWEST and each.startswith(name)]
    return [flag_of(each) for each in (found or _alike(name, known, ALIKE, AS_GOOD))[:MOST]]


def _singular(name: str) -> str:
    return "_".join(word.removesuffix("s") for word in name.split("_"))


def _begins_alike(one: str, other: str) -> bool:
    """Return True if one begins with the other, up to the end of a word."""
    short, long = sorted((_singular(one), _singular(other)), key=len)
    return bool(short) and long.startswith(f"{short}_")


def _ends_alike(one: str, other: str) -> bool:
    short, long = sorted((_singular(one), _singular(other)), key=len)
    return bool(short) and long.endswith(f"_{short}")


def _alike(name: str, known: Sequence[str], least: float, behind: float) -> list[str]:
    """Return what is at least so alike, and not further behind the best; the best first."""
    degrees = {each: difflib.SequenceMatcher(None, name, each).ratio() for each in known}
    enough = max(least, max(degrees.values(), default=0.0) - behind)
    alike = [each for each in known if degrees[each] >= enough]
    return sorted(alike, key=lambda each: -degrees[each])
