"""Weights in every form they come in, and nothing run while they are read."""

from __future__ import annotations

import argparse
import json
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from instruct_core.config import PRESETS, ModelConfig
from instruct_core.errors import ConfigError, InstructError, MissingError, UnsafeFileError
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.weights import load_pretrained
from instruct_core.storage.documents import dump_document
from instruct_core.storage.tensor_file import file_views, from_numpy

SHAPE = ModelConfig(num_layers=2, num_heads=3, width=48, max_seq_len=128)


@pytest.fixture(scope="module")
def model() -> GPT2:
    model = GPT2(SHAPE)
    model.initialize(seed=5)
    return model


def as_seed_recipe(model: GPT2, prefix: str) -> dict[str, Tensor]:
    """The form of the recipe this project grew from: nn.Linear matrices, padded rows, its mask."""
    weights = {}
    for name, value in model.state_dict().items():
        turned = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
        weights[prefix + name] = value.t().contiguous() if turned else value
    padded = torch.cat([model.head_weight.detach(), torch.zeros(50304 - 50257, SHAPE.width)])
    weights[f"{prefix}transformer.wte.weight"] = weights[f"{prefix}lm_head.weight"] = padded
    weights[f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 128, 128)
    return weights


def assert_same(model: GPT2, path: Path) -> None:
    shape, weights = load_pretrained(str(path))
    assert shape == SHAPE
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_seed_recipes_checkpoint_is_read_without_its_code(
    model: GPT2, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("train_gpt2")

    @dataclass
    class GPTConfig:
        block_size: int = 128
        n_layer: int = 2
        n_head: int = 3
        n_embd: int = 48

    GPTConfig.__module__, GPTConfig.__qualname__ = "train_gpt2", "GPTConfig"
    module.GPTConfig = GPTConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train_gpt2", module)
    content = {"model": as_seed_recipe(model, prefix), "config": GPTConfig(), "step": 10}
    torch.save(content, tmp_path / "best_model.pt")
    monkeypatch.delitem(sys.modules, "train_gpt2")

    assert_same(model, tmp_path / "best_model.pt")


@pytest.mark.parametrize("args", [{"n_head": 3}, argparse.Namespace(n_head=3, lr=1e-4)])
def test_shape_may_come_from_args(model: GPT2, tmp_path: Path, args: Any) -> None:
    torch.save({"model": as_seed_recipe(model, ""), "args": args}, tmp_path / "a.pt")

    assert_same(model, tmp_path / "a.pt")


@pytest.mark.parametrize("safe", [True, False])
def test_hugging_face_folder_is_read(model: GPT2, tmp_path: Path, safe: bool) -> None:
    (tmp_path / "config.json").write_bytes(dump_document(SHAPE.hugging_face))
    if safe:
        theirs = GPT2LMHeadModel.from_pretrained(
            None, config=GPT2LMHeadModel.config_class(**SHAPE.hugging_face),
            state_dict=model.state_dict(),
        )  # fmt: skip
        theirs.save_pretrained(tmp_path)
    else:
        # The hub's own files have no prefix, and the causal mask of every layer.
        bare = {n.removeprefix("transformer."): v for n, v in model.state_dict().items()}
        bare["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
        torch.save(bare, tmp_path / "pytorch_model.bin")

    assert_same(model, tmp_path)


class Calls:
    """Pickles into a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def _outside_function(*args: Any) -> None:
    Path("owned").touch()


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Calls(os.system, "touch owned"), r"posix\.system"),
        (Calls(eval, "1"), r"builtins\.eval"),
        (Calls(getattr, "a", "upper"), r"builtins\.getattr"),
        (Calls(_outside_function, 1), r"_outside_function"),
        (Calls(torch.load, "x"), r"torch\.serialization\.load"),
        (os.system, r"posix\.system"),
    ],
)
def test_pickle_that_wants_more_is_refused_by_name(
    tmp_path: Path, payload: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "config": payload}, tmp_path / "evil.pt")

    with pytest.raises(UnsafeFileError, match=name):
        load_pretrained(str(tmp_path / "evil.pt"))

    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", b"PK\x03\x04 broken", b"hello", b"a.b", b"R"]
)
def test_file_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)

    with pytest.raises(InstructError) as caught:
        load_pretrained(str(tmp_path / "a.pt"))

    assert "a.pt" in str(caught.value)


def test_what_does_not_fit_is_named(model: GPT2, tmp_path: Path) -> None:
    weights = dict(model.state_dict())
    del weights["transformer.h.1.mlp.c_fc.bias"]
    torch.save({"model": weights, "args": {"n_head": 3}}, tmp_path / "a.pt")

    with pytest.raises(ConfigError, match=r"transformer\.h\.1\.mlp\.c_fc\.bias has shape none"):
        load_pretrained(str(tmp_path / "a.pt"))


def test_head_of_its_own_is_refused(model: GPT2, tmp_path: Path) -> None:
    weights = model.state_dict() | {"lm_head.weight": torch.zeros_like(model.head_weight)}
    torch.save({"model": weights}, tmp_path / "a.pt")

    with pytest.raises(ConfigError, match="has a head of its own"):
        load_pretrained(str(tmp_path / "a.pt"))


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is not there, or empty"):
        load_pretrained(str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(MissingError, match=r"is no model: no config\.json in it"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("odd_bytes", [1, 2, 3, 5])
def test_weights_that_begin_anywhere_in_their_file_are_read(tmp_path: Path, odd_bytes: int) -> None:
    """The header of a file from elsewhere has any length; the Hub's own gpt2 begins off a word."""
    model = GPT2(PRESETS["tiny"])
    model.initialize(1)
    parts = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    data = b"".join(file_views({name: from_numpy(part) for name, part in parts.items()}, {}))
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size] + b" " * odd_bytes
    (tmp_path / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + data[8 + size :]
    )
    (tmp_path / "config.json").write_text(json.dumps(model.config.hugging_face))

    _, weights = load_pretrained(str(tmp_path))

    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
