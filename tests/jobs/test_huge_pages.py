"""Whatever answers has torch ask for huge pages, unless the person has said otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from jobs.environment import ask_for_huge_pages

VARIABLE = "THP_MEM_ALLOC_ENABLE"


def test_variable_is_one_that_this_torch_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)

    ask_for_huge_pages()

    assert os.environ[VARIABLE] == "1"
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    assert VARIABLE.encode() in library.read_bytes()


def test_word_of_the_person_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")

    ask_for_huge_pages()

    assert os.environ[VARIABLE] == "0"
