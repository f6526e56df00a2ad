"""
Ranks of one machine for a test: forked, so that they start in milliseconds, and joined by gloo.

    results = in_ranks(4, lambda rank: ranks.sum_over_ranks([rank]))
"""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.conftest import HANGS_SECONDS

TIMEOUT = timedelta(seconds=HANGS_SECONDS)


def in_ranks(world_size: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(rank)`` on so many ranks, and return what each returned, as JSON has it."""
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(Path(folder), rank, world_size, work) for rank in range(world_size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * world_size, f"ranks ended with {codes}"
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(world_size)]


def _fork(folder: Path, rank: int, world_size: int, work: Callable[[int], Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "meet"), world_size)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=world_size, timeout=TIMEOUT
        )
        dist.barrier()  # a work that talks to nobody would end while others still connect to it
        Path(folder, str(rank)).write_text(json.dumps(work(rank)))
        dist.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)
