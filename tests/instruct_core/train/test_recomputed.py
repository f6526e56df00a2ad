"""With activation checkpointing a layer keeps what enters it, and everything ends with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from instruct_core import ranks
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.model.attention import row_mask
from instruct_core.model.families import build
from instruct_core.model.weights import hash_weights
from instruct_core.recipe import Switch
from instruct_core.shape import Shape, with_vocabulary
from instruct_core.storage.store import Store
from instruct_core.train.beginning import begin
from instruct_core.train.progress import Setup
from instruct_core.train.trainer import Trainer
from tests.forked_ranks import in_ranks

CONFIG = TrainConfig(
    "r", "s", "c", "t", "random", "tiny", "f", max_steps=4, seq_len=64, micro_batch_size=1,
    tokens_per_step=256, learning_rate=1e-2, warmup_steps=0, eval_every=2, save_every=2,
)  # fmt: skip
WITH_LORA = replace(CONFIG, dropout=0.1, lora=4, lora_alpha=8.0, lora_targets="all")


def attempt(folder: Path, shard_set: Path, config: TrainConfig) -> None:
    """Train as one attempt does: from the newest step, or from the first."""
    trainer_of(folder, shard_set, config).run()


def trainer_of(
    folder: Path, shard_set: Path, config: TrainConfig, stop: Callable[[], bool] = lambda: False
) -> Trainer:
    """Return what an attempt trains with."""
    checkpoints = Checkpoints(Store(folder))
    checkpoints.claim_attempt()
    loaded = load_newest(checkpoints)
    beginning = begin(config, loaded, vocab_size=1000)
    rows = {split: ShardSet(Store(shard_set), split) for split in ("train", "val")}
    readers = {
        split: SampleReader(these, pack(these.lengths(), 64, 1), "all")
        for split, these in rows.items()
    }
    setup = Setup(
        model=beginning.model, device=torch.device("cpu"), train=readers["train"], val=readers["val"],
        val_rows=rows["val"], checkpoints=checkpoints, config_file=beginning.config_file,
        facts=beginning.facts, moments=beginning.moments, stop=stop, working=lambda phase: None,
        on_event=lambda event: None, on_step=lambda report: None,
        on_samples=lambda step, answers: None, on_read=lambda step, samples: None,
    )  # fmt: skip
    return Trainer(config, setup, loaded)


@pytest.mark.parametrize(
    ("config", "world_size"),
    [
        (CONFIG, 1),
        (replace(CONFIG, dropout=0.1), 2),
        (replace(CONFIG, model="tiny-llama", precision="bf16"), 2),
        (replace(CONFIG, model="tiny-llama", dropout=0.1), 1),
        (WITH_LORA, 1),
        (replace(WITH_LORA, model="tiny-llama", precision="bf16"), 2),
    ],
    ids=["by rows", "dropout", "llama by rows", "llama dropout", "lora", "lora of a llama"],
)
def test_run_ends_with_the_same_bits_whichever_attempt_recomputes(
    tmp_path: Path, shard_set: Path, config: TrainConfig, world_size: int
) -> None:
    """Of a step's micro-batches all but the last add up without the other rank."""
    ways: dict[str, tuple[Switch, Switch]] = {
        "never": ("off", "off"), "later": ("off", "on"), "first": ("on", "off"),
    }  # fmt: skip

    def work(rank: int) -> list[str]:
        ends = []
        for name, (first, second) in ways.items():
            for steps, way in ((2, first), (4, second)):
                settings = replace(config, max_steps=steps, activation_checkpointing=way)
                attempt(tmp_path / name, shard_set, settings)
            loaded = load_newest(Checkpoints(Store(tmp_path / name)))
            assert loaded is not None
            assert loaded.manifest.progress.global_step == 4
            ends.append(hash_weights(loaded.model) + hash_weights(loaded.optimizer))
        assert ranks.world_size() == world_size
        return ends

    never, later, first = in_ranks(world_size, work)[0]

    assert (later, first) == (never, never)


def kept_bytes(shape: Shape, recomputed: bool) -> int:
    """Return how much a forward of 2 x 64 tokens keeps for its backward, each memory once."""
    model, kept = build(shape, dropout=0.1), {}
    model.initialize(1)
    model.blocks.are_recomputed = recomputed
    places = torch.arange(64).expand(2, 64)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        memory = tensor.untyped_storage()
        kept[memory.data_ptr()] = memory
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        model(places, places, row_mask(torch.zeros_like(places)))
    return sum(memory.nbytes() for memory in kept.values())


@pytest.mark.parametrize("preset", ["tiny", "tiny-llama"])
def test_layer_more_keeps_no_more_than_what_enters_it(preset: str) -> None:
    two = with_vocabulary(PRESETS[preset], 100)
    assert two.num_layers == 2
    three = replace(two, num_layers=3)  # type: ignore[type-var]

    entrance = 2 * 64 * two.width * 4  # bytes
    assert kept_bytes(three, True) - kept_bytes(two, True) == entrance
    weights = 4 * (three.num_parameters - two.num_parameters)
    assert kept_bytes(three, False) - kept_bytes(two, False) - weights > 10 * entrance
