"""A Llama trains like any model: a resume has the bits of a run that nobody touched, and its steps are
folders that transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct_core import ranks
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.steps import read_manifest
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.data.tokenizer import tokenizer_of_model
from instruct_core.llama_config import LlamaConfig
from instruct_core.model.families import build
from instruct_core.model.hugging_face import export_folder
from instruct_core.model.weights import hash_weights, load_model, load_pretrained
from instruct_core.shape import with_vocabulary
from instruct_core.storage.store import Store
from instruct_core.train.progress import Setup
from instruct_core.train.trainer import Trainer
from tests.forked_ranks import in_ranks

CONFIG = TrainConfig(
    "r", "s", "c", "t", "random", "tiny-llama", "f", max_steps=4, seq_len=64, micro_batch_size=1,
    tokens_per_step=256, learning_rate=1e-2, warmup_steps=0, eval_every=100, save_every=100,
    dropout=0.1,
)  # fmt: skip
TIED = PRESETS["tiny-llama"]
assert isinstance(TIED, LlamaConfig)
OWN_HEAD = replace(TIED, model_type="qwen3", has_tied_head=False, attention_bias=True, width=24)


def train(
    folder: Path, shard_set: Path, shape: LlamaConfig, stop: Callable[[int], bool]
) -> tuple[str, Trainer]:
    """Train from the newest step, or from the first, until a number of steps were made."""
    model = build(shape, CONFIG.dropout)
    model.initialize(1)
    checkpoints = Checkpoints(Store(folder))
    checkpoints.claim_attempt()
    rows = {split: ShardSet(Store(shard_set), split) for split in ("train", "val")}
    readers = {
        split: SampleReader(these, pack(these.lengths(), 64, 1), "all")
        for split, these in rows.items()
    }
    made: list[int] = []
    setup = Setup(
        model=model, device=torch.device("cpu"), train=readers["train"], val=readers["val"],
        val_rows=rows["val"], checkpoints=checkpoints, config_file=shape.hugging_face, facts={},
        stop=lambda: stop(len(made)),
        working=lambda phase: None, on_event=lambda event: None,
        on_step=lambda report: made.append(report.progress.global_step),
        on_samples=lambda step, samples: None, on_read=lambda step, samples: None,
    )  # fmt: skip
    trainer = Trainer(CONFIG, setup, load_newest(checkpoints))
    return trainer.run(), trainer


@pytest.mark.parametrize("shape", [TIED, OWN_HEAD], ids=["tied head", "own head, norms, biases"])
def test_resumed_llama_of_two_ranks_ends_with_the_bits_of_an_undisturbed_one(
    shape: LlamaConfig, tmp_path: Path, shard_set: Path
) -> None:
    def work(rank: int) -> list[str]:
        ends = []
        for name, steps in (("undisturbed", [99]), ("warned", [2, 99])):
            outcomes = [
                train(tmp_path / name, shard_set, shape, lambda made, n=n: made >= n)[0]
                for n in steps
            ]
            loaded = load_newest(Checkpoints(Store(tmp_path / name)))
            assert loaded is not None
            ends.append(hash_weights(loaded.model) + hash_weights(loaded.optimizer))
            ends.append(" ".join(outcomes))
        assert ranks.world_size() == 2
        return ends

    first, second = in_ranks(2, work)

    undisturbed, outcome, warned, outcomes = first
    assert first == second
    assert (outcome, outcomes) == ("finished", "stopped finished")
    assert warned == undisturbed


def test_step_folder_is_the_same_model_to_transformers_and_to_us(
    tmp_path: Path, shard_set: Path
) -> None:
    _, trainer = train(tmp_path, shard_set, OWN_HEAD, lambda made: False)
    trained, step = trainer._setup.model.eval(), str(tmp_path / "step-00000004")
    tokens = torch.randint(0, 50257, (2, 30), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(30).expand(2, 30)

    theirs, ours = AutoModelForCausalLM.from_pretrained(step).eval(), load_model(step)

    assert read_manifest(Store(tmp_path), 4).model == OWN_HEAD == ours.config
    weights, saved = trained.state_dict(), load_pretrained(step)[1]
    assert all(torch.equal(saved[name], value) for name, value in weights.items())
    with torch.no_grad():
        scores = trained.logits(trained(tokens, positions, None))
        assert (ours.logits(ours(tokens, positions, None)) - scores).abs().max() < 1e-5
        assert (theirs(tokens).logits - scores).abs().max() < 1e-4


def test_small_llama_of_gpt2s_tokens_is_exported_with_its_tokenizer(
    tmp_path: Path, shard_set: Path
) -> None:
    train(tmp_path / "run", shard_set, TIED, lambda made: made >= 1)
    (tmp_path / "run" / "run.json").write_text("{}")  # as a launcher leaves it

    export_folder(Store(tmp_path / "run"), 2, Store(tmp_path / "out"))

    assert AutoTokenizer.from_pretrained(tmp_path / "out")("Hi.")["input_ids"] == [17250, 13]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "llama"
    assert tokenizer_of_model(str(tmp_path / "out")).name == "gpt2"


def test_other_tokens_than_its_own_leave_a_preset_without_an_end() -> None:
    for name in ("tiny", "tiny-llama"):
        assert PRESETS[name].end_ids == (50256,)
        assert with_vocabulary(PRESETS[name], 50257) == PRESETS[name]
        assert with_vocabulary(PRESETS[name], 400).end_ids == ()
        assert with_vocabulary(PRESETS[name], 400).hugging_face["eos_token_id"] is None
