"""What the README tells a person to type works, in a fresh copy of the project."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import HANGS_SECONDS, REPO, environment, events_of, wait_for

FOUR_RANKS_BYTES = 20e9  # of the README's command on CPUs: the launcher refuses what has no room


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """The tracked files of this project, elsewhere, with this Python first on PATH."""
    names = subprocess.check_output(["git", "ls-files"], cwd=REPO, text=True).splitlines()
    for name in names:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, target)
    yield tmp_path
    shutil.rmtree(tmp_path / "checkpoints_instruct")  # half a gigabyte


def commands(heading: str) -> list[str]:
    """Return the lines of the first code block below a heading of the README."""
    text = (REPO / "README.md").read_text().split(f"## {heading}\n")[1]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [line.split("#")[0].strip() for line in block[1].splitlines()]


def shell(clone: Path, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = environment() | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-c", command], cwd=clone, env=env, input=stdin, text=True,
        capture_output=True, timeout=HANGS_SECONDS, check=False,
    )  # fmt: skip


def test_commands_of_the_readme_work_as_they_stand(clone: Path) -> None:
    if (free := psutil.virtual_memory().available) < FOUR_RANKS_BYTES:
        pytest.skip(f"four ranks of 124M need 19 GB of memory, and {free / 1e9:.0f} GB are free")
    activate, preprocess, finetune, chat = commands("Use it")
    assert activate == "source .venv/bin/activate"
    assert finetune == "python launch/finetune.py --nodes 1 --gpus 4"

    prepared = shell(clone, preprocess)
    assert prepared.returncode == 0, prepared.stderr
    launcher = subprocess.Popen(
        [sys.executable, *finetune.split()[1:]], cwd=clone, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        run = clone / "runs_instruct" / "gpt2-builtin"
        wait_for(lambda: events_of(run) or launcher.poll() is not None, "the ranks' start")
        launcher.send_signal(signal.SIGINT)  # 124M on CPUs: a step takes minutes
        said, errors = launcher.communicate(timeout=HANGS_SECONDS)
    finally:
        launcher.kill()
    answered = shell(clone, chat, stdin="What is AI?\n")

    assert launcher.returncode == 130, errors
    for line in (
        "Where   this machine",
        "Ranks   4 CPU ranks",
        "from random weights",
        "a step of 65,536 tokens takes about",
        "Run gpt2-builtin is stopped at",
    ):
        assert line in said  # fmt: skip
    assert answered.returncode == 0, answered.stderr


def test_doors_lead_to_the_launchers(clone: Path) -> None:
    (clone / "checkpoints_instruct").mkdir(exist_ok=True)

    training = shell(clone, "./start_instruct_training.sh 0")
    chat = shell(clone, "./chat.sh --run nobody")

    assert "--gpus must be at least 1, got 0" in training.stderr
    assert "Run nobody is not there" in chat.stderr


def test_every_linked_file_is_there() -> None:
    pages = [REPO / "README.md", *(REPO / "docs").glob("*.md"), *REPO.glob("*/README.md")]

    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_every_promise_names_a_test_that_is_there() -> None:
    promises = (REPO / "docs" / "promises.md").read_text()
    tests = "\n".join(path.read_text() for path in (REPO / "tests").rglob("test_*.py"))

    for name in re.findall(r"`(test_\w+)`", promises):
        assert f"def {name}(" in tests, name


def test_every_file_that_a_page_names_is_there() -> None:
    named = re.compile(r"`((?:launch|jobs|instruct_core|tests|bench)/[\w/]*(?:\.py)?)`")

    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        for name in named.findall(page.read_text()):
            assert (REPO / name).exists(), f"{page.name} names {name}"
