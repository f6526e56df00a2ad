"""Text is UTF-8 whatever the locale says: everything that opens a file or a pipe as text says so."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from instruct_core.data.set_manifest import load_manifest
from instruct_core.storage.store import Store
from launch.dialogue.dialogue import Dialogue
from launch.dialogue.terminal import talk
from tests.conftest import HANGS_SECONDS, REPO, environment

PACKAGES = ("launch", "jobs", "instruct_core", "bench")
OPENERS = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"}
PIPES = {"run", "Popen", "check_output"}


def places_without_encoding(tree: ast.AST) -> Iterator[int]:
    """Yield the lines of calls that decode or encode text as the locale would have it."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            keywords = {keyword.arg for keyword in call.keywords}
            if "encoding" not in keywords and _is_text(name, call, keywords):
                yield call.lineno


def _is_text(name: str, call: ast.Call, keywords: set[str | None]) -> bool:
    if name in ("read_text", "write_text"):
        return True
    if name in PIPES:
        return "text" in keywords
    if name not in OPENERS or _is_of(call, ("os", "fs", "fsspec", "mmap", "webbrowser", "opener")):
        return False
    modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
    mode = next(
        (text for text in texts if isinstance(text, str) and set(text) <= set("rwxab+t")), ""
    )
    return "b" not in mode and (bool(mode) or name in ("open", "fdopen"))


def _is_of(call: ast.Call, owners: tuple[str, ...]) -> bool:
    owner = getattr(call.func, "value", None)
    return isinstance(owner, ast.Name) and owner.id.removeprefix("_") in owners


def test_everything_that_opens_text_names_its_encoding() -> None:
    found = [
        f"{path.relative_to(REPO)}:{line}"
        for package in PACKAGES
        for path in sorted((REPO / package).rglob("*.py"))
        for line in places_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert not found


def test_questions_of_a_pipe_are_read_in_a_locale_without_utf_8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    dialogue = SimpleNamespace(is_over=False, take=asked.append)
    pipe = io.TextIOWrapper(io.BytesIO("Grüß 日本\nb\n".encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", pipe)

    assert talk(cast("Dialogue", dialogue)) == 0

    assert asked == ["Grüß 日本", "b"]


def test_shards_are_the_same_in_a_locale_without_utf_8(tmp_path: Path) -> None:
    rows = [{"instruction": f"Grüß {k}", "input": "", "output": "€ 🙂 né"} for k in range(40)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, str(REPO / "launch/preprocess.py"), "--source=rows.jsonl"]

    for out, locale in (("here", {}), ("there", ascii_only)):
        subprocess.run(
            [*command, f"--out={out}"], cwd=tmp_path, env=environment() | locale, check=True,
            timeout=HANGS_SECONDS,
        )  # fmt: skip

    here, there = (load_manifest(Store(tmp_path / out)) for out in ("here", "there"))
    assert here.train_rows == 38
    assert here == there
