"""
Commands as a person can paste them: begun as this one was, from the folder that they stand in.

    command("chat", "--run", "my-run")          # python launch/chat.py --run my-run
    as_typed("Make it: python launch/preprocess.py")    # ... python ../code/launch/preprocess.py

Messages of the layers below name commands as the docs do; what this launcher says of them goes by how it
was typed itself.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[1]  # where the commands are
AS_IN_THE_DOCS = re.compile(r"(?<![^\s:`'\"])python launch/(\w+\.py)\b")


def command(verb: str, *words: str) -> str:
    """
    Return one of the commands as it can be typed now.

    Args:
        verb: Name of its file, without the ending.
        words: That come after it; quoted where a shell wants it.
    """
    return as_typed(f"python launch/{verb}.py {shlex.join(words)}".rstrip())


def as_typed(text: str) -> str:
    """Return a message whose commands, named as the docs do, are as this one was typed."""
    typed = Path(sys.argv[0]).parent
    if typed.resolve() != LAUNCH:  # none of the commands
        return text
    place = "" if str(typed) == "." else f"{typed}/"
    return AS_IN_THE_DOCS.sub(lambda found: f"{_python()} {shlex.quote(place + found[1])}", text)


def about_another_copy() -> str:
    """Return a note where a command of one copy of the project runs the code of another; else ""."""
    typed = Path(sys.argv[0]).resolve().parent
    if typed == LAUNCH or typed.name != LAUNCH.name or not (typed / "console").is_dir():
        return ""
    return (
        f"Note: this environment has {LAUNCH.parent} installed, so its code runs, and not that of "
        f"{typed.parent}. To run the latter, install it in an environment of its own."
    )


def _python() -> str:
    """Return what runs this very environment."""
    found = shutil.which("python")
    if not sys.executable or (found and Path(found).parent == Path(sys.executable).parent):
        return "python"
    return shlex.quote(shown_path(sys.executable))


def shown_path(place: str) -> str:
    """Return a path, or a URL, as it is typed here: shorter where it lies below this folder."""
    if "://" in place:
        return place
    here = os.getcwd()  # noqa: PTH109  as a string, like the place
    return place.removeprefix(f"{here.rstrip('/')}/") or place
