"""
Options of sbatch as they are typed after --sbatch, for what has no flag of ours. No heavy imports.

    options_of(["reservation=course", "mem=", "exclusive"])
    # {"reservation": "course", "mem": "", "exclusive": None}

KEY=VALUE is written as it stands, KEY alone is a switch, and KEY= leaves out what would be written: some
sites refuse `--mem` or `--requeue`. Of one key the last word counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from instruct_core.errors import ConfigError

WORD = re.compile(r"([a-z][a-z0-9-]*)(=.*)?")
# Options that have a flag of ours, which checks them and reckons with them.
FLAGS = {
    "partition": "--partition", "account": "--account", "qos": "--qos", "time": "--time",
    "cpus-per-task": "--cpus-per-task", "constraint": "--constraint", "exclude": "--exclude",
    "clusters": "--clusters", "nodes": "--nodes", "ntasks": "--gpus", "ntasks-per-node": "--gpus",
    "dependency": "--after", "signal": "--lead", "job-name": "--run",
}  # fmt: skip
# Options without which nothing finds the job, its log or its tasks again.
NEEDED = (
    "array", "chdir", "dependency", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "output",
)  # fmt: skip
NOT_OF_A_SCRIPT = ("help", "parsable", "quiet", "test-only", "usage", "version", "wait", "wrap")
# What is written unless it is left out.
WRITTEN = (
    "account", "clusters", "constraint", "cpus-per-task", "exclude", "gpus-per-node", "mem", "open-mode",
    "partition", "qos", "requeue", "signal", "time",
)  # fmt: skip
# Options that say the same in another way: the one of ours goes.
INSTEAD = {
    "mem-per-cpu": "mem", "mem-per-gpu": "mem", "no-requeue": "requeue", "gres": "gpus-per-node",
    "gpus": "gpus-per-node", "gpus-per-task": "gpus-per-node", "gpus-per-socket": "gpus-per-node",
}  # fmt: skip


def options_of(words: Sequence[str]) -> dict[str, str | None]:
    """Return typed options by key: their value, None for a switch, "" for one that is left out."""
    options: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        options[key] = value if equals else None
    return options


def words_of(options: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return options as they are typed."""
    return tuple(key if value is None else f"{key}={value}" for key, value in options.items())


def left_out(words: Sequence[str]) -> set[str]:
    """Return the options of ours that are not written: left out, or said in another way."""
    options = options_of(words)
    others = {INSTEAD[key] for key, value in options.items() if key in INSTEAD and value != ""}
    return {key for key, value in options.items() if value == ""} | others


def check_options(words: Sequence[str]) -> None:
    """
    Refuse options that are none, that have a flag of ours, or that a job of ours cannot be without.

    Raises:
        ConfigError: Names the option, and what to type instead.
    """
    for word in words:
        found = WORD.fullmatch(word)
        if found is None or not word.isprintable():
            raise ConfigError(
                "--sbatch takes KEY=VALUE, KEY for a switch or KEY= to leave one out, KEY being a long "
                f"option of sbatch without its dashes, got {word!r}."
            )
        key, leaves_out = found[1], found[2] == "="
        if key in NEEDED and leaves_out:
            raise ConfigError(f"--sbatch {key}= cannot be: a job of ours needs its --{key}.")
        if key in FLAGS and not leaves_out:
            raise ConfigError(f"--sbatch {word}: there is a flag for this. Use {FLAGS[key]}.")
        if key in NEEDED or key in NOT_OF_A_SCRIPT:
            raise ConfigError(f"--sbatch {word} cannot be: it is for the launcher to say.")
