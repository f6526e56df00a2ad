"""
A folder of adapters: a step of a run that was trained with --lora, or what PEFT has saved.

    adapter = find_adapter("checkpoints_instruct/mine/step-00000100")     # None for a whole model
    adapter.lora.rank, adapter.base.place

A step's manifest names the base by place and hash; beside an exported adapter `base.json` does.
Another's adapter_config.json names a place alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from instruct_core.checkpoints.manifest import FileEntry, manifest_in
from instruct_core.checkpoints.steps import opened, read_verified
from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.lora_settings import CONFIG_FILE, WEIGHTS_FILE, Base, Lora, lora_said
from instruct_core.model.weight_files import FOLDER_FILES, PICKLES, refuse_half
from instruct_core.shape import TRAINED, Shape, usable_positions
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import aligned_buffer
from instruct_core.storage.torch_tensors import tensors_of

BASE_FILE = "base.json"
FILES = (*PICKLES, ".safetensors", ".bin")  # which are no folder


class Adapter(NamedTuple):
    """What a folder of adapters holds."""

    place: str
    lora: Lora
    base: Base
    tensors: dict[str, Tensor]  # under PEFT's names
    trained_positions: int | None  # None where nobody says it: as many as the base's


def find_adapter(init: str) -> Adapter | None:
    """
    Return the adapters in a folder; None where a whole model lies, or nothing.

    Raises:
        MissingError: Their base or their weights are not told.
        CorruptFileError: They are not what was written, or in a step folder without a manifest.
        ConfigError: They are of a kind that is not followed.
    """
    if init.endswith(FILES):
        return None
    store = opened(init)
    names = set(store.names())
    refuse_half(init, names)
    if CONFIG_FILE not in names or names & set(FOLDER_FILES):
        return None
    if WEIGHTS_FILE not in names:
        raise MissingError(f"Adapter {init} has no weights: no {WEIGHTS_FILE} in it.")
    entries: dict[str, FileEntry] = {}
    base, trained = None, None
    if "manifest.json" in names:  # a step folder of ours: its bytes are checked
        manifest = manifest_in(store)
        entries, base = {entry.file: entry for entry in manifest.files}, manifest.base
        trained = usable_positions(manifest.model)
        read_verified(store, entries[CONFIG_FILE])
    document = load_document(store, CONFIG_FILE)
    lora = lora_said(document, store.where(CONFIG_FILE))
    if base is None:
        said = document.get("base_model_name_or_path")
        beside = _beside(store) if BASE_FILE in names else _Beside(str(said or ""), "")
        base, trained = beside.base, beside.trained_positions
    if not base.place:
        raise MissingError(
            f"Adapter {init} does not say on which base it stands. Write its place into {CONFIG_FILE} as "
            "base_model_name_or_path."
        )
    if WEIGHTS_FILE in entries:
        buffer = read_verified(store, entries[WEIGHTS_FILE])
    else:
        buffer = aligned_buffer(store.size_bytes(WEIGHTS_FILE))
        store.read_hashed(WEIGHTS_FILE, buffer)
    tensors = tensors_of(torch.from_numpy(buffer), store.where(WEIGHTS_FILE))
    return Adapter(init, lora, base, tensors, trained)


@dataclass(frozen=True)
class _Beside(Base):
    """The content of base.json."""

    trained_positions: int | None = None

    @property
    def base(self) -> Base:
        return Base(self.place, self.xxh3, self.model, self.seed, self.vocab_size)


def _beside(store: Store) -> _Beside:
    problem = f"{store.where(BASE_FILE)} names no base of an adapter"
    beside = structure(load_document(store, BASE_FILE), _Beside, problem)
    if beside.trained_positions is not None and beside.trained_positions < 1:
        raise CorruptFileError(f"{problem}: {TRAINED} is {beside.trained_positions}.")
    return beside


def base_file(base: Base, shape: Shape) -> bytes:
    """Return the content of base.json; the shape is that of the adapted model."""
    return dump_document(asdict(base) | {TRAINED: usable_positions(shape)})
