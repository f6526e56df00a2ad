"""Any number of ranks trains the same run, and goes on with it; on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import samples_of
from tests.tiny_runs import final_hashes, losses, run_of, train


def test_world_sizes_take_the_same_samples_to_the_same_losses(
    tmp_path_factory: pytest.TempPathFactory, shard_set: Path
) -> None:
    """A step has four: of three ranks one takes two of them. One run is begun on 2, and ended on 3."""
    desks = [tmp_path_factory.mktemp(f"desk{number}") for number in range(5)]
    flags = ("--max-steps=6", "--decay-steps=6", "--eval-every=100")

    for gpus, cwd in zip((1, 2, 4, 3), desks, strict=False):
        train(cwd, shard_set, gpus, *flags)
    train(desks[4], shard_set, 2, *flags, "--max-steps=3")
    train(desks[4], shard_set, 3, *flags)

    reference = losses(desks[0])
    assert len(reference) == 6
    for cwd in desks:
        assert samples_of(run_of(cwd)) == samples_of(run_of(desks[0]))
        assert losses(cwd) == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("tokens", [192, 256])
def test_three_ranks_sum_gradients_in_the_same_order_after_a_resume(
    tmp_path: Path, shard_set: Path, tokens: int
) -> None:
    """
    Two ranks cannot show it: a + b is b + a. DDP regroups what is large after its first backward.

    Of 256 tokens rank 0 alone takes a second sequence.
    """
    steps = ("--max-steps=10", "--decay-steps=10", "--warmup-steps=1")
    flags = (f"--tokens-per-step={tokens}", *steps)
    train(tmp_path / "whole", shard_set, 3, *flags)

    train(tmp_path / "parts", shard_set, 3, *flags, "--max-steps=4")
    train(tmp_path / "parts", shard_set, 3, *flags)

    assert final_hashes(tmp_path / "parts", 10) == final_hashes(tmp_path / "whole", 10)
