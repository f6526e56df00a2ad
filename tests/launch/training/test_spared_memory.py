"""Where not one sequence fits: layers that are recomputed, and a model shared out over its ranks."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest

from instruct_core.config import PRESETS, TrainConfig
from instruct_core.errors import ConfigError
from launch.cluster.machine import Machine
from launch.training.micro_batch import Ranks, fit
from tests.launch.training.test_micro_batch import CORES, GPUS, fitted, had, settings

MEMORIES = (4, 7, 10, 14, 18, 24, 28, 60, 180)  # in GB; from 60 on of a node without GPUs


@pytest.mark.parametrize(
    ("machine", "typed", "kept", "expected"),
    [
        (40, None, None, ("off", 4)),  # a smaller micro-batch is faster than layers computed twice
        (28, 1, None, ("on", 1)),
        (28, None, None, ("on", 1)),
        (28, None, 4, ("on", 1)),
        (32, None, 8, ("off", 1)),  # begun without, goes on without while anything fits
        (80, None, 1, ("off", 1)),  # begun with it on smaller ones
        (None, 32, None, ("off", 32)),  # nobody knows their memory
        (CORES._replace(memory_bytes=10**12), 8, None, ("off", 8)),
    ],
)
def test_layers_are_recomputed_on_gpus_where_a_step_does_not_fit_without(
    machine: int | Machine | None, typed: int | None, kept: int | None, expected: tuple[str, int]
) -> None:
    """gpt2-xl, whose state takes 25 GB."""
    config = settings(precision="bf16", activation_checkpointing="auto")
    if not isinstance(machine, Machine):
        machine = GPUS._replace(gpu_bytes=machine and machine * 10**9)

    chosen = fit(config, Ranks(1, 1), PRESETS["gpt2-xl"], machine, typed, had(kept))

    settled = chosen.config.activation_checkpointing, chosen.config.micro_batch_size
    assert settled == expected
    told = "with activation checkpointing (without it not one sequence fits)"
    assert chosen.why.endswith(told) == (expected[0] == "on")
    assert ("activation checkpointing" in chosen.why) == (expected[0] == "on")


def test_typed_activation_checkpointing_is_taken_or_advised() -> None:
    small = GPUS._replace(gpu_bytes=28 * 10**9)
    on, off, auto = (
        settings(precision="bf16", activation_checkpointing=it) for it in ("on", "off", "auto")
    )

    taken = fit(on, Ranks(1, 1), PRESETS["tiny"], CORES, None, None)
    assert (taken.config.activation_checkpointing, taken.why) == (
        "on",
        "with activation checkpointing",
    )
    for typed, change in (
        (1, "Use --activation-checkpointing on, or GPUs"),
        (8, "Use --activation-checkpointing on --micro-batch-size 1, or GPUs"),
    ):
        with pytest.raises(ConfigError, match=change):
            fitted(off, Ranks(1, 1), small, typed, None, "gpt2-xl")
    for config in (on, auto):
        with pytest.raises(
            ConfigError, match=r"8 and activation checkpointing would .* Use --micro-batch-size 1\."
        ):
            fitted(config, Ranks(1, 1), small, 8, None, "gpt2-xl")
    with pytest.raises(
        ConfigError,
        match=r"1 and activation checkpointing would need about 27 GB, and 24 GB .* Use 2 GPUs with",
    ):
        fitted(auto, Ranks(1, 1), GPUS._replace(gpu_bytes=24 * 10**9), None, None, "gpt2-xl")
    with pytest.raises(ConfigError, match="Use --activation-checkpointing on, or fewer --gpus"):
        fitted(auto, Ranks(1, 1), CORES._replace(memory_bytes=49 * 10**9), 1, None, "gpt2-xl")


@pytest.mark.parametrize(
    ("gigabytes", "number", "changes", "expected"),
    [
        (40, 4, {}, ("off", "none")),
        (28, 4, {}, ("on", "none")),  # layers computed twice cost no exchange
        (28, 4, {"activation_checkpointing": "off"}, ("off", "full")),
        (24, 4, {}, ("off", "full")),
        (7, 8, {}, ("on", "full")),
        (7, 8, {"shard": "full"}, ("on", "full")),
        (80, 4, {"shard": "full"}, ("off", "full")),
        (80, 1, {"shard": "full"}, ("off", "full")),  # of one rank, which has it all
        (None, 4, {}, ("off", "none")),  # nobody knows their memory
    ],
)
def test_model_is_shared_out_where_not_one_sequence_fits_otherwise(
    gigabytes: int | None, number: int, changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    """gpt2-xl, whose state takes 25 GB."""
    asked = settings(
        **{"precision": "bf16", "activation_checkpointing": "auto", "shard": "auto"} | changes
    )
    machine = GPUS._replace(gpu_bytes=gigabytes and gigabytes * 10**9)

    chosen = fit(asked, Ranks(1, number), PRESETS["gpt2-xl"], machine, None, None)

    config = chosen.config
    assert (config.activation_checkpointing, config.shard) == expected
    assert (f"with the model in {number} parts" in chosen.why) == (
        expected[1] == "full" and number > 1
    )
    alone = "this one has the model whole"
    assert (alone in chosen.why) == (changes.get("shard") == "full" and number == 1)
    was_open = "(without it not one sequence fits)" in chosen.why
    assert was_open == (
        (expected[0] == "on" and "activation_checkpointing" not in changes)
        or (expected[1] == "full" and "shard" not in changes)
    )


def test_run_in_parts_stays_so_when_more_memory_is_free_and_what_was_typed_counts() -> None:
    """Memory that others use comes and goes, and the order of sums would with it."""
    roomy, full = GPUS._replace(gpu_bytes=80 * 10**9), GPUS._replace(gpu_bytes=24 * 10**9)
    auto = settings(precision="bf16", activation_checkpointing="auto", shard="auto")
    begun = settings(shard="full")

    def chosen(asked: TrainConfig, machine: Machine, number: int = 4) -> tuple[str, str]:
        config, why = fit(asked, Ranks(1, number), PRESETS["gpt2-xl"], machine, None, begun)
        return config.shard, why[why.find("with ") :]

    stays = "with the model in 4 parts as so far (--shard none has it whole)"
    assert chosen(auto, roomy) == ("full", stays)
    reason = " (without it not one sequence fits)"
    assert chosen(auto, full) == ("full", f"with the model in 4 parts{reason}")
    assert chosen(auto, roomy._replace(gpu_bytes=None)) == ("full", stays)
    assert chosen(auto, roomy, number=1) == ("none", "")
    assert chosen(replace(auto, shard="none"), roomy) == ("none", "")
    assert chosen(replace(auto, shard="full"), roomy) == ("full", "with the model in 4 parts")
    assert chosen(auto, CORES) == ("none", "")
    with pytest.raises(ConfigError, match="checkpointing and the model in 4 parts would need"):
        chosen(auto, GPUS._replace(gpu_bytes=2 * 10**9))


def test_one_rank_is_told_of_both_that_was_typed() -> None:
    asked = settings(shard="full", activation_checkpointing="on")

    why = fit(asked, Ranks(1, 1), PRESETS["tiny"], CORES, None, None).why

    assert why == (
        "with activation checkpointing and with --shard full, which takes two ranks or more: this one "
        "has the model whole"
    )


def test_sharing_out_is_advised_where_it_would_do() -> None:
    shut = {"precision": "bf16", "activation_checkpointing": "off", "shard": "none"}
    for gigabytes, ranks, changes, change in (
        (24, 4, {}, "Use --shard full, or GPUs"),
        (7, 8, {}, "Use --activation-checkpointing on --shard full, or GPUs"),
        (24, 1, {"shard": "auto"}, "Use 2 GPUs with --shard full, or GPUs with more"),
        (24, 1, {"compile": True}, "Use 2 GPUs with --no-compile --shard full, or GPUs"),
        (7, 2, {}, "Use 7 GPUs with --activation-checkpointing on --shard full, or GPUs with"),
        (
            7,
            2,
            {"shard": "full", "activation_checkpointing": "on"},
            "Use 7 GPUs, or GPUs with more",
        ),
        (24, 4, {"compile": True}, "Use --no-compile --shard full, or GPUs"),
        (2, 8, {"shard": "full"}, r"1 and the model in 8 parts would need .* Use GPUs with more"),
    ):
        machine = GPUS._replace(gpu_bytes=gigabytes * 10**9)
        with pytest.raises(ConfigError, match=change):
            fitted(settings(**shut | changes), Ranks(1, ranks), machine, None, None, "gpt2-xl")
    advised = settings(**shut | {"activation_checkpointing": "on", "shard": "full"})
    machine = GPUS._replace(gpu_bytes=7 * 10**9)
    assert fitted(advised, Ranks(1, 7), machine, None, None, "gpt2-xl") == 1
    with pytest.raises(ConfigError, match="Use 7 GPUs, or"):
        fitted(advised, Ranks(3, 2), machine, None, None, "gpt2-xl")
    cores = CORES._replace(memory_bytes=60 * 10**9)
    with pytest.raises(ConfigError, match="Use --shard full, or fewer --gpus"):
        fitted(settings(**shut | {"precision": "fp32"}), Ranks(1, 4), cores, 1, None, "gpt2-large")


def test_advice_is_enough_whatever_was_typed_and_left_open() -> None:
    """gpt2-xl on GPUs and CPUs of many sizes: who does what is said first is not told to do more."""
    ways = itertools.product(
        ("auto", "on", "off"), ("auto", "none", "full"), (False, True), (1, 4), (None, 4)
    )
    taken = 0
    for (again, shard, compiled, number, typed), memory in itertools.product(ways, MEMORIES):
        if compiled and shard == "full":
            continue
        machine = GPUS._replace(gpu_bytes=memory * 10**9)
        if memory > 40:
            machine = CORES._replace(memory_bytes=memory * 10**9)
        kinds = {"activation_checkpointing": again, "shard": shard, "compile": compiled}
        asked = settings(precision="bf16", **kinds)
        try:
            fit(asked, Ranks(1, number), PRESETS["gpt2-xl"], machine, typed, None)
        except ConfigError as error:
            advice = str(error).partition("Use ")[2].partition(", or ")[0]
            if "more memory" in advice or "--gpus" in advice:
                continue
            taken += 1
            gpus, size = (re.search(how, advice) for how in (r"^(\d+) GPUs", r"size (\d+)"))
            ranks = Ranks(1, int(gpus[1]) if gpus else number)
            again_typed = int(size[1]) if size else typed
            fit(as_advised(asked, advice), ranks, PRESETS["gpt2-xl"], machine, again_typed, None)
    assert taken > 100


def as_advised(asked: TrainConfig, advice: str) -> TrainConfig:
    changes: dict[str, Any] = {"compile": False} if "--no-compile" in advice else {}
    changes |= {"shard": "full"} if "--shard full" in advice else {}
    on = {"activation_checkpointing": "on"} if "--activation-checkpointing on" in advice else {}
    return replace(asked, **changes, **on)
