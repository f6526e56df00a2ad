"""Files as other people's trainings leave them: read under every key, prefix and name, or refused."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from instruct_core.checkpoints.steps import step_name
from instruct_core.errors import (
    ConfigError,
    CorruptFileError,
    InstructError,
    MissingError,
    UnsafeFileError,
)
from instruct_core.model.weights import load_pretrained
from tests.instruct_core.model.their_gpt2 import (
    HEADS,
    MODEL_ARGS,
    as_linear,
    assert_same_scores,
    reference,
)


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    return reference()


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module"])
@pytest.mark.parametrize(
    "rename",
    [
        str,
        "model.{}".format,
        "module._orig_mod.{}".format,
        "net.gpt.{}".format,
        "_fsdp_wrapped_module.{}".format,
        lambda name: name.replace(".attn.", "._fsdp_wrapped_module.attn._orig_mod."),
        lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda name: name.removeprefix("transformer."),
        lambda name: "model." + name.removeprefix("transformer."),
    ],
)
def test_state_dict_is_found_under_every_key_and_wrapper(
    theirs: GPT2LMHeadModel, tmp_path: Path, key: str, rename: Callable[[str], str]
) -> None:
    content = {key: as_linear(theirs, rename), "hyper_parameters": {"n_head": HEADS}, "epoch": 1}
    torch.save(content, tmp_path / "last.ckpt")

    assert_same_scores(tmp_path / "last.ckpt", theirs)


def test_names_that_are_there_are_shown(tmp_path: Path) -> None:
    torch.save({"model": {"encoder.embed": torch.ones(2)}}, tmp_path / "a.pt")

    with pytest.raises(ConfigError, match=r"Its first tensors: encoder\.embed"):
        load_pretrained(str(tmp_path / "a.pt"))


def save_in_parts(folder: Path, model: GPT2LMHeadModel, ending: str) -> None:
    """Write every second tensor into another file, and the index."""
    model.config.save_pretrained(folder)
    tensors = {n: v.clone() for n, v in model.state_dict().items() if n != "lm_head.weight"}
    places = {name: f"part-{place % 2}.{ending}" for place, name in enumerate(tensors)}
    for file in set(places.values()):
        part = {name: tensors[name] for name, place in places.items() if place == file}
        save = save_file if ending == "safetensors" else torch.save
        save(part, folder / file)
    index = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    (folder / f"{index}.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_weights_in_several_files_are_read(
    theirs: GPT2LMHeadModel, tmp_path: Path, ending: str
) -> None:
    save_in_parts(tmp_path, theirs, ending)

    assert_same_scores(tmp_path, theirs)


def test_part_that_is_missing_is_named(theirs: GPT2LMHeadModel, tmp_path: Path) -> None:
    save_in_parts(tmp_path, theirs, "safetensors")
    (tmp_path / "part-1.safetensors").unlink()

    with pytest.raises(MissingError, match=r"part-1\.safetensors is not there"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.safetensors", "weights.bin"])
def test_file_is_read_with_the_config_beside_it(
    theirs: GPT2LMHeadModel, tmp_path: Path, name: str
) -> None:
    theirs.save_pretrained(tmp_path)
    if name.endswith(".bin"):
        torch.save(theirs.state_dict(), tmp_path / name)
    else:
        (tmp_path / "model.safetensors").rename(tmp_path / name)

    assert_same_scores(tmp_path / name, theirs)

    (tmp_path / "config.json").unlink()
    with pytest.raises(MissingError, match=r"no config\.json beside it"):
        load_pretrained(str(tmp_path / name))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "ckpt.pt"])
def test_git_lfs_pointer_is_called_that(theirs: GPT2LMHeadModel, tmp_path: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab12\nsize 548105171\n"
    theirs.config.save_pretrained(tmp_path)
    (tmp_path / name).write_text(pointer)

    with pytest.raises(CorruptFileError, match=f"{name} is a Git LFS pointer.* git lfs pull"):
        load_pretrained(str(tmp_path / name if name == "ckpt.pt" else tmp_path))


def test_numbers_of_numpy_and_paths_are_plain_data(theirs: GPT2LMHeadModel, tmp_path: Path) -> None:
    content = {
        "model": as_linear(theirs),
        "model_args": MODEL_ARGS | {"n_head": np.int64(HEADS)},
        "best_val_loss": np.float64(3.2),
        "rng": np.random.default_rng(1).integers(9, size=4),
        "losses": [np.float32(1.5), np.bool_(True)],
        "out_dir": Path("out"),
    }
    torch.save(content, tmp_path / "ckpt.pt")

    assert_same_scores(tmp_path / "ckpt.pt", theirs)


def test_path_that_python_313_wrote_is_plain_data(
    theirs: GPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only there are paths of a module that other Pythons do not have."""
    home = ModuleType("pathlib._local")
    home.PosixPath = type("PosixPath", (), {"__reduce__": lambda path: (type(path), ("out",))})  # type: ignore[attr-defined]
    home.PosixPath.__module__ = "pathlib._local"
    monkeypatch.setitem(sys.modules, "pathlib._local", home)
    content = {"model": as_linear(theirs), "model_args": MODEL_ARGS, "out_dir": home.PosixPath()}
    torch.save(content, tmp_path / "ckpt.pt")

    assert_same_scores(tmp_path / "ckpt.pt", theirs)


