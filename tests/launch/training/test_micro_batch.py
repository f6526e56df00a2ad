"""How a step is divided over ranks where nobody said how, and what is advised where it cannot be."""

from __future__ import annotations

import re

import pytest

from instruct_core.config import PRESETS, TrainConfig
from instruct_core.errors import ConfigError
from launch.cluster.machine import Machine
from launch.training.fit import GPU_PROCESS_BYTES, gpu_bytes
from launch.training.micro_batch import Ranks, fit

GPUS = Machine(8, 64, 1 << 40, "this machine")
CORES = GPUS._replace(num_gpus=0)
IDENTITY = ("--tokens-per-step", "--seq-len", "--model", "--precision")


def settings(**changes: object) -> TrainConfig:
    places = {name: name for name in ("run", "shards", "checkpoints", "runs", "init")}
    return TrainConfig(**places, model="gpt2", data_fingerprint="f", **changes)  # type: ignore[arg-type]


def had(kept: int | None) -> TrainConfig | None:
    """Return the settings of a run that has saved with a micro-batch."""
    return None if kept is None else settings(micro_batch_size=kept)


def fitted(
    config: TrainConfig, ranks: Ranks, machine: Machine, typed: int | None, kept: int | None,
    model: str = "gpt2",
) -> int:  # fmt: skip
    return fit(config, ranks, PRESETS[model], machine, typed, had(kept)).config.micro_batch_size


@pytest.mark.parametrize("machine", [GPUS, CORES])
@pytest.mark.parametrize(
    ("tokens", "ranks", "expected"),
    [
        (65536, Ranks(1, 1), 8),
        (65536, Ranks(1, 8), 8),
        (65536, Ranks(2, 8), 4),
        (65536, Ranks(8, 8), 1),
        (98304, Ranks(1, 6), 8),
        (98304, Ranks(1, 8), 6),
        (40960, Ranks(1, 5), 8),
        (7168, Ranks(1, 1), 7),
    ],
)
def test_micro_batch_that_nobody_typed_fits_the_ranks(
    machine: Machine, tokens: int, ranks: Ranks, expected: int
) -> None:
    config = settings(tokens_per_step=tokens)

    chosen = fit(config, ranks, PRESETS["tiny"], machine, typed=None, begun=None)

    assert chosen.config.micro_batch_size == expected
    assert chosen.config.grad_accum_steps(ranks.world_size) >= 1
    assert bool(chosen.why) == (expected != 8)


def test_micro_batch_is_kept_on_a_resume_while_it_fits_and_chosen_anew_when_it_does_not() -> None:
    config = settings(tokens_per_step=256, seq_len=64)

    assert fitted(config, Ranks(1, 1), CORES, typed=None, kept=2) == 2
    assert fitted(config, Ranks(1, 2), CORES, typed=None, kept=4) == 2
    changed = fit(config, Ranks(1, 4), PRESETS["tiny"], CORES, typed=None, begun=had(4))
    assert changed.config.micro_batch_size == 1
    assert changed.why.startswith("instead of 4 so far, the largest that fits")


@pytest.mark.parametrize(
    ("machine", "sequences", "ranks", "expected"),
    [
        (CORES, 64, Ranks(1, 3), 8),  # 22 at most: 6, 8 and 8
        (CORES, 64, Ranks(1, 5), 7),  # 13: 6 and 7
        (CORES, 64, Ranks(2, 3), 6),
        (CORES, 64, Ranks(1, 7), 5),
        (CORES, 4, Ranks(1, 3), 2),
        (CORES, 11, Ranks(1, 1), 6),  # 11 micro-batches of 1 would be the ones that are all filled
        (CORES, 9, Ranks(1, 1), 5),
        (GPUS._replace(gpu_bytes=140 * 10**9), 64, Ranks(1, 3), 22),
        (GPUS._replace(gpu_bytes=140 * 10**9), 67, Ranks(1, 1), 23),
    ],
)
def test_micro_batches_that_cannot_all_be_filled_are_few_and_of_about_one_size(
    machine: Machine, sequences: int, ranks: Ranks, expected: int
) -> None:
    config = settings(tokens_per_step=sequences * 64, seq_len=64)

    assert fitted(config, ranks, machine, typed=None, kept=None, model="tiny") == expected


@pytest.mark.parametrize(("typed", "kept"), [(3, None), (3, 4), (100, None), (None, 3), (None, 7)])
def test_micro_batch_that_does_not_divide_is_taken_as_typed_and_kept_on_a_resume(
    typed: int | None, kept: int | None
) -> None:
    """Of 64 sequences each of five ranks takes 12 or 13."""
    config = settings(tokens_per_step=4096, seq_len=64)

    assert fitted(config, Ranks(1, 5), CORES, typed, kept, "tiny") == (typed or kept)


