"""What an attempt runs on is kept, and what has changed is told: apart what may alter bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instruct_core.config import TrainConfig
from instruct_core.storage.store import Store
from jobs.surroundings import Place, changes, note_surroundings, surroundings

CONFIG = TrainConfig("r", "s", "c", "t", "random", "tiny", "f")
PLACES = [Place(7, "node1", ""), Place(8, "node2", "")]


def around(**facts: Any) -> dict[str, Any]:
    return surroundings(CONFIG, PLACES, "0f3c", "usual") | facts


def test_surroundings_have_all_that_a_reason_may_be_looked_for_in() -> None:
    found = around()

    assert found["hosts"] == ["node1", "node2"]
    assert (found["world_size"], found["git_commit"]) == (2, "0f3c")
    assert found["torch"].startswith(found["libraries"]["torch"].partition("+")[0])
    assert {"numpy", "submitit", "fsspec"} <= set(found["libraries"])


def test_attempt_that_goes_on_as_before_has_nothing_to_tell() -> None:
    assert changes(around(), around()) is None


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("torch", "2.13.0", "2.14.0"),
        ("gpus", ["NVIDIA A100"], ["NVIDIA H100"]),
        ("world_size", 4, 2),
        ("products", "oneDNN", "usual"),
        ("libraries", {"numpy": "2.2"}, {"numpy": "2.3"}),
        ("libraries", {}, {"triton": "3.5"}),
    ],
)
def test_change_that_may_alter_bits_is_told_as_that(name: str, before: Any, now: Any) -> None:
    changed = changes(around(**{name: before}), around(**{name: now}))

    assert changed is not None
    assert len(changed.may_alter_bits) == 1
    assert "this may alter bits" in str(changed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shard": "full"}, "parts 1 -> 2"),
        ({"micro_batch_size": 4}, "micro_batch_size 8 -> 4"),
        ({"compile": True}, "compile False -> True"),
    ],
)
def test_setting_that_orders_sums_is_told_where_it_differs(
    change: dict[str, Any], told: str
) -> None:
    changed = changes(around(), surroundings(replace(CONFIG, **change), PLACES, "0f3c", "usual"))

    assert str(changed) == f"{told}, since the last attempt: this may alter bits"


def test_setting_that_nobody_kept_before_is_no_change() -> None:
    earlier = {name: value for name, value in around().items() if name != "parts"}

    assert changes(earlier, around(parts=2)) is None


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("driver", "570.1", "580.2"),
        ("hosts", ["node1"], ["node3", "node4"]),
        ("slurm", "slurm 22.05.8", "slurm 24.11.0"),
        ("git_commit", "0f3c", "77aa"),
        ("libraries", {"rich": "14.0"}, {"rich": "14.1"}),
    ],
)
def test_other_change_is_told_without_alarm(name: str, before: Any, now: Any) -> None:
    changed = changes(around(**{name: before}), around(**{name: now}))

    assert changed is not None
    assert changed.may_alter_bits == []
    assert len(changed.what) == 1


def test_attempt_is_compared_with_the_one_before_it(tmp_path: Path) -> None:
    runs = Store(tmp_path)

    assert note_surroundings(runs, 0, around()) is None
    assert note_surroundings(runs, 2, around(torch="1.0")) is not None
    assert note_surroundings(runs, 3, around(torch="1.0")) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"libraries": 3}', b"[" * 100_000])
def test_what_cannot_be_read_of_the_attempt_before_ends_nothing(
    tmp_path: Path, content: bytes
) -> None:
    runs = Store(tmp_path)
    runs.replace("surroundings-0000.json", content or b" ")

    note_surroundings(runs, 1, around())

    assert runs.exists("surroundings-0001.json")
