"""
Whether every file and every function still fits in a head: part of `make check`.

    python -m tests.sizes

A file over 300 lines has a second job in it, a function over 50 a second thought. A family of models
alone may be longer: a model in one file is a virtue.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAY_BE_LONGER = ("instruct_core/model/gpt2.py", "instruct_core/model/llama.py")
PACKAGES = ("launch", "jobs", "instruct_core", "bench", "tests")
REPO = Path(__file__).resolve().parent.parent


def too_long(name: str, text: str) -> Iterator[str]:
    """Yield a line for a file that is too long, and for each of its functions that is."""
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES and name not in MAY_BE_LONGER:
        yield f"{name} has {lines} lines, at most {MAX_FILE_LINES}: look for its second job."
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                where = f"{name}:{node.lineno}"
                yield f"{where} {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}."


def main() -> int:
    found = [
        line
        for package in PACKAGES
        for path in sorted((REPO / package).rglob("*.py"))
        for line in too_long(str(path.relative_to(REPO)), path.read_text())
    ]
    for line in found:
        sys.stderr.write(f"{line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
