"""
Commands about a run as a person can paste them, with the place of its checkpoints if that is unusual.

    run_command(run.store, "chat")      # python launch/chat.py --run my-run --checkpoints elsewhere
    filled("python launch/logs.py RUN", run.store)
"""

from __future__ import annotations

import re
import shlex

from instruct_core.storage.store import Store
from launch.console.commands import as_typed, command, shown_path
from launch.flags.run import ModelFlags
from launch.runs.places import absolute

BY_FLAG = ("chat", "evaluate", "finetune", "generate", "serve")  # others take a run's name as it is


def run_command(store: Store, verb: str, *words: str) -> str:
    """
    Return a command about a run.

    Args:
        store: The run's checkpoints.
        verb: Of the command.
        words: That come after the run's name.
    """
    flag = ["--run"] if verb in BY_FLAG else []
    name, *places = _names(store)
    return command(verb, *flag, name, *words, *places)


def filled(text: str, store: Store) -> str:
    """Return a remedy with a run's own name and place for RUN."""
    return as_typed(re.sub(r"\bRUN\b", lambda _: shlex.join(_names(store)), text))


def _names(store: Store) -> list[str]:
    """Return a run's name, and the flag that says where it is."""
    checkpoints, _, name = store.url.rpartition("/")
    if checkpoints == absolute(ModelFlags.checkpoints):
        return [name]
    return [name, "--checkpoints", shown_path(checkpoints or "/")]
