"""A run in parts: a rank has its rows of each tensor, and what is promised of any run holds for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp  # once, and not in each rank
from torch import nn

from instruct_core import ranks
from instruct_core.checkpoints import saves
from instruct_core.checkpoints.loader import Loaded, load_newest, load_step
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig
from instruct_core.model.weights import hash_weights
from instruct_core.storage.store import Store
from instruct_core.train import gradients
from instruct_core.train.gradients import Gradients
from tests.conftest import wait_for
from tests.forked_ranks import in_ranks
from tests.instruct_core.train import test_recomputed as recomputed
from tests.instruct_core.train.test_recomputed import CONFIG, WITH_LORA, attempt, trainer_of

FULL = replace(CONFIG, shard="full", decay_steps=4)


def newest(folder: Path) -> Loaded:
    loaded = load_newest(Checkpoints(Store(folder)))
    assert loaded is not None
    return loaded


def read_step(folder: Path, step: int) -> list[str]:
    loaded = load_step(Store(folder), step)
    return [hash_weights(loaded.model), hash_weights(loaded.optimizer)]


def bits(folder: Path) -> list[Any]:
    """Return what the newest step of a run is, for comparison."""
    loaded = newest(folder)
    assert loaded.rng is not None
    hashes = [hash_weights(tensors) for tensors in (loaded.model, loaded.optimizer, loaded.rng)]
    return [loaded.step, *hashes, loaded.manifest.progress.val_loss]


def is_in_parts(module: nn.Module) -> bool:
    return all(ranks.is_in_parts(parameter) for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "world_size"),
    [
        (FULL, 2),
        (FULL, 3),
        (replace(FULL, dropout=0.1, activation_checkpointing="on"), 2),
        (replace(FULL, model="tiny-llama", precision="bf16"), 2),
        (replace(WITH_LORA, shard="full", decay_steps=4, precision="bf16"), 2),
    ],
    ids=[
        "by rows",
        "a rank without a first micro-batch",
        "recomputed",
        "llama in bf16",
        "lora in bf16",
    ],
)
def test_run_in_parts_ends_with_the_same_bits_after_a_resume(
    tmp_path: Path, shard_set: Path, config: TrainConfig, world_size: int
) -> None:
    def work(rank: int) -> list[Any]:
        attempt(tmp_path / "whole", shard_set, replace(config, max_steps=5))
        for steps in (1, 3, 5):
            attempt(tmp_path / "parts", shard_set, replace(config, max_steps=steps))
        return [bits(tmp_path / "whole"), bits(tmp_path / "parts")]

    for whole, parts in in_ranks(world_size, work):
        assert whole[0] == 5
        assert parts == whole


def test_run_goes_on_in_parts_and_whole_to_the_same_losses(tmp_path: Path, shard_set: Path) -> None:
    """An attempt: ranks, how they share, last step. A step has five sequences: shares are uneven."""
    config = replace(FULL, tokens_per_step=320)
    ways: dict[str, list[tuple[int, str, int]]] = {
        "whole": [(2, "none", 6)],
        "in parts": [(2, "full", 6)],
        "then in parts": [(2, "none", 3), (3, "full", 6)],
        "then whole": [(3, "full", 3), (1, "none", 6)],
    }
    ends = {}
    for name, attempts in ways.items():
        for world_size, shard, steps in attempts:
            settings = replace(config, max_steps=steps, shard=shard)
            in_ranks(
                world_size,
                lambda rank, s=settings, n=name: attempt(tmp_path / n, shard_set, s),
            )
        ends[name] = newest(tmp_path / name)

    reference = ends["whole"]
    for end in ends.values():
        assert end.manifest.progress.samples_seen == 30
        assert end.manifest.progress.val_loss == pytest.approx(
            reference.manifest.progress.val_loss, abs=1e-4
        )
        assert end.model.keys() == reference.model.keys()
        assert end.optimizer.keys() == reference.optimizer.keys()
        for name, weight in end.model.items():
            torch.testing.assert_close(weight, reference.model[name], atol=2e-3, rtol=0)


def test_rank_has_its_rows_and_a_step_has_whole_tensors(tmp_path: Path, shard_set: Path) -> None:
    """Three ranks divide nothing evenly: what one has is no more than a third, rounded up to a row."""

    def work(rank: int) -> list[Any]:
        trainer = trainer_of(tmp_path, shard_set, replace(FULL, tokens_per_step=320))
        layers = trainer._core.model.blocks
        together: set[int] = set()

        def look(*_: object) -> None:
            together.add(sum(not is_in_parts(layer) for layer in layers))

        for layer in layers:
            layer.register_forward_hook(look, prepend=True)
        trainer._evaluate()
        assert is_in_parts(trainer._core), "it stays together for a backward that never comes"
        trainer.run()
        optimizer = trainer._optimizer
        kept = [*optimizer.state, *(state["exp_avg"] for state in optimizer.state.values())]
        return [
            sorted(together),
            [[ranks.own(t).numel(), t.numel(), t.numel() // max(1, len(t))] for t in kept],
        ]

    for together, tensors in in_ranks(3, work):
        assert together == [1]
        for mine, of_all, of_a_row in tensors:
            assert mine <= of_all / 3 + of_a_row
    files = {path.name for path in (tmp_path / "step-00000004").iterdir()}
    states = {f"state-{rank:05d}-of-00003.safetensors" for rank in range(3)}
    assert files == {"config.json", "manifest.json", "model.safetensors", *states}
    saved = newest(tmp_path)
    assert (
        sum(tensor.numel() for tensor in saved.model.values())
        == saved.manifest.model.num_parameters
    )


@pytest.mark.parametrize("config", [FULL, replace(WITH_LORA, shard="full", precision="bf16")])
def test_ranks_that_read_other_weights_begin_with_those_of_rank_0(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch, config: TrainConfig
) -> None:
    begun = recomputed.begin

    def work(rank: int) -> list[float]:
        def other(*arguments: Any, **options: Any) -> Any:
            beginning = begun(*arguments, **options)
            with torch.no_grad():
                for weight in beginning.model.parameters():
                    weight.fill_(rank)
            return beginning

        monkeypatch.setattr(recomputed, "begin", other)
        trainer = trainer_of(tmp_path, shard_set, config)
        found = {ranks.whole(w.detach()).float().max().item() for w in trainer._core.parameters()}
        return sorted(found)

    assert in_ranks(2, work) == [[0.0]] * 2


def test_step_is_saved_as_it_was_though_training_goes_on(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is written before another step has been made: what is written are copies."""
    monkeypatch.setattr(saves, "WRITTEN_AT_ONCE_BYTES", 0)
    put = Checkpoints._put

    def work(rank: int) -> list[Any]:
        attempt(tmp_path / "at-once", shard_set, replace(FULL, async_save=False))
        trainer = trainer_of(tmp_path / "beside", shard_set, FULL)

        def put_late(self: Checkpoints, folder: Store, step: int, images: Any) -> Any:
            if step == 2:
                wait_for(lambda: trainer.progress.global_step > 2, "a step more")
            return put(self, folder, step, images)

        monkeypatch.setattr(Checkpoints, "_put", put_late)
        trainer.run()
        return [read_step(tmp_path / name, 2) for name in ("at-once", "beside")]

    for at_once, beside in in_ranks(2, work):
        assert beside == at_once


