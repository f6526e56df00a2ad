"""
The sessions of examples/, typed as a person types them.

    python -m tests.examples         # writes anew what they show

A session is Markdown. In its blocks of `console` a line that begins with "$ " is typed, and what follows
is what it printed; "^C" stands where Ctrl-C was pressed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import HANGS_SECONDS, REPO, environment

SESSIONS = sorted(set((REPO / "examples").glob("*.md")) - {REPO / "examples" / "README.md"})
HOME = "/home/ada/instruct-cluster"  # how the docs name the project's folder
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
CTRL_C = "^C\n"
MASKS = (  # what the page of examples/ names
    (r" +", " "),
    (r"^Step \d+ of \d+: loss .*\n", ""),
    (r"(?<=this machine) \(.*\)", ""),
    (r"[\d.,]+ (ms|s|min)\b", "TIME"),
    (r"[\d.,]+ (?=([kMG]B|bytes|tokens/s)\b)", "N "),
    (r"(?<=\bloss )[\d. ]+|\d+\.\d{4}\b", "LOSS"),
    (r"^.* goodput .*\n", ""),  # and no such line where both are the same
    (r"\bjob \d+|\b\d+(?=_0_log)", "JOB"),
)


def played(session: str, folder: Path) -> str:
    """Return a session with what its commands print now, typed in an empty folder."""
    for name in ("launch", "examples"):
        (folder / name).symlink_to(REPO / name)
    return BLOCK.sub(lambda block: "".join(_typed(block[0], folder)), session)


def _typed(block: str, folder: Path) -> Iterator[str]:
    for entry in re.split(r"^(?=\$ )", block, flags=re.MULTILINE)[1:]:
        command, _, shown = entry.partition("\n")
        before = shown.partition(CTRL_C)[0].splitlines(keepends=True) if CTRL_C in shown else []
        output = "".join(_output(command.removeprefix("$ "), folder, before[-1:]))
        yield f"{command}\n{output.replace(str(folder), HOME)}"


def _output(command: str, folder: Path, interrupt_after: list[str]) -> Iterator[str]:
    """Yield the lines of a command; where it is asked for, press Ctrl-C after one like a given one."""
    env = environment() | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPO),
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    process = subprocess.Popen(
        ["timeout", str(HANGS_SECONDS), "bash", "-c", command], cwd=folder, env=env, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            yield line
            if interrupt_after and masked(line) == masked(interrupt_after[0]):
                process.send_signal(signal.SIGINT)
                yield CTRL_C


def masked(text: str) -> str:
    """Return what is the same on every machine."""
    for pattern, word in MASKS:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    if stopped := re.search(r"stopped at step (\d+)", text):
        text = re.sub(rf"\bstep {stopped[1]}\b", "step STOP", text, flags=re.IGNORECASE)
        text = re.sub(r"\d+ (?=of \d+ steps to go)", "REST ", text)
    return text


def main() -> None:
    for session in SESSIONS:
        with tempfile.TemporaryDirectory() as folder:
            session.write_text(played(session.read_text(), Path(folder)))


if __name__ == "__main__":
    main()
