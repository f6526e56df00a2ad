"""
The files that weights come in: a folder with a config.json, or one file of somebody's training.

    found = read_weight_files("path/to/gpt2")
    found.tensors["h.0.attn.c_attn.weight"], found.said[0].values["n_head"]

Nothing is judged here: names, shapes and settings are as they were written. What every family does with
its tensors follows.

Sources: transformers' modeling_utils.py (file names, and the index of weights in several files);
https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md (pointers).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from instruct_core.checkpoints.manifest import FileEntry, manifest_in
from instruct_core.checkpoints.steps import (
    newest_committed_step,
    opened,
    read_verified,
    step_folders,
    step_name,
)
from instruct_core.data.model_template import TEMPLATE
from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from instruct_core.model.foreign import load_foreign
from instruct_core.model.foreign_settings import Said
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import aligned_buffer
from instruct_core.storage.torch_tensors import tensors_of

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # the first that is there holds the weights
GENERATION = "generation_config.json"
PICKLES = (".pt", ".pth", ".ckpt")
TENSORS = (".safetensors", ".bin")
STATE_DICTS = ("model", "state_dict", "model_state_dict", "module")  # nanoGPT, Lightning, others
SETTINGS = ("model_args", "config", "args", "hyper_parameters")  # what describes the model, first
# What DDP, torch.compile, FSDP and activation checkpointing put into names, wherever they wrap.
WRAPPERS = re.compile(r"(?:^module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
CHOICES = "Give a Hugging Face folder or id, a step folder of a run, or a .pt file."
MAX_NAMES = 5  # that a message shows
# A step folder of ours, by its own name or by files that only a save makes.
STEP = re.compile(r"(?:(?:damaged|left)-)?step-\d{8}(?:-attempt-\d{4,})?")
STATE = re.compile(r"state-\d{5}-of-\d{5}\.safetensors")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Found(NamedTuple):
    """Tensors under their own names, and the settings that lie beside them, best first."""

    tensors: Mapping[str, Any]
    said: list[Said]
    generation: Mapping[str, Any] = {}  # settings for generation, where there are any


def read_weight_files(init: str) -> Found:
    """
    Return what a folder or file holds.

    Raises:
        MissingError: It is not there, or a folder without weights.
        UnsafeFileError: A pickle that wants more than tensors and plain fields.
        CorruptFileError: A file that is cut off, or not the one it is named for.
        ConfigError: A pickle without a state dict.
    """
    folder, _, name = init.rstrip("/").rpartition("/")
    if name.endswith(PICKLES):
        return _read_pickle(Store(folder or "."), name, init)
    if name.endswith(TENSORS):
        return _read_folder(Store(folder or "."), init, name)
    return _read_folder(opened(init), init)


def refuse_no_model(init: str) -> None:
    """Refuse a folder that is no model, before it is read; raises as `read_weight_files`."""
    if init.endswith((*PICKLES, *TENSORS)):
        return
    store = opened(init)
    if "config.json" not in (names := store.names()):
        raise MissingError(f"Model {init} {_lacking(store, init, names, None)}")


def _read_folder(store: Store, init: str, name: str | None = None) -> Found:
    """Return the weights of a folder, or those in one file of it."""
    names = store.names()
    if name is not None and name not in names:
        raise MissingError(f"Model {init} is not there. {CHOICES}")
    refuse_half(init if name is None else init.rpartition("/")[0] or ".", names)
    if "config.json" not in names:
        raise MissingError(f"Model {init} {_lacking(store, init, names, name)}")
    entries: dict[str, FileEntry] = {}
    if "manifest.json" in names:  # a step folder of ours: its bytes are checked
        entries = {entry.file: entry for entry in manifest_in(store).files}
        read_verified(store, entries["config.json"])
    said = [Said("config.json", load_document(store, "config.json"), is_of_model=True)]
    generation = _generation_in(store, names)
    chosen = name or next((file for file in FOLDER_FILES if file in names), None)
    if chosen is None:
        raise MissingError(f"Model {init} has no weights: none of {', '.join(FOLDER_FILES)} in it.")
    if not chosen.endswith(".index.json"):
        return Found(_tensors_in(store, chosen, entries), said, generation)
    tensors: dict[str, Any] = {}
    for file in _indexed_files(store, chosen, names):
        tensors.update(_tensors_in(store, file, entries))
    return Found(tensors, said, generation)


def refuse_half(init: str, names: Collection[str]) -> None:
    """
    Refuse a step folder of ours that has no manifest: nobody knows whether its files are whole.

    Args:
        init: Its path or URL.
        names: What is in it.

    Raises:
        CorruptFileError: Names a step of the same run that is whole, if there is one.
    """
    above, _, folder = init.rstrip("/").rpartition("/")
    is_named = (
        STEP.fullmatch(folder) and TEMPLATE not in names
    )  # an export has one, and a save none
    is_ours = is_named or any(map(STATE.fullmatch, names))
    if not is_ours or not names or "manifest.json" in names:
        return
    run = Store(above or ("/" if init.startswith("/") else "."))
    newest = newest_committed_step(run)
    again = "Copy it again, with all of its files"
    instead = again if newest is None else f"Give one that is whole: {run.where(step_name(newest))}"
    raise CorruptFileError(
        f"Model {init} is a step of a run, and not whole: a save writes its manifest.json last, and "
        f"there is none. {instead}."
    )


def _lacking(store: Store, init: str, names: list[str], name: str | None) -> str:
    """Return what is said of a place without a config.json, and what could be given in its stead."""
    if name is not None:
        return f"cannot be read alone: no config.json beside it tells its shape. {CHOICES}"
    if not names and store.is_local and store.local_path("").is_file():
        return f"is a file, and none of {', '.join((*PICKLES, *TENSORS))}. {CHOICES}"
    if not names:
        return f"is not there, or empty. {CHOICES}"
    if (step := newest_committed_step(store)) is not None:
        place = f"{init.rstrip('/')}/{step_name(step)}"
        return f"is no model but a run's folder. Give a step of it: {place}"
    if step_folders(store):
        return (
            "is a run's folder, and no step in it is saved as a whole yet. Wait for its first save."
        )
    return f"is no model: no config.json in it. {CHOICES}"


def _generation_in(store: Store, names: list[str]) -> Mapping[str, Any]:
    return load_document(store, GENERATION) if GENERATION in names else {}


def _indexed_files(store: Store, index: str, names: list[str]) -> Iterator[str]:
    """Yield the files that an index names, which all lie beside it."""
    places = load_document(store, index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CorruptFileError(f"{store.where(index)} is no index of weights: no weight_map in it.")
    for file in sorted({str(place) for place in places.values()}):
        if file not in names:
            raise MissingError(
                f"{store.where(file)} is not there, and {index} says that weights are in it. "
                "Download the whole folder."
            )
        yield file


def _tensors_in(store: Store, name: str, entries: Mapping[str, FileEntry]) -> Mapping[str, Any]:
    where = store.where(name)
    if name.endswith(".bin"):
        data = store.read(name)
        _refuse_pointer(data, where)
        return _state_dict(load_foreign(data, where), where)
    if name in entries:
        buffer = read_verified(store, entries[name])
    else:
        buffer = aligned_buffer(store.size_bytes(name))
        store.read_hashed(name, buffer)
        _refuse_pointer(bytes(buffer[: len(LFS_POINTER)]), where)
    return tensors_of(torch.from_numpy(buffer), where)


def _read_pickle(store: Store, name: str, init: str) -> Found:
    if not store.exists(name):
        raise MissingError(f"Model {init} is not there. {CHOICES}")
    data = store.read(name)
    _refuse_pointer(data, init)
    content = load_foreign(data, init)
    said = [
        Said(place, values, is_of_model=place == "model_args" or "architectures" in values)
        for place in SETTINGS
        if isinstance(values := content.get(place), dict)
    ]
    return Found(_state_dict(content, init), said)


def _state_dict(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the tensors of a pickle, which lie bare or under a key."""
    if any(isinstance(value, Tensor) for value in content.values()):
        return content
    for key in STATE_DICTS:
        inner = content.get(key)
        if isinstance(inner, dict) and any(isinstance(v, Tensor) for v in inner.values()):
            return inner
    raise ConfigError(
        f"Model {where} must hold a state dict, bare or under {', '.join(STATE_DICTS)}; it has "
        f"{', '.join(sorted(content)[:5]) or 'nothing'}."
    )


def _refuse_pointer(data: bytes, where: str) -> None:
    if data.startswith(LFS_POINTER):
        raise CorruptFileError(
            f"{where} is a Git LFS pointer, not the file itself. Fetch it: git lfs pull"
        )


def plain_tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under their names without what wrappers have put into them."""
    return {
        WRAPPERS.sub("", name): value for name, value in found.items() if isinstance(value, Tensor)
    }


def in_float32(name: str, value: Tensor, init: str) -> Tensor:
    """Return a weight as float32; raises ConfigError for one of no floating type."""
    if not value.is_floating_point():
        raise ConfigError(
            f"Model {init} must have weights of a floating type: {name} is {value.dtype}."
        )
    return value.float()


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Return True for equal numbers; a NaN in one place of both is left to be named later."""
    return bool(((one == other) | one.isnan() & other.isnan()).all())
