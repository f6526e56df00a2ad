"""What can be typed after launch/sweep.py: its own flags, and those of finetune for every run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import tyro

from instruct_core.errors import ConfigError
from launch.flags.finetune import Finetune, check_flags
from launch.flags.nearest import nearest
from launch.flags.parse import check_name, parse_flags
from launch.flags.site import flags_in, parse_on_site

MOST_RUNS = 1000
NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
FIXED = {"--run", "--checkpoints", "--runs"}  # flags of finetune that make the runs one sweep
OWN = {"--json", "--no-json", "-h", "--help", "--help-all"}


@dataclass(frozen=True)
class Sweep:
    """
    Train a run for every combination of some values, or compare those that were trained.

    All other flags are finetune's, and the same for every run: python launch/finetune.py --help. On Slurm
    each run is a job of its own; here they train one after the other. The same command again goes on with
    what has not ended.
    """

    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME", help="What the names of its runs begin with."),
    ]
    over: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FLAG=VALUE,VALUE")
    ] = ()
    """A flag of finetune and its values; given several times, all combinations are trained (default: the
    runs that are there are compared)."""
    json: bool = False
    """Print the comparison as one JSON document."""


class OneRun(NamedTuple):
    """What finetune is asked for, for one combination."""

    flags: Finetune
    arguments: list[str]  # the words that it is typed with

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.flags.run)


def parse_sweep(
    arguments: Sequence[str], usage: str | None
) -> tuple[Sweep, list[OneRun], Finetune]:
    """
    Return what was typed, the runs that it asks for, and the flags that all of them have.

    Raises:
        ConfigError: A flag or a value that finetune refuses, or what makes no sweep.
    """
    own, others = _apart(arguments)
    flags = parse_flags(Sweep, own, usage=usage)
    check_name(flags.name, "NAME")
    if "--run" in flags_in(others):
        raise ConfigError(
            f"--run is chosen here: {flags.name}- and what each run has. Leave it out."
        )
    ways = [_way(text, others) for text in flags.over]
    for flag in {flag for flag, _ in ways if sum(flag == other for other, _ in ways) > 1}:
        raise ConfigError(f"--over {flag}=... is given twice. Give all its values at once.")
    if not ways and (left := sorted(flags_in(others) - {"--checkpoints"})):
        for flag in left:
            if meant := nearest(flag, ["over", "json"]):
                raise ConfigError(f"There is no flag {flag}. Perhaps you meant {meant[0]}.")
        parse_on_site(Finetune, others)  # one that is not finetune's either is named so
        raise ConfigError(
            f"{left[0]} is for training, and without --over nothing is trained. Give --over "
            "FLAG=VALUE,VALUE, or leave it out to compare the runs that are there."
        )
    if ways and flags.json:
        raise ConfigError("--json is for comparing: leave out --over, once the runs have begun.")
    return flags, _runs(flags.name, ways, others), parse_on_site(Finetune, others)


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of this command and those of finetune."""
    own, others = list[str](), list[str]()
    words = iter(arguments)
    for place, word in enumerate(words):
        if word == "--over":
            own += [word, *itertools.islice(words, 1)]
        elif word.startswith("--over=") or word in OWN or (place == 0 and not word.startswith("-")):
            own.append(word)
        else:
            others.append(word)
    return own, others


def _way(text: str, others: Sequence[str]) -> tuple[str, list[str]]:
    """Return a flag, as it is typed, and its values."""
    name, is_given, values = text.partition("=")
    flag = "--" + name.strip().lstrip("-").replace("_", "-")
    split = [value.strip() for value in values.split(",")]
    if not is_given or flag == "--" or not all(split):
        raise ConfigError(
            f"--over must be FLAG=VALUE,VALUE, as in learning-rate=1e-5,3e-5, got {text!r}."
        )
    if len(set(split)) < len(split):
        raise ConfigError(f"--over {text} has a value twice. Leave one of them out.")
    if flag in FIXED:
        raise ConfigError(
            f"--over {text}: {flag} is chosen by the sweep, or the same for all of it."
        )
    if flag in flags_in(others):
        raise ConfigError(f"{flag} is given, and --over {text} too. Leave one of them out.")
    return flag, split


def _runs(name: str, ways: Sequence[tuple[str, list[str]]], others: list[str]) -> list[OneRun]:
    if not ways:
        return []
    if (count := math.prod(len(values) for _, values in ways)) > MOST_RUNS:
        raise ConfigError(
            f"A sweep must have at most {MOST_RUNS:,} runs, got {count:,}. Sweep over less."
        )
    runs = []
    for combination in itertools.product(*(values for _, values in ways)):
        chosen = [f"{flag}={value}" for (flag, _), value in zip(ways, combination, strict=True)]
        parts = [NO_NAME.sub("-", word.removeprefix("--")).strip("-") for word in chosen]
        run = "-".join([name, *parts])
        check_name(run, "The name of a run of this sweep")
        arguments = [*others, *chosen, f"--run={run}"]
        flags = parse_on_site(Finetune, arguments)
        check_flags(flags, is_whole=False)
        runs.append(OneRun(flags, arguments))
    if len({run.name for run in runs}) < len(runs):
        raise ConfigError(
            f"Two runs of sweep {name} would have one name. Give values that differ in letters."
        )
    return runs
