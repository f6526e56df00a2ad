"""
    python launch/chat.py --run my-run
    python launch/chat.py --run my-run --prompt "What is AI?"

Talks to a checkpoint of a run, also while it trains, or to any folder that --init takes. Without
--prompt it reads questions from the terminal, or from a pipe, one a line.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from launch.console import guarded, parse_flags, say


@dataclass(frozen=True)
class Chat:
    """Talk to a run's newest checkpoint, or to any GPT-2."""

    run: str | None = None
    """Name of the run (default: the one that saved last)."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""
    checkpoint: str | None = None
    """Path or URL of a step folder, a Hugging Face folder or a .pt file, instead of a run."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Ask this and stop, instead of reading questions; may be given several times."""
    input: str = ""
    """Text for the template's Input block, given with every question."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 takes the likeliest word, 1 draws freely."""
    seed: int = 0
    """Of the draws."""


def main() -> int:
    flags = parse_flags(Chat, sys.argv[1:])
    from launch.talking import find_checkpoint, load_speaker

    checkpoint = find_checkpoint(flags)
    speaker = load_speaker(flags, checkpoint)
    if flags.prompt:
        for question in flags.prompt:
            say(speaker.answer(question))
        return 0
    for question in _questions(checkpoint):
        say(speaker.answer(question))
    return 0


def _questions(checkpoint: str) -> Iterator[str]:
    """Yield lines of the standard input until it ends; prompt for them on a terminal."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  line editing and history come with the import

        say(f"Talking to {Path(checkpoint).name}; an empty line or Ctrl-D ends.")
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            return
        if line.strip():
            yield line
        elif interactive:
            return


if __name__ == "__main__":
    sys.exit(guarded(main))
