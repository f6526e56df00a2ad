"""Whether two runs ended alike: the first difference is named, whatever it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from instruct_core.checkpoints.manifest import Scale
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store
from launch.drills.comparison import first_difference, first_other_samples
from tests.fakes import facts_of
from tests.forked_ranks import in_ranks

STEP = 30


def saved(
    place: Path, weights: torch.Tensor, seed: int = 1, width: int = 8, scale: Scale | None = None
) -> Store:
    checkpoints = Checkpoints(Store(place))
    checkpoints.claim_attempt()
    snapshot = checkpoints.take(
        STEP,
        {"w.weight": weights},
        {"n_embd": width},
        {"exp_avg/w.weight": torch.ones(3)},
        {"torch": torch.tensor([seed], dtype=torch.uint8)},
        facts_of(STEP) | {"loss_scale": scale},
    )
    checkpoints.write(snapshot, Keep(last=1))
    return checkpoints.store


def test_equal_runs_have_no_difference(tmp_path: Path) -> None:
    weights = torch.tensor([[0.5, float("nan")], [-0.0, 2.0]])

    a, b = saved(tmp_path / "a", weights), saved(tmp_path / "b", weights.clone())

    assert first_difference(a, b, STEP) is None


def test_other_scale_of_a_loss_is_a_difference(tmp_path: Path) -> None:
    weights = torch.zeros(3)
    a, b, c = (
        saved(tmp_path / name, weights, scale=Scale(2.0, steps))
        for name, steps in (("a", 1), ("b", 1), ("c", 2))
    )

    assert first_difference(a, b, STEP) is None
    assert str(first_difference(a, c, STEP)).startswith("loss_scale is Scale(value=2.0, steps=2)")


def test_first_other_weight_is_named_with_both_values(tmp_path: Path) -> None:
    weights = torch.zeros(2, 3)
    other = weights.clone()
    other[1, 2] = 1e-30

    difference = first_difference(
        saved(tmp_path / "a", weights), saved(tmp_path / "b", other), STEP
    )

    assert difference is not None
    assert difference.what == "model.safetensors: w.weight"
    assert difference.place == "[1, 2]"
    assert difference.undisturbed == "0.0"
    assert float(difference.hit) == other[1, 2].item()


def test_sign_of_zero_is_a_difference(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a", torch.zeros(3)), saved(tmp_path / "b", -torch.zeros(3))

    assert "w.weight at [0] is -0.0, and 0.0 undisturbed" in str(first_difference(a, b, STEP))


def test_bfloat16_is_shown_as_its_value(tmp_path: Path) -> None:
    a, b = (
        saved(tmp_path / name, torch.tensor([1.0, value], dtype=torch.bfloat16))
        for name, value in (("a", 2.0), ("b", 3.0))
    )

    assert "w.weight at [1] is 3.0, and 2.0 undisturbed" in str(first_difference(a, b, STEP))


def test_other_generator_shape_or_setting_is_a_difference(tmp_path: Path) -> None:
    weights = torch.zeros(3)
    a = saved(tmp_path / "a", weights)

    generator = first_difference(a, saved(tmp_path / "b", weights, seed=2), STEP)
    shape = first_difference(a, saved(tmp_path / "c", torch.zeros(4)), STEP)
    setting = first_difference(a, saved(tmp_path / "d", weights, width=9), STEP)

    assert "rng/torch at [0] is 2, and 1 undisturbed" in str(generator)
    assert "w.weight is ('F32', (4,)), and ('F32', (3,)) undisturbed" in str(shape)
    assert "config.json" in str(setting)


def test_generator_of_another_rank_is_a_difference(tmp_path: Path) -> None:
    weights = torch.zeros(3)

    def save_all(rank: int) -> None:
        for name in ("a", "b"):
            saved(tmp_path / name, weights, seed=7 if (name, rank) == ("b", 1) else 1)

    in_ranks(2, save_all)

    difference = first_difference(Store(tmp_path / "a"), Store(tmp_path / "b"), STEP)
    assert str(difference).startswith(
        "state-00001-of-00002.safetensors: rng/torch at [0] is 7, and 1"
    )


def read(folder: Path, attempt: int, rank: int, samples: dict[int, list[int]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"step": step, "samples": these}) for step, these in samples.items()]
    (folder / f"samples-{attempt:04d}-{rank:05d}.jsonl").write_text("\n".join(lines) + "\n")


def test_step_that_was_made_twice_counts_as_the_last_attempt_read_it(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for rank in (0, 1):
        read(a, 0, rank, {0: [rank], 1: [2 + rank]})
        read(b, 0, rank, {0: [rank], 1: [99]})
        read(b, 1, rank, {1: [2 + rank]})

    assert first_other_samples(a, b) == (None, 4)


def test_samples_of_another_rank_are_a_difference(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for rank in (0, 1):
        read(a, 0, rank, {0: [rank]})
        read(b, 0, rank, {0: [1 - rank]})

    difference, _ = first_other_samples(a, b)

    assert "samples of step 0" in str(difference)


def test_line_that_a_kill_or_the_disk_has_torn_is_as_good_as_none(tmp_path: Path) -> None:
    """The step is read once more by the next attempt, or the difference is told."""
    whole = '{"step": 0, "samples": [4]}\n{"step": 1, "samples": [7]}\n'
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
    (tmp_path / "a" / "samples-0000-00000.jsonl").write_text(whole)
    (tmp_path / "b" / "samples-0000-00000.jsonl").write_text(
        '\0\0\n{"step": 0, "samples": [4]}\n{"step": 1, "sam'
    )
    (tmp_path / "c" / "samples-0000-00000.jsonl").write_text(
        '{"step": 0, "samples": [4]}\n{"step": 1, "sam'
    )
    (tmp_path / "b" / "samples-0001-00000.jsonl").write_text('{"step": 1, "samples": [7]}\n')

    assert first_other_samples(tmp_path / "a", tmp_path / "b") == (None, 2)
    difference, _ = first_other_samples(tmp_path / "a", tmp_path / "c")
    assert difference is not None
    assert difference.what == "samples of step 1, by rank"
