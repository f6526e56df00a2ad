"""--help of every command: each default once, plain words, rare flags only when asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.flags.chat import Chat
from launch.flags.checkpoints import VERBS
from launch.flags.control import Control
from launch.flags.demo import Demo
from launch.flags.doctor import Doctor
from launch.flags.drill import Drill
from launch.flags.evaluate import Evaluate
from launch.flags.finetune import Finetune
from launch.flags.generate import Generate
from launch.flags.help import fields_of, is_rare
from launch.flags.logs import Logs
from launch.flags.parse import parse_flags
from launch.flags.preprocess import Preprocess
from launch.flags.report import Report
from launch.flags.serve import Serve
from launch.flags.status import Status
from launch.flags.sweep import Sweep
from tests.conftest import REPO, environment

COMMANDS = [
    Finetune, Preprocess, Generate, Evaluate, Chat, Status, Logs, Demo, Drill, Doctor, Report, Control,
    Serve, Sweep,
]  # fmt: skip
ALL = [*COMMANDS, *VERBS.values()]
HEAVY = ("numpy", "rich", "fsspec", "submitit", "cattrs", "torch")


def help_of(
    flags: type[Any],
    capsys: pytest.CaptureFixture[str],
    word: str = "--help",
    **arguments: str,
) -> str:
    """Return what a command prints for --help, as one line of words."""
    with pytest.raises(SystemExit) as stop:
        parse_flags(flags, [word], **arguments)
    assert stop.value.code in (0, None)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("flags", ALL)
def test_every_default_stands_once_and_nothing_of_python(
    flags: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(flags, capsys, "--help-all")

    for word in ("None", "False", "True", "INT", "FLOAT", "STR", "{fixed}"):
        assert word not in text.replace("(default: ", " ").split(), word
    assert "None" not in text
    for flag in text.split(" --"):
        assert flag.count("(default:") <= 1, flag


@pytest.mark.parametrize("flags", ALL)
def test_every_flag_is_shown_and_the_rare_ones_only_if_asked_for(
    flags: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    named = {f"--{n.replace('_', '-')}": is_rare(hint) for n, hint in fields_of(flags)}
    brief = help_of(flags, capsys, "--help").replace(",", " ").split()
    whole = help_of(flags, capsys, "--help-all").replace(",", " ").split()

    positional = {"--run", "--name", "--verb", "--value"} - set(whole)
    for name in named.keys() - positional:
        assert name in whole, name
        assert (name in brief) is not named[name], name
    assert ("--help-all" in brief) is any(named.values())
    assert "--help-all" not in whole


@pytest.mark.parametrize("flags", COMMANDS)
def test_rare_flags_stand_in_the_guide(flags: type[Any]) -> None:
    rows = (REPO / "docs/guide.md").read_text().split("## Rare flags")[1].splitlines()
    own = " ".join(row for row in rows if f"`{flags.__name__.lower()}`" in row)

    for name in (name.replace("_", "-") for name, hint in fields_of(flags) if is_rare(hint)):
        assert f"`--{name}`" in own or f"`--no-{name}`" in own


def test_looking_at_the_help_changes_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    help_of(Finetune, capsys, "--help")

    assert parse_flags(Finetune, ["--keep-every=7", "--lead=9"]).recipe.keep_every == 7


@pytest.mark.parametrize("flags", COMMANDS)
def test_help_shows_the_examples_of_the_command(
    flags: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name = flags.__name__.lower()
    usage = ast.get_docstring(ast.parse((REPO / f"launch/{name}.py").read_text())) or ""
    examples = [line.strip() for line in usage.splitlines() if "python launch/" in line]

    text = help_of(flags, capsys, usage=usage)

    assert examples
    for example in examples:
        assert " ".join(example.split()) in text


def test_example_of_a_verb_is_of_that_verb(capsys: pytest.CaptureFixture[str]) -> None:
    usage = (
        "    python launch/checkpoints.py ls my-run\n    python launch/checkpoints.py verify my-run"
    )

    text = help_of(VERBS["ls"], capsys, program="python launch/checkpoints.py ls", usage=usage)

    assert "python launch/checkpoints.py ls my-run" in text
    assert "verify" not in text


def test_flags_load_nothing_heavy() -> None:
    names = sorted(path.stem for path in Path(REPO / "launch" / "flags").glob("*.py"))
    loads = "; ".join(f"import launch.flags.{name}" for name in names if name != "__init__")
    found = f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"

    said = subprocess.check_output(
        [sys.executable, "-c", f"import sys; {loads}; {found}"],
        cwd=REPO,
        env=environment(),
        text=True,
    )

    assert said == "[]\n"


def test_work_of_the_commands_that_compute_nothing_loads_no_torch() -> None:
    """It takes seconds, of every status that somebody looks at."""
    works = (
        "launch.arrays.answers", "launch.arrays.shards", "launch.checkup.doctor",
        "launch.runs.checkpoints", "launch.runs.follower", "launch.runs.overview",
        "launch.training.start",
    )  # fmt: skip
    heavy = ("torch", "tensorboard", "datasets", "pyarrow", "transformers", "matplotlib")

    said = subprocess.check_output(
        [sys.executable, "-c",
         f"import sys, {', '.join(works)}; print(sorted(set({heavy!r}) & set(sys.modules)))"],
        cwd=REPO, env=environment(), text=True,
    )  # fmt: skip

    assert said == "[]\n"


@pytest.mark.parametrize("name", ["finetune", "demo", "checkpoints"])
def test_unknown_flag_ends_a_command_with_code_2(name: str, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(REPO / "launch" / f"{name}.py"), "--nonsense"],
        cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip

    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.startswith("error: ")
    assert said.stderr.count("\n") == 1


def test_help_comes_where_python_leaves_docstrings_out() -> None:
    command = [sys.executable, "-OO", str(REPO / "launch" / "status.py"), "--help"]

    said = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    assert (said.returncode, said.stderr) == (0, "")
    assert "--watch" in said.stdout