def test_first_refused_name_is_the_same_in_every_process(tmp_path: Path) -> None:
    content = {"model": {}, "b": os.system, "a": datetime.timedelta, "c": subprocess.call}
    torch.save(content, tmp_path / "a.pt")
    code = "import sys; from instruct_core.model.weights import load_pretrained as load\n"
    code += "try: load(sys.argv[1])\nexcept Exception as error: print(error)"

    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.pt")], text=True, check=True,
            capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip

    assert len(said) == 1
    assert "it wants datetime.timedelta" in said.pop()


def test_numpy_function_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": {}, "load": np.load}, tmp_path / "a.pt")

    with pytest.raises(UnsafeFileError, match=r"it wants numpy\.load"):
        load_pretrained(str(tmp_path / "a.pt"))


def test_whole_numbers_are_no_weights(theirs: GPT2LMHeadModel, tmp_path: Path) -> None:
    weights = as_linear(theirs)
    name = "transformer.h.0.mlp.c_fc.weight"
    weights[name] = weights[name].to(torch.int8)
    torch.save({"model": weights, "model_args": MODEL_ARGS}, tmp_path / "a.pt")

    with pytest.raises(InstructError, match=f"{name} is torch.int8"):
        load_pretrained(str(tmp_path / "a.pt"))


@pytest.mark.parametrize(("kind", "name"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_numbers_of_a_kind_that_is_not_read_are_named(
    theirs: GPT2LMHeadModel, tmp_path: Path, kind: torch.dtype, name: str
) -> None:
    theirs.save_pretrained(tmp_path)
    state = {"wte.weight": theirs.transformer.wte.weight.detach().to(kind)}
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(CorruptFileError) as caught:
        load_pretrained(str(tmp_path))

    assert str(caught.value) == (
        f"{tmp_path}/model.safetensors has wte.weight as {name}, which is not read. Give weights in "
        "bf16, fp16 or fp32."
    )


def test_step_that_is_not_whole_yet_is_not_advised(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / step_name(step)).mkdir()
    with pytest.raises(MissingError, match=r"no step in it is saved as a whole yet\. Wait for"):
        load_pretrained(f"{tmp_path}/")

    (tmp_path / step_name(10) / "manifest.json").touch()

    with pytest.raises(MissingError, match=f"Give a step of it: {tmp_path / step_name(10)}$"):
        load_pretrained(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("place", "beside"),
    [
        ("run/step-00000020", ""),
        ("left-step-00000020-attempt-0003", ""),
        ("copied", "state-00000-of-00002.safetensors"),
    ],
)
@pytest.mark.parametrize("file", ["", "/model.safetensors"])
def test_step_without_its_manifest_is_refused_and_a_whole_one_named(
    theirs: GPT2LMHeadModel, tmp_path: Path, place: str, beside: str, file: str
) -> None:
    folder = tmp_path / place
    theirs.save_pretrained(folder)
    if beside:
        (folder / beside).touch()

    with pytest.raises(CorruptFileError) as caught:
        load_pretrained(f"{folder}{file}")

    assert str(caught.value) == (
        f"Model {folder} is a step of a run, and not whole: a save writes its manifest.json last, and "
        "there is none. Copy it again, with all of its files."
    )
    whole = folder.with_name(step_name(10))
    whole.mkdir()
    (whole / "manifest.json").touch()
    with pytest.raises(CorruptFileError, match=rf"Give one that is whole: {whole}\.$"):
        load_pretrained(f"{folder}/")
