"""
Step folders for those who look at a run without loading it. No torch.

    committed_steps(Store("checkpoints_instruct/my-run"))     # [100, 200, 300]
    damage_of(store, 300)                                     # "" where every byte is right
"""

from __future__ import annotations

import re
from typing import Any

import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import load_sealed
from instruct_core.storage.store import Store

FORMAT = 1

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
STEP_FOLDER = re.compile(r"step-(\d{8})")


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:08d}"


def committed_steps(store: Store) -> list[int]:
    """Return the steps that have a manifest, oldest first. Their bytes are not verified."""
    matches = [STEP_FOLDER.fullmatch(name) for name in store.names()]
    steps = [int(match[1]) for match in matches if match]
    return [step for step in steps if store.exists(f"{step_name(step)}/manifest.json")]


def state_name(rank: int, world_size: int) -> str:
    """Return the name of the file that one rank writes."""
    return f"state-{rank:05d}-of-{world_size:05d}.safetensors"


def read_manifest(store: Store, step: int) -> dict[str, Any]:
    """
    Return a checkpoint's manifest.

    Raises:
        FileNotFoundError: There is none.
        CorruptFileError: It is not one of ours, or names files outside its folder.
    """
    where = store.where(f"{step_name(step)}/manifest.json")
    manifest = load_sealed(store, f"{step_name(step)}/manifest.json")
    try:
        names = [entry["file"] for entry in manifest["files"]]
        states = [
            state_name(rank, manifest["world_size"]) for rank in range(manifest["world_size"])
        ]
        sound = (
            manifest["format"] == FORMAT
            and manifest["global_step"] == step
            and set(names) >= {"config.json", "model.safetensors", *states}
            and all(PLAIN_NAME.fullmatch(name) for name in names)
            and all(isinstance(entry["bytes"], int) for entry in manifest["files"])
            and all(isinstance(entry["xxh3"], str) for entry in manifest["files"])
        )
    except (KeyError, TypeError) as error:
        raise CorruptFileError(f"Checkpoint {where} is no manifest: {error!r}.") from error
    if not sound:
        raise CorruptFileError(f"Checkpoint {where} is no manifest of this format and step.")
    return manifest


def damage_of(store: Store, step: int) -> str:
    """Return what is wrong with a checkpoint, in one sentence; "" where every byte is right."""
    folder = store / step_name(step)
    try:
        for entry in read_manifest(store, step)["files"]:
            data = folder.read(entry["file"])
            if len(data) != entry["bytes"] or xxhash.xxh3_128_hexdigest(data) != entry["xxh3"]:
                return f"Checkpoint {folder.where(entry['file'])} is corrupt."
    except (CorruptFileError, FileNotFoundError) as error:
        return str(error)
    return ""
