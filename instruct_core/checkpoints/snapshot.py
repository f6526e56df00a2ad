"""
What each rank writes of a step: its share of the tensors, as they lie, or put together from all ranks.

    snapshot = snapshot_of(step, model, model_config, optimizer, rng, facts, may_be_direct)

Rank 0 writes the model, the optimizer is shared out so that all ranks write the same number of bytes, and
each tensor is whole in one file. So a step has the same files however its run was spread over GPUs, and
goes on with any other number of them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from instruct_core import ranks
from instruct_core.checkpoints.manifest import model_files, state_name
from instruct_core.checkpoints.staging import Image
from instruct_core.storage.documents import dump_document
from instruct_core.storage.torch_tensors import Tensors


class Part(NamedTuple):
    """A safetensors file to be: its name, its tensors as they lie, and its metadata."""

    name: str
    tensors: Tensors
    metadata: Mapping[str, str]


class Snapshot(NamedTuple):
    """A rank's share of a checkpoint. Its tensors must not change until `copied` is set."""

    step: int
    parts: list[Part]
    documents: list[Image]
    facts: Mapping[str, Any]
    total_bytes: int  # of all ranks
    direct: bool  # write the tensors from where they lie
    copied: threading.Event


def snapshot_of(
    step: int,
    model: Tensors,
    model_config: Mapping[str, Any],
    optimizer: Tensors,
    rng: Tensors,
    facts: Mapping[str, Any],
    may_be_direct: bool,
) -> Snapshot:
    """
    Return this rank's share of a step; called by all ranks, in the main thread.

    Args:
        step: See `Checkpoints.take`, and so for all others.
        model: Tensors, or parts of them.
        model_config: Content of a file.
        optimizer: Tensors, or parts of them.
        rng: Of this rank.
        facts: Of the manifest.
        may_be_direct: Nobody changes the tensors before they are written.
    """
    rank, world_size = ranks.rank(), ranks.world_size()
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    total = model_bytes + sum(tensor.nbytes for tensor in optimizer.values())
    in_parts = any(ranks.is_in_parts(tensor) for tensor in model.values())
    mine = _share(optimizer, rank, world_size, model_bytes)
    if in_parts:
        moments = _put_together(optimizer, mine)
        weights = _put_together(model, model if rank == 0 else ())
    else:
        moments = {name: optimizer[name] for name in optimizer if name in mine}
        weights = model
    state = {f"optimizer/{name}": tensor for name, tensor in moments.items()}
    state |= {f"rng/{name}": tensor for name, tensor in rng.items()}
    parts, documents = [Part(state_name(rank, world_size), state, {})], []
    if rank == 0:
        # transformers refuses a file that does not say "pt".
        config_name, weights_name = model_files("base" in facts)
        parts.append(Part(weights_name, weights, {"format": "pt"}))
        documents.append(Image(config_name, [memoryview(dump_document(model_config))]))
    # What was put together, or copied beside it, is nobody else's.
    direct = in_parts or (may_be_direct and not any(tensor.is_cuda for tensor in model.values()))
    return Snapshot(step, parts, documents, facts, total, direct, threading.Event())


def _put_together(tensors: Tensors, wanted: Collection[str]) -> Tensors:
    """
    Return the wanted tensors whole, on the host, as copies that training does not change.

    Each of which every rank has a part is put together by all ranks, one at a time, also where nobody
    here wants it. Counts of steps are everybody's, and change beside the writing.
    """
    found = {}
    for name, tensor in tensors.items():
        whole = ranks.whole(tensor)
        if name in wanted:
            found[name] = whole.cpu() if ranks.is_in_parts(tensor) else whole.to("cpu", copy=True)
    return found


def _share(tensors: Tensors, rank: int, world_size: int, model_bytes: int) -> set[str]:
    """Return the names that one rank writes: largest first, each to the rank with the least."""
    loads = [model_bytes] + [0] * (world_size - 1)
    mine = set()
    for name in sorted(tensors, key=lambda n: (-tensors[n].nbytes, n)):
        lightest = loads.index(min(loads))
        loads[lightest] += tensors[name].nbytes
        if lightest == rank:
            mine.add(name)
    return mine
