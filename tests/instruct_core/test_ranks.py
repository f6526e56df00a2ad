"""What ranks exchange, and what an exchange may not leave to the last moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from instruct_core import ranks
from tests.conftest import HANGS_SECONDS
from tests.forked_ranks import in_ranks

VALUES = [None, "a word", {"numbers": list(range(300))}]

EXCHANGE = """
import sys, weakref
import torch
import torch.distributed as dist
from instruct_core import ranks

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
make = torch.tensor

def watched(*arguments, **more):
    tensor = make(*arguments, **more)
    weakref.finalize(tensor, print, "freed").atexit = False
    return tensor

torch.tensor = watched
assert ranks.sum_over_ranks([2.0]) == [2.0] and ranks.gather_from_ranks("x") == ["x"]
dist.destroy_process_group()
print("ends")
"""


def test_values_of_all_ranks_come_in_their_order() -> None:
    def exchange(rank: int) -> list[Any]:
        return [ranks.gather_from_ranks(VALUES[rank]), ranks.sum_over_ranks([1.0, rank])]

    assert in_ranks(3, exchange) == [[VALUES, [3.0, 3.0]]] * 3


def test_value_that_would_have_to_be_unpickled_is_not_sent() -> None:
    def exchange(_rank: int) -> str:
        try:
            return str(ranks.gather_from_ranks(Path("/")))
        except TypeError as error:
            return str(error)

    assert all("is not JSON serializable" in said for said in in_ranks(2, exchange))
    assert "is not JSON serializable" in exchange(0)


def test_one_rank_gets_its_value_as_many_would() -> None:
    assert ranks.gather_from_ranks(("é\udcff", None, 0.1 + 0.2, [])) == [
        ["é\udcff", None, 0.1 + 0.2, []]
    ]


def test_no_exchange_is_freed_while_the_process_ends(tmp_path: Path) -> None:
    """A thread of gloo that frees one then aborts the process: a finished rank has crashed."""
    command = [sys.executable, "-c", EXCHANGE, str(tmp_path / "meeting")]

    result = subprocess.run(
        command, capture_output=True, text=True, timeout=HANGS_SECONDS, check=False
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout == "ends\n"
