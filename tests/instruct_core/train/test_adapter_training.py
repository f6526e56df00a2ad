"""A run that trains adapters, on one rank: what it saves, and that it goes on to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.steps import read_manifest, step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig, identity_of
from instruct_core.data.batches import SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.errors import RunConflictError
from instruct_core.model.weights import load_pretrained
from instruct_core.storage.store import Store
from instruct_core.train.beginning import begin
from instruct_core.train.progress import Setup
from instruct_core.train.trainer import Trainer
from tests.conftest import hashes_of
from tests.forked_ranks import in_ranks

CONFIG = TrainConfig(
    "r", "s", "c", "t", "random", "tiny", "f", max_steps=4, seq_len=64, micro_batch_size=2,
    tokens_per_step=256, learning_rate=1e-2, warmup_steps=0, eval_every=2, save_every=2,
    dropout=0.1, lora=4, lora_alpha=8.0, lora_targets="all",
)  # fmt: skip


def attempt(folder: Path, shard_set: Path, config: TrainConfig) -> Any:
    """Train as one attempt does; return the samples of its last evaluation, on rank 0."""
    checkpoints = Checkpoints(Store(folder))
    checkpoints.claim_attempt()
    loaded = load_newest(checkpoints)
    beginning = begin(config, loaded)
    rows = {split: ShardSet(Store(shard_set), split) for split in ("train", "val")}
    readers = {
        split: SampleReader(these, pack(these.lengths(), 64, 1), "all")
        for split, these in rows.items()
    }
    samples: list[Any] = []
    setup = Setup(
        model=beginning.model, device=torch.device("cpu"), train=readers["train"], val=readers["val"],
        val_rows=rows["val"], checkpoints=checkpoints, config_file=beginning.config_file,
        facts={"run": "r", "identity": identity_of(config), **beginning.facts},
        stop=lambda: False, working=lambda phase: None, on_event=lambda event: None,
        on_step=lambda report: None, on_samples=lambda step, answers: samples.append(answers),
        on_read=lambda step, samples: None, moments=beginning.moments,
    )  # fmt: skip
    Trainer(config, setup, loaded).run()
    return samples[-1] if samples else None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_run_in_two_parts_ends_with_the_bits_of_one_in_one(
    tmp_path: Path, shard_set: Path, precision: str
) -> None:
    config = replace(CONFIG, precision=precision)

    attempt(tmp_path / "whole", shard_set, config)
    attempt(tmp_path / "parts", shard_set, replace(config, max_steps=2))
    samples = attempt(tmp_path / "parts", shard_set, config)

    assert hashes_of(tmp_path / "parts", 4) == hashes_of(tmp_path / "whole", 4)
    assert samples, "a half of the base meets what is evaluated in float32"


def test_two_ranks_begin_with_a_frozen_base_in_halves(tmp_path: Path, shard_set: Path) -> None:
    """On GPUs that is the default."""
    config = replace(CONFIG, precision="bf16", max_steps=1)

    in_ranks(2, lambda rank: attempt(tmp_path / "r", shard_set, config))

    assert hashes_of(tmp_path / "r", 1)


def test_step_has_the_adapters_and_their_moments_alone(tmp_path: Path, shard_set: Path) -> None:
    attempt(tmp_path / "r", shard_set, CONFIG)

    store = Store(tmp_path / "r")
    manifest = read_manifest(store, 4)
    loaded = load_newest(Checkpoints(store))
    assert loaded is not None
    names = {name.removeprefix("base_model.model.") for name in loaded.model}
    assert all(".lora_" in name for name in names)
    assert {name.partition("/")[2] for name in loaded.optimizer} == names
    assert manifest.base is not None
    assert (manifest.format, manifest.base.place, manifest.base.model) == (2, "random", "tiny")
    assert manifest.num_bytes < 4 * manifest.model.num_parameters / 10


def test_step_is_read_as_a_whole_model(tmp_path: Path, shard_set: Path) -> None:
    attempt(tmp_path / "r", shard_set, CONFIG)
    base = begin(replace(CONFIG, lora=None), None).model.state_dict()

    _, weights = load_pretrained(str(tmp_path / "r" / step_name(4)))

    changed = {name for name, value in weights.items() if not torch.equal(value, base[name])}
    assert weights.keys() == base.keys()
    assert changed == {
        n for n in base if n.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    }


def forked(folder: Path, **changes: object) -> TrainConfig:
    """Return the settings of a run that begins with step 4 of the run in a folder."""
    fields = {"run": "second", "init": str(folder / step_name(4)), "init_step": 4, "model": ""}
    return replace(CONFIG, **fields | changes)


def test_run_forked_from_adapters_goes_on_with_them_on_the_same_base(
    tmp_path: Path, shard_set: Path
) -> None:
    attempt(tmp_path / "first", shard_set, CONFIG)
    first = load_newest(Checkpoints(Store(tmp_path / "first")))
    assert first is not None

    beginning = begin(forked(tmp_path / "first", keep_optimizer=True), None)

    assert beginning.facts["base"] == first.manifest.base
    state = beginning.model.state_dict()
    assert all(
        torch.equal(state[name.removeprefix("base_model.model.")], value)
        for name, value in first.model.items()
    )
    assert beginning.moments.keys() == first.optimizer.keys()


def test_run_forked_with_other_adapters_takes_the_merged_weights_for_its_base(
    tmp_path: Path, shard_set: Path
) -> None:
    attempt(tmp_path / "first", shard_set, CONFIG)
    _, merged = load_pretrained(str(tmp_path / "first" / step_name(4)))

    for changes in ({"lora": 2}, {"lora_alpha": 4.0}, {"lora_targets": "c_attn"}):
        beginning = begin(forked(tmp_path / "first", **changes), None)

        state = beginning.model.state_dict().items()
        base = {n.replace(".base_layer", ""): value for n, value in state if ".lora_" not in n}
        assert base.keys() == merged.keys()
        assert all(torch.equal(base[name], value) for name, value in merged.items())
        assert beginning.facts["base"].place == str(tmp_path / "first" / step_name(4))


def test_base_of_other_weights_than_the_run_was_begun_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunConflictError, match="are not those that run r was begun with"):
        begin(replace(CONFIG, init_xxh3="0" * 32), None)
