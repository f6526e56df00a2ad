"""
    python launch/checkpoints.py ls my-run
    python launch/checkpoints.py verify my-run
    python launch/checkpoints.py prune my-run --keep 2 --dry-run
    python launch/checkpoints.py export my-run --out my-model

What a run has saved: list it, read every byte of it, remove what need not stay, or make a Hugging
Face folder of it. Works on any place, also while the run trains.

Flags: flags/checkpoints.py; work: runs/checkpoints.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from instruct_core.errors import ConfigError
from launch.console.lines import guarded, say, say_whole
from launch.flags.checkpoints import VERBS, Export, Ls, Prune, Verify
from launch.flags.parse import parse_flags

PROGRAM = "python launch/checkpoints.py"


def main(arguments: Sequence[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb in ("", "-h", "--help", "--help-all"):
        say_whole(
            f"usage: {PROGRAM} {{{','.join(VERBS)}}} RUN [flags]; more: {PROGRAM} VERB --help\n"
        )
        for name, flags in VERBS.items():
            say(f"  {name:8}{(flags.__doc__ or '').strip().splitlines()[0]}")
        return 0
    if verb not in VERBS:
        raise ConfigError(f"The first word must be one of {', '.join(VERBS)}, got {verb!r}.")
    flags = parse_flags(VERBS[verb], arguments[1:], program=f"{PROGRAM} {verb}", usage=__doc__)
    from launch.runs import checkpoints

    match flags:
        case Ls():
            return checkpoints.show(flags)
        case Verify():
            return checkpoints.verify(flags)
        case Prune():
            return checkpoints.prune(flags)
        case Export():
            return checkpoints.export(flags)
    raise AssertionError(flags)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
