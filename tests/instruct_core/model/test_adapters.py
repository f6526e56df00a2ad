"""A folder of adapters: its base is looked for and compared, and what cannot be followed is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.checkpoints.steps import step_name
from instruct_core.data.tokenizer import tokenizer_of_model
from instruct_core.errors import (
    ConfigError,
    CorruptFileError,
    InstructError,
    MissingError,
    RunConflictError,
)
from instruct_core.lora_settings import CONFIG_FILE, WEIGHTS_FILE, Base
from instruct_core.model.adapters import BASE_FILE, base_file
from instruct_core.model.lora import saved_tensors
from instruct_core.model.weights import hash_weights, load_pretrained
from tests.instruct_core.model.small_adapters import SHAPE, adapted, base_model, put, save


@pytest.fixture
def adapter(base_folder: Path, tmp_path: Path) -> Path:
    base = Base(str(base_folder), hash_weights(base_model().state_dict()))
    return save(tmp_path / "adapter", *adapted("c_attn"), base)


def test_base_that_is_gone_is_told_with_what_to_do(adapter: Path, base_folder: Path) -> None:
    moved = base_folder.rename(base_folder.with_name("moved"))

    with pytest.raises(MissingError) as told:
        load_pretrained(str(adapter))

    assert str(told.value) == (
        f"Base {base_folder}, on which the adapters in {adapter} stand, is not there. Put it back, or "
        f"link it there: ln -s WHERE_IT_IS {base_folder}"
    )
    base_folder.symlink_to(moved)
    assert load_pretrained(str(adapter))


def test_base_that_has_other_weights_now_is_refused(adapter: Path, base_folder: Path) -> None:
    other = base_model()
    with torch.no_grad():
        other.transformer.wpe.weight[3, 4] += 1e-3
    shutil.move(base_folder / "model.safetensors", base_folder / "old")
    put(base_folder, "model.safetensors", dict(other.state_dict()))

    with pytest.raises(
        RunConflictError, match=r"has other weights now \(xxh3 .*\), and adapters fit no"
    ):
        load_pretrained(str(adapter))


def test_base_that_is_stored_in_another_way_is_the_same(adapter: Path, base_folder: Path) -> None:
    weights = dict(base_model().state_dict())
    (base_folder / "model.safetensors").unlink()
    torch.save({"module." + n: w for n, w in weights.items()}, base_folder / "pytorch_model.bin")

    assert load_pretrained(str(adapter))


def test_adapters_on_random_weights_know_which(tmp_path: Path) -> None:
    model, lora = adapted("c_attn")
    folder = save(tmp_path / "adapter", model, lora, Base("random", "", "tiny", 5))

    shape, weights = load_pretrained(str(folder))

    assert (shape.num_layers, shape.width) == (2, 32)
    assert "transformer.h.1.attn.c_attn.weight" in weights


def test_adapters_that_name_no_base_are_told(adapter: Path) -> None:
    (adapter / BASE_FILE).unlink()
    change(adapter, base_model_name_or_path=None)

    with pytest.raises(MissingError, match="does not say on which base it stands"):
        load_pretrained(str(adapter))


def test_adapters_on_themselves_are_no_endless_work(adapter: Path) -> None:
    (adapter / BASE_FILE).write_bytes(base_file(Base(str(adapter), ""), SHAPE))

    with pytest.raises(ConfigError):
        load_pretrained(str(adapter))


def test_tokenizer_of_adapters_that_stand_on_each_other_is_no_endless_search(adapter: Path) -> None:
    other = shutil.copytree(adapter, adapter.with_name("other"))
    change(adapter, base_model_name_or_path=str(other))
    change(other, base_model_name_or_path=str(adapter))

    with pytest.raises(ConfigError, match=f"Adapter {adapter} stands on itself"):
        tokenizer_of_model(str(adapter))


def test_whole_model_beside_adapters_is_the_model(adapter: Path, base_folder: Path) -> None:
    shutil.copytree(base_folder, adapter, dirs_exist_ok=True)

    _, weights = load_pretrained(str(adapter))

    assert hash_weights(weights) == hash_weights(base_model().state_dict())


def test_adapters_in_a_step_without_its_manifest_are_refused(adapter: Path) -> None:
    step = adapter.rename(adapter.with_name(step_name(20)))

    with pytest.raises(CorruptFileError, match=f"Model {step} is a step of a run, and not whole"):
        load_pretrained(str(step))


def change(adapter: Path, **settings: Any) -> None:
    path = adapter / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


NOT_FOLLOWED = [
    {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"},
    {"rank_pattern": {"c_attn": 2}}, {"alpha_pattern": {"c_attn": 2}}, {"lora_bias": True},
    {"init_lora_weights": "pissa"}, {"peft_type": "IA3"}, {"something_new": 3},
    {"trainable_token_indices": [1]},
]  # fmt: skip


@pytest.mark.parametrize("settings", NOT_FOLLOWED, ids=lambda settings: next(iter(settings)))
def test_kind_of_adapter_that_is_not_computed_is_refused_by_name(
    adapter: Path, settings: dict[str, Any]
) -> None:
    change(adapter, **settings)
    [(name, value)] = settings.items()

    with pytest.raises(ConfigError) as refused:
        load_pretrained(str(adapter))

    assert f"{name} {value}" in str(refused.value)
    assert "\n" not in str(refused.value)


def drop_a_factor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "lora_B" in name)]


def widen_a_factor(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = torch.zeros(4, 33)


def adapt_what_is_not_there(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.replace("h.1", "h.7")] = tensors.pop(name)


def add_a_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.weight"] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            drop_a_factor,
            r"must have a lora_A and a lora_B .*: of transformer\.h\.\d\S+ one is missing",
        ),
        (widen_a_factor, "does not fit its base"),
        (adapt_what_is_not_there, "does not fit its base"),
        (add_a_head, r"has base_model\.model\.lm_head\.weight, which is no .* Merge it with PEFT"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    adapter: Path, spoil: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    model, _ = adapted("c_attn")
    tensors = saved_tensors(model)
    spoil(tensors)
    (adapter / WEIGHTS_FILE).unlink()
    put(adapter, WEIGHTS_FILE, tensors)

    with pytest.raises(CorruptFileError, match=f"Adapter .* {said}"):
        load_pretrained(str(adapter))


@pytest.mark.parametrize(
    "numbers", [{"r": 0}, {"r": "4"}, {"lora_alpha": None}, {"lora_alpha": -1}]
)
def test_numbers_that_make_no_sense_are_refused(adapter: Path, numbers: dict[str, Any]) -> None:
    change(adapter, **numbers)

    with pytest.raises(InstructError, match=r"r and lora_alpha|does not fit"):
        load_pretrained(str(adapter))
