"""Reading what a cluster offers."""

from __future__ import annotations

import pytest

from instruct_core.errors import ConfigError
from launch.cluster.partition import Node, gpus_in, kind_in, minutes_of
from launch.cluster.request import lead_of, nodes_that_fit, share_of
from launch.cluster.script import array_text
from launch.flags.slurm import SlurmFlags


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu:3090:8", 8),
        ("gpu:2080ti:4", 4),
        ("gpu:1g.5gb:14,gpu:a100:2(S:0)", 16),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2,gpu:t4:1,mps:200", 3),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1),shard:16", 8),
    ],
)
def test_gpus_are_counted(gres: str, expected: int) -> None:
    assert gpus_in(gres) == expected


@pytest.mark.parametrize(
    ("gres", "gigabytes", "has_bf16"),
    [
        ("(null)", None, True),
        ("gpu:4", None, True),
        ("gpu:a100:4", None, True),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1),shard:16", 80, True),
        ("gpu:1g.5gb:14,gpu:A100_40GB:2", 5, True),
        ("gpu:1g.5gb:14,gpu:a100:2", None, True),
        ("gpu:tesla_v100-sxm2-32gb:4", 32, False),
        ("gpu:t4:1", None, False),
        ("gpu:rtx_2080ti:4,gpu:a100:1", None, False),
        ("gpu:rtx3090:4", None, True),
    ],
)
def test_names_of_gpus_tell_their_memory_and_that_old_ones_have_no_bf16(
    gres: str, gigabytes: int | None, has_bf16: bool
) -> None:
    assert kind_in(gres) == (gigabytes and gigabytes * 10**9, has_bf16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("UNLIMITED", None), ("30:00", 30), ("02:00:00", 120), ("1-00:00:00", 1440), ("00:00:30", 1)],
)
def test_time_limits_are_read(text: str, expected: int | None) -> None:
    assert minutes_of(text) == expected


def test_array_is_written_as_ranges() -> None:
    assert array_text([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert array_text([5]) == "5"


def test_lead_follows_what_was_measured_and_leaves_time_to_train() -> None:
    assert lead_of(1440, None, 0.0) == 120
    assert lead_of(1440, None, 300.2) == 301
    assert lead_of(5, None, 0.0) == 60
    assert lead_of(5, 250, 0.0) == 250


NODES = [
    Node("node1", cores=16, memory_mb=64_000, gpus=4, features=()),
    Node("node2", cores=8, memory_mb=16_000, gpus=2, features=()),
    Node("node3", cores=4, memory_mb=8_000, gpus=0, features=()),
]


@pytest.mark.parametrize(
    ("ranks", "wants_gpus", "expected"),
    [
        (1, True, ["node1", "node2"]),
        (4, True, ["node1"]),
        (8, False, ["node1", "node2", "node3"]),
    ],
)
def test_nodes_with_enough_gpus_fit(ranks: int, wants_gpus: bool, expected: list[str]) -> None:
    assert [n.name for n in nodes_that_fit(NODES, ranks, wants_gpus, "low")] == expected


def test_ranks_run_on_cores_where_no_node_has_gpus() -> None:
    nodes = [node._replace(gpus=0) for node in NODES]

    assert [node.name for node in nodes_that_fit(nodes, 6, True, "low")] == ["node1", "node2"]


@pytest.mark.parametrize(
    ("nodes", "where"), [(NODES, "a node"), (NODES[2:], "the cores of a node")]
)
def test_more_ranks_than_any_node_has_room_for_are_refused(nodes: list[Node], where: str) -> None:
    with pytest.raises(ConfigError, match=f"--gpus must be at most 4 in {where} of partition low"):
        nodes_that_fit(nodes, 5, True, "low")


@pytest.mark.parametrize(
    ("ranks", "wants_gpus", "flags", "expected"),
    [
        (2, True, SlurmFlags(), (2, 4, 16_000)),  # of the node with the least memory a core
        (2, True, SlurmFlags(cpus_per_task=1), (2, 1, 4_000)),
        (1, False, SlurmFlags(), (0, 1, 2_000)),
        (1, False, SlurmFlags(mem=3), (0, 1, 3 * 1024)),
    ],
)
def test_share_goes_with_the_ranks(
    ranks: int, wants_gpus: bool, flags: SlurmFlags, expected: tuple[int, int, int]
) -> None:
    nodes = nodes_that_fit(NODES, ranks, wants_gpus, "low")

    assert share_of(nodes, flags, ranks, wants_gpus, "low") == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (SlurmFlags(cpus_per_task=9), "--cpus-per-task must be at most 8 for 2 ranks"),
        (SlurmFlags(mem=63), "--mem must be at most 62.5 GB in partition low, got 63"),
    ],
)
def test_more_than_a_node_has_is_refused(flags: SlurmFlags, message: str) -> None:
    nodes = nodes_that_fit(NODES, 2, True, "low")

    with pytest.raises(ConfigError, match=message):
        share_of(nodes, flags, 2, True, "low")
