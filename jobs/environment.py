"""
Numbers out of the environment, which people and sites fill in as they like, a word for torch in it, and
how torch is loaded.

    number_in("OMP_NUM_THREADS", 4)      # 4 where it is empty or no number; 8 where it says "8,2"
    with loading():
        import torch
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

NOTIFY = "INSTRUCT_CLUSTER_NOTIFY"  # where a run tells how it goes: a URL, or a file with one
# Where files of a bucket are kept on a node: instruct_core/storage/cache.py.
CACHE = "INSTRUCT_CACHE"


def number_in(name: str, default: int) -> int:
    """Return the first whole number that a variable begins with, or the default where it has none."""
    found = re.match(r"\s*\+?(\d{1,9})(?![\w.])", os.environ.get(name, ""))
    return int(found[1]) if found else default


def ask_for_huge_pages() -> None:
    """
    Have torch ask for huge pages from its first tensor on, unless the person has said otherwise.

    Weights are read faster from them, which is what a token waits for; a training step gains nothing. See
    "Huge pages" in docs/performance.md. Source: c10's alloc_cpu.cpp.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def loading() -> Iterator[None]:
    """
    Import what is large without looking for garbage meanwhile, nor in what was loaded ever after.

    Modules stay for good, and torch's are half a million objects: they were gone through again and again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
