"""Weights of the Llama family in every form they come in; each tensor's name and shape is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from instruct_core.errors import ConfigError
from instruct_core.model.weights import hash_weights, load_fitting, load_model, load_pretrained
from tests.instruct_core.model.their_llama import reference, save_folder

TOKENS = torch.tensor([[5, 250, 17, 17, 256, 99]])
POSITIONS = torch.arange(6)[None]


@pytest.fixture(scope="module")
def theirs() -> PreTrainedModel:
    return reference("smollm2")


@torch.no_grad()
def assert_same_scores(folder: Path, theirs: PreTrainedModel, tolerance: float = 1e-5) -> None:
    ours = load_model(str(folder))

    logits = ours.logits(ours(TOKENS, POSITIONS, None))

    assert (logits - theirs(TOKENS).logits).abs().max() < tolerance


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a folder in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_several_files_with_an_index_are_read(theirs: PreTrainedModel, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")

    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_same_scores(tmp_path, theirs)


def test_pickle_is_read(theirs: PreTrainedModel, tmp_path: Path) -> None:
    save_folder(tmp_path, theirs)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")  # with the head once more

    assert_same_scores(tmp_path, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = reference("qwen2").to(dtype)
    save_folder(tmp_path, theirs)

    _, weights = load_pretrained(str(tmp_path))

    expected = theirs.state_dict()
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert all(torch.equal(value, expected[name].float()) for name, value in weights.items())


def test_weights_of_the_body_alone_are_read(theirs: PreTrainedModel, tmp_path: Path) -> None:
    save_folder(tmp_path, theirs)
    theirs.model.save_pretrained(tmp_path / "body")
    bare = (tmp_path / "body" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(bare)

    assert "layers.0.mlp.up_proj.weight" in load_file(tmp_path / "model.safetensors")
    assert_same_scores(tmp_path, theirs)


def test_frequencies_that_older_versions_saved_are_passed_over(
    theirs: PreTrainedModel, tmp_path: Path
) -> None:
    save_folder(tmp_path, theirs)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(tmp_path, lambda weights: weights.update({name: torch.ones(4)}))

    assert_same_scores(tmp_path, theirs)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (
            "smollm2", lambda w: w.pop("model.layers.1.mlp.up_proj.weight"),
            r"model\.layers\.1\.mlp\.up_proj\.weight has shape none, expected \(48, 32\)",
        ),
        (
            "smollm2", lambda w: w.update({"model.norm.bias": torch.zeros(32)}),
            r"model\.norm\.bias has shape \(32,\), expected none",
        ),
        (
            "smollm2", lambda w: w.update({"model.embed_tokens.weight": torch.zeros(320, 32)}),
            r"model\.embed_tokens\.weight has shape \(320, 32\), expected \(260, 32\)",
        ),
        (
            "llama-2", lambda w: w.pop("lm_head.weight"),
            r"lm_head\.weight has shape none, expected \(260, 32\)",
        ),
        (
            "qwen2", lambda w: w.pop("model.layers.0.self_attn.q_proj.bias"),
            r"model\.layers\.0\.self_attn\.q_proj\.bias has shape none",
        ),
        (
            "qwen3", lambda w: w.pop("model.layers.2.self_attn.k_norm.weight"),
            r"model\.layers\.2\.self_attn\.k_norm\.weight has shape none, expected \(16,\)",
        ),
        (
            "smollm2", lambda w: w.update({"lm_head.weight": torch.zeros(260, 32)}),
            "has a head of its own, lm_head.weight, and its config.json has tie_word_embeddings",
        ),
        (
            "smollm2", lambda w: w["model.norm.weight"].fill_(torch.nan),
            r"model\.norm\.weight has numbers that are not finite",
        ),
        (
            "smollm2",
            lambda w: w.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)}),
            r"model\.norm\.weight is torch\.int32",
        ),
    ],
)  # fmt: skip
def test_tensor_that_does_not_fit_is_named(
    tmp_path: Path, kind: str, change: Callable[[dict[str, Tensor]], Any], said: str
) -> None:
    save_folder(tmp_path, reference(kind))
    rewrite(tmp_path, change)

    with pytest.raises(ConfigError, match=said):
        load_pretrained(str(tmp_path))


def test_config_with_more_layers_than_the_weights_is_refused(
    theirs: PreTrainedModel, tmp_path: Path
) -> None:
    save_folder(tmp_path, theirs, num_hidden_layers=1_000_000)

    with pytest.raises(ConfigError, match="num_hidden_layers is 1000000, and the weights have 3"):
        load_pretrained(str(tmp_path))


def test_model_of_no_family_here_is_refused_with_those_that_are(
    theirs: PreTrainedModel, tmp_path: Path
) -> None:
    save_folder(tmp_path, theirs, model_type="gemma3_text")

    with pytest.raises(ConfigError, match="model_type gemma3_text, and only gpt2, llama, mistral"):
        load_pretrained(str(tmp_path))


def test_sequence_longer_than_the_positions_is_refused(
    theirs: PreTrainedModel, tmp_path: Path
) -> None:
    save_folder(tmp_path, theirs)

    with pytest.raises(ConfigError, match="--seq-len must be at most 96"):
        load_fitting(str(tmp_path), "", seq_len=97)


def test_ends_that_are_said_for_generation_count(theirs: PreTrainedModel, tmp_path: Path) -> None:
    save_folder(tmp_path, theirs)
    said = {"eos_token_id": [258, 257], "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))

    shape, _ = load_pretrained(str(tmp_path))

    assert shape.end_ids == (258, 257)


def test_hash_is_that_of_the_weights_however_they_are_stored(
    theirs: PreTrainedModel, tmp_path: Path
) -> None:
    save_folder(tmp_path / "one", theirs)
    theirs.save_pretrained(tmp_path / "several", max_shard_size="20KB")

    one, several = (
        hash_weights(load_pretrained(str(tmp_path / name))[1]) for name in ("one", "several")
    )

    assert one == several
