"""
    python launch/chat.py --run my-run
    python launch/chat.py --run my-run --prompt "What is AI?" --temperature 0.7

Talks to a checkpoint of a run, also while it trains, or to any folder that --init takes. Without
--prompt it reads questions from the terminal, or from a pipe, one a line; /help lists what else
can be typed.

Flags: flags/chat.py; work: dialogue/.
"""

from __future__ import annotations

import sys

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from instruct_core.errors import ConfigError
from launch.console.lines import guarded
from launch.flags.chat import Chat
from launch.flags.parse import check_counts, parse_flags
from launch.flags.run import check_model_flags


def main() -> int:
    flags = parse_flags(Chat, sys.argv[1:], usage=__doc__)
    flags.sampling.check()
    check_counts(flags, "max_new_tokens")
    check_model_flags(flags.model)
    if not all(prompt.strip() for prompt in flags.prompt):
        raise ConfigError("--prompt must have some text, got none. Leave it out to type questions.")
    if flags.base and flags.prompt:
        raise ConfigError(
            f"--base {flags.base} is used by /compare alone, in a conversation: leave out --base or "
            "--prompt."
        )
    from launch.dialogue.dialogue import Dialogue
    from launch.dialogue.speaker import load_speaker
    from launch.dialogue.terminal import talk

    dialogue = Dialogue(flags, load_speaker(flags.model))
    if not flags.prompt:
        return talk(dialogue)
    for question in flags.prompt:
        dialogue.turns.clear()
        dialogue.ask(question)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