def test_moments_that_a_run_begins_with_are_not_kept_beside_its_own(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = recomputed.begin

    def with_moments(*arguments: Any, **options: Any) -> Any:
        beginning = begun(*arguments, **options)
        weight = beginning.model.head_weight
        name = next(n for n, p in beginning.model.named_parameters() if p is weight)
        return beginning._replace(moments={f"exp_avg/{name}": torch.zeros_like(weight)})

    monkeypatch.setattr(recomputed, "begin", with_moments)
    trainer = trainer_of(tmp_path, shard_set, CONFIG)

    assert (len(trainer._optimizer.state), trainer._setup.moments) == (1, {})


def test_warned_rank_gives_a_step_up_and_all_is_as_before(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "STOP_PATIENCE_SECONDS", 0.0)
    config = replace(FULL, dropout=0.1)  # two micro-batches a step: the second is not begun

    def work(rank: int) -> list[Any]:
        attempt(tmp_path / "whole", shard_set, config)

        def warned_inside_the_third_step() -> bool:
            return rank == 1 and trainer.progress.global_step == 2 and between_micro_batches()

        trainer = trainer_of(
            tmp_path / "parts", shard_set, config, stop=warned_inside_the_third_step
        )
        outcome = trainer.run()
        step = newest(tmp_path / "parts").step
        attempt(tmp_path / "parts", shard_set, config)
        return [outcome, step, bits(tmp_path / "whole"), bits(tmp_path / "parts")]

    for outcome, step, whole, parts in in_ranks(2, work):
        assert (outcome, step) == ("stopped", 2)
        assert parts == whole


def between_micro_batches() -> bool:
    """Return True where a step asks whether it is to be given up."""
    return any(frame.function == "_gives_up" for frame in inspect.stack())


def test_step_that_is_not_finite_on_one_rank_is_left_out_on_all(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip: Callable[[Gradients], torch.Tensor] = Gradients.clip

    def work(rank: int) -> list[int]:
        calls = []

        def poisoned(self: Gradients) -> torch.Tensor:
            calls.append(True)
            if len(calls) == 2 and rank == 1:
                parameter = next(p for p in self._core.parameters() if p.grad is not None)
                assert parameter.grad is not None
                ranks.own(parameter.grad).fill_(float("nan"))
            return clip(self)

        monkeypatch.setattr(Gradients, "clip", poisoned)
        attempt(tmp_path, shard_set, FULL)
        progress = newest(tmp_path).manifest.progress
        finite = all(bool(t.isfinite().all()) for t in newest(tmp_path).model.values())
        return [progress.global_step, progress.skipped_steps, finite]

    assert in_ranks(2, work) == [[4, 1, True]] * 2