@pytest.mark.parametrize("kept", [None, 4])
@pytest.mark.parametrize("typed", [None, 3, 4])
@pytest.mark.parametrize("ranks", [Ranks(1, 17), Ranks(17, 1), Ranks(3, 6), Ranks(17, 17)])
def test_advice_is_taken_and_changes_nothing_that_a_run_keeps_for_life(
    ranks: Ranks, typed: int | None, kept: int | None
) -> None:
    config = settings(tokens_per_step=1024, seq_len=64)
    with pytest.raises(ConfigError, match=r"There must be at most 16 ranks, .* Use ") as refused:
        fit(config, ranks, PRESETS["tiny"], GPUS, typed, had(kept))
    advice = str(refused.value).partition("Use ")[2]

    flags = dict(re.findall(r"(--[a-z-]+) (\d+)", advice.partition(" or --tokens")[0]))

    assert flags
    if kept is not None:
        assert not any(flag in advice for flag in IDENTITY)
    again = Ranks(int(flags.get("--nodes", ranks.nodes)), int(flags.get("--gpus", ranks.per_node)))
    assert again.world_size in range(15, 17), "as many as may be"
    fit(config, again, PRESETS["tiny"], GPUS, typed, had(kept))
    if kept is None:
        enough = settings(tokens_per_step=int(advice.split()[-1].rstrip(".")), seq_len=64)
        fit(enough, ranks, PRESETS["tiny"], GPUS, typed, had(kept))


@pytest.mark.parametrize(
    ("micro_batch_size", "measured_gb"), [(8, 6.5), (16, 9.3), (32, 15.0), (64, 26.2)]
)
def test_estimate_of_a_gpus_memory_is_what_was_measured(
    micro_batch_size: int, measured_gb: float
) -> None:
    """The table of docs/performance.md, gpt2 with sequences of 1,024 in bf16 on an H200."""
    estimate = gpu_bytes(PRESETS["gpt2"], micro_batch_size * 1024, "bf16") - GPU_PROCESS_BYTES

    assert estimate / 1e9 == pytest.approx(measured_gb, rel=0.03)


def test_micro_batch_fits_the_memory_of_the_gpus() -> None:
    """gpt2-xl on cards of 40 GB, and of 24 GB, where not even its state fits."""
    config = settings(precision="bf16")
    small, smaller = (GPUS._replace(gpu_bytes=size * 10**9) for size in (40, 24))

    assert fitted(config, Ranks(1, 8), GPUS, None, None, "gpt2-xl") == 8
    assert fitted(config, Ranks(1, 8), small, None, None, "gpt2-xl") == 4
    with pytest.raises(
        ConfigError, match=r"need about 51 GB, and 40 GB .* Use --micro-batch-size 4\."
    ):
        fitted(config, Ranks(1, 8), small, 8, None, "gpt2-xl")
    with pytest.raises(
        ConfigError, match="Use --shard full, or GPUs with more memory, or a smaller --model"
    ):
        fitted(config, Ranks(1, 8), smaller, None, None, "gpt2-xl")
    with pytest.raises(ConfigError, match=r"Use --shard full, or GPUs with more memory\.$"):
        fitted(config, Ranks(1, 8), smaller, None, 4, "gpt2-xl")


@pytest.mark.parametrize(
    ("gigabytes", "ranks", "expected"),
    [
        (140, Ranks(1, 1), 32),
        (80, Ranks(1, 2), 32),
        (80, Ranks(1, 4), 16),  # the ranks share 64 sequences
        (80, Ranks(1, 8), 8),
        (24, Ranks(1, 1), 32),
        (16, Ranks(1, 1), 16),  # 15 GB would do for 32, and be too near
        (12, Ranks(1, 1), 8),
        (6, Ranks(1, 1), 4),
    ],
)
def test_micro_batch_fills_gpus_whose_memory_is_known(
    gigabytes: int, ranks: Ranks, expected: int
) -> None:
    machine = GPUS._replace(gpu_bytes=gigabytes * 10**9)

    chosen = fit(settings(precision="bf16"), ranks, PRESETS["gpt2"], machine, None, None)

    assert chosen.config.micro_batch_size == expected
    assert ("fills the GPUs of this machine" in chosen.why) == (expected > 8)


def test_run_that_has_saved_keeps_its_micro_batch_on_gpus_with_room_for_more() -> None:
    machine = GPUS._replace(gpu_bytes=80 * 10**9)

    assert fitted(settings(precision="bf16"), Ranks(1, 1), machine, None, kept=8) == 8


def test_cores_with_much_memory_keep_the_recipes_micro_batch() -> None:
    assert fitted(settings(precision="fp32"), Ranks(1, 1), CORES, None, None) == 8


def test_micro_batch_fits_the_memory_of_the_cores() -> None:
    little = CORES._replace(memory_bytes=3 * 10**9)
    config = settings(async_save=False)

    with pytest.raises(ConfigError, match="Use fewer --gpus, or a smaller --model"):
        fitted(config, Ranks(1, 1), little, None, None)
    with pytest.raises(ConfigError, match=r"Use fewer --gpus\.$"):
        fitted(config, Ranks(1, 1), little, None, 8)
    assert fitted(config, Ranks(1, 1), CORES._replace(memory_bytes=7 * 10**9), None, None) < 8


@pytest.mark.parametrize("ranks", [Ranks(1, 10**18), Ranks(10**18, 1), Ranks(10**18, 10**18)])
def test_more_ranks_than_there_are_anywhere_are_refused_at_once(ranks: Ranks) -> None:
    config = settings(tokens_per_step=1021 * 64, seq_len=64)

    with pytest.raises(ConfigError, match=r"at most 1021 ranks, .* Use --.* 1021 or --tokens-per"):
        fit(config, ranks, PRESETS["tiny"], CORES, typed=2, begun=None)
