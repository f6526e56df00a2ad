"""
Real text without a network: the `builtin` dataset.

Two sources that a Python installation has at hand: the English question/answer pairs of PyPI's
`chatterbot-corpus` (BSD), and the docstrings of the standard library's public functions and
classes, read from its source files without importing them. Where a question has several answers,
the first one counts, so that a model can learn the set by heart. The pairs come first: they are
short, which suits quick looks with --limit-rows.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import yaml

from instruct_core.errors import MissingError


class Row(NamedTuple):
    """A row in Alpaca's columns."""

    instruction: str
    input: str
    output: str


def builtin_rows() -> Iterator[Row]:
    """
    Yield about 2,500 rows, always in the same order for one Python and one corpus version.

    Raises:
        MissingError: `chatterbot-corpus` is not installed.
    """
    yield from _chatterbot_rows()
    yield from _docstring_rows()


def _chatterbot_rows() -> Iterator[Row]:
    spec = find_spec("chatterbot_corpus")  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise MissingError(
            "Dataset builtin needs package chatterbot-corpus. Install it: pip install chatterbot-corpus"
        )
    asked: set[str] = set()
    for path in sorted((Path(spec.origin).parent / "data" / "english").glob("*.yml")):
        content = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        for question, answer, *_ in content["conversations"]:
            key = str(question).strip().lower()
            if key not in asked and str(answer).strip():
                asked.add(key)
                yield Row(str(question).strip(), "", str(answer).strip())


def _docstring_rows() -> Iterator[Row]:
    library = Path(sysconfig.get_path("stdlib"))
    for module in sorted(sys.stdlib_module_names):
        path = library / f"{module}.py"
        if not path.is_file():
            path = library / module / "__init__.py"
        if path.is_file() and not module.startswith("_"):
            yield from _docstrings_of(module, ast.parse(path.read_bytes()))


def _docstrings_of(module: str, tree: ast.Module) -> Iterator[Row]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = f"{module}.{node.name}"
        if text := _summary(node):
            yield Row(f"What does `{name}` do in Python?", "", text)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if not isinstance(member, ast.FunctionDef) or member.name.startswith("_"):
                    continue
                if text := _summary(member):
                    yield Row(f"What does `{name}.{member.name}` do in Python?", "", text)


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Return the docstring's first paragraph on one line."""
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    return " ".join(docstring.split("\n\n")[0].split())
