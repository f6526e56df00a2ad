"""
A conversation at a terminal or through a pipe: lines in, until they end.

    exit_code = talk(dialogue)
"""

from __future__ import annotations

import atexit
import contextlib
import io
import sys
from pathlib import Path

from instruct_core.errors import InstructError
from launch.console.lines import EXIT_BAD_INPUT, note
from launch.dialogue.dialogue import Dialogue
from launch.flags.home import own_folder

HISTORY_LINES = 1000


def talk(dialogue: Dialogue) -> int:
    """
    Take lines until they end; return the exit code, 2 if a line from a pipe was no good.

    At a terminal Ctrl-C stops an answer, or throws a line away, and Ctrl-D ends.
    """
    exit_code = 0
    interactive = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A file is UTF-8 whatever the locale says; a terminal writes as its locale does.
        sys.stdin.reconfigure(encoding=None if interactive else "utf-8", errors="replace")
    dialogue.is_typed = interactive
    if interactive:
        _edit_lines()
        note(f"Talking to {Path(dialogue.speaker.place).name}. /help shows commands, Ctrl-D ends.")
    while not dialogue.is_over:
        line = ""
        try:
            line = _typed() if interactive else input().strip()
            if line:
                dialogue.take(line)
        except EOFError:
            break
        except BrokenPipeError:
            raise  # nobody reads the answers any more
        except (InstructError, OSError) as error:
            note(f"error: {error}")
            exit_code = 0 if interactive else EXIT_BAD_INPUT
        except KeyboardInterrupt:
            if not interactive:
                raise
            note("Stopped." if line else "")
    return exit_code


def _typed() -> str:
    """Return what is typed: a line, and those below it as long as one ends with a backslash."""
    line = input("> ").strip()
    while line.endswith("\\"):
        line = f"{line[:-1]}\n{input('  ')}"
    return line


def _edit_lines() -> None:
    """Let `input` edit its line, and remember lines from one conversation to the next."""
    import readline

    readline.set_history_length(HISTORY_LINES)
    home = own_folder("XDG_STATE_HOME", ".local/state")
    if home is None:
        return
    path = home / "chat_history"

    def keep() -> None:
        with contextlib.suppress(OSError):  # a home that cannot be written is no reason to complain
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)

    with contextlib.suppress(OSError):  # none yet
        readline.read_history_file(path)
    atexit.register(keep)
