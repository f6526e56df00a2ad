"""
Checkpoints of a run: a folder a step, whole when its manifest is there, verified while it is read.

    checkpoints = Checkpoints(Store("checkpoints_instruct/my-run"))
    attempt = checkpoints.claim_attempt()
    checkpoints.save(step=100, ...)            # every rank: each writes its share
    loaded = checkpoints.load_newest()         # every rank: the newest whose bytes all verify

    run.json  committed.json  attempts/0003.json
    step-00000100/  config.json  model.safetensors  state-00000-of-00002.safetensors  manifest.json

Data is written first, the manifest last, and nothing is renamed or overwritten: a save that is
killed leaves a folder without a manifest, which the next save removes. The state files hold the
optimizer, shared out over the ranks by bytes, and each rank's random number generators.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from instruct_core import ranks
from instruct_core.errors import CorruptFileError, FencedError, NoCheckpointError
from instruct_core.storage import tensor_file
from instruct_core.storage.documents import dump_document, seal
from instruct_core.storage.steps import (
    FORMAT,
    STEP_FOLDER,
    committed_steps,
    read_manifest,
    state_name,
    step_name,
)
from instruct_core.storage.store import Store

logger = logging.getLogger(__name__)

ATTEMPT_FILE = re.compile(r"(\d{4,})\.json")
TYPE_NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
TORCH_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}

Tensors = Mapping[str, Tensor]


class Loaded(NamedTuple):
    """A verified checkpoint as one rank sees it."""

    step: int
    manifest: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor] | None  # None for a rank that the saved run did not have


class Checkpoints:
    """
    The checkpoints of one run.

    Args:
        store: The run's folder.
        on_damaged: Told of every checkpoint that is set aside, on rank 0.
    """

    def __init__(
        self, store: Store, on_damaged: Callable[[str], None] = lambda message: None
    ) -> None:
        self.store = store
        self.attempt = -1
        self._on_damaged = on_damaged

    def claim_attempt(self) -> int:
        """Take the next attempt number, which nobody else can take, and return it. All ranks."""
        if ranks.rank() == 0:
            self.attempt = self._newest_attempt() + 1
            claim = json.dumps({"attempt": self.attempt, "claimed_at": time.time()}).encode()
            while not self.store.claim(f"attempts/{self.attempt:04d}.json", claim):
                self.attempt += 1
        self.attempt = ranks.gather_from_ranks(self.attempt)[0]
        return self.attempt

    def _newest_attempt(self) -> int:
        matches = [ATTEMPT_FILE.fullmatch(name) for name in self.store.names("attempts")]
        return max((int(match[1]) for match in matches if match), default=-1)

    def save(
        self,
        step: int,
        model: Tensors,
        model_config: Mapping[str, Any],
        optimizer: Tensors,
        rng: Tensors,
        facts: Mapping[str, Any],
        keep: int,
    ) -> None:
        """
        Write one checkpoint and commit it. Called by all ranks; returns on all once it is durable.

        Args:
            step: Its global step.
            model: All weights under Hugging Face's names.
            model_config: Content of config.json.
            optimizer: All optimizer tensors, the same on every rank.
            rng: This rank's random number generators.
            facts: Further entries of the manifest: progress, identity, versions.
            keep: How many checkpoints remain.

        Raises:
            FencedError: A newer attempt has begun; nothing was committed.
            OSError: A rank could not write; nothing was committed.
        """
        folder = self.store / step_name(step)
        if ranks.rank() == 0:
            self._check_fence()
            self.store.remove(step_name(step))  # leftovers of a save that was killed
        ranks.barrier()
        entries: list[dict[str, Any]] = []
        problem = ""
        try:
            entries = self._write_share(folder, model, model_config, optimizer, rng)
        except OSError as error:
            problem = f"rank {ranks.rank()}: {error}"
        gathered = ranks.gather_from_ranks((entries, problem))
        problems = [problem for _, problem in gathered if problem]
        if problems:
            raise OSError(f"Checkpoint {folder.url} could not be written: {'; '.join(problems)}")
        if ranks.rank() == 0:
            self._check_fence()
            files = [entry for entries, _ in gathered for entry in entries]
            manifest = {
                "format": FORMAT,
                "global_step": step,
                "attempt": self.attempt,
                "world_size": ranks.world_size(),
                "saved_at": time.time(),
                **facts,
                "files": files,
            }
            folder.write("manifest.json", seal(manifest))
            self.store.claim("committed.json", json.dumps({"first_step": step}).encode())
            try:
                self._prune(step, keep)
            except OSError as error:  # an old folder that somebody reads on NFS; next time then
                logger.warning("Old checkpoints of %s remain: %s", self.store.url, error)
        ranks.barrier()

    def _check_fence(self) -> None:
        if (newest := self._newest_attempt()) > self.attempt:
            raise FencedError(
                f"Run {self.store.url} belongs to attempt {newest} now; this is attempt "
                f"{self.attempt}, which must not write any more."
            )

    def _write_share(
        self,
        folder: Store,
        model: Tensors,
        model_config: Mapping[str, Any],
        optimizer: Tensors,
        rng: Tensors,
    ) -> list[dict[str, Any]]:
        rank, world_size = ranks.rank(), ranks.world_size()
        entries = []
        if rank == 0:
            config = dump_document(model_config)
            folder.write("config.json", config)
            hashed = xxhash.xxh3_128_hexdigest(config)
            entries.append({"file": "config.json", "bytes": len(config), "xxh3": hashed})
            # transformers refuses a file that does not say "pt".
            entries.append(_write_file(folder, "model.safetensors", model, {"format": "pt"}))
        share = {
            f"optimizer/{name}": optimizer[name] for name in _share(optimizer, rank, world_size)
        }
        share |= {f"rng/{name}": tensor for name, tensor in rng.items()}
        entries.append(_write_file(folder, state_name(rank, world_size), share, {}))
        return entries

    def _prune(self, newest: int, keep: int) -> None:
        """Remove what is older than the last ``keep``, manifest first, and leftovers of kills."""
        kept = {*committed_steps(self.store)[-keep:], newest}
        for name in self.store.names():
            match = STEP_FOLDER.fullmatch(name)
            if match and int(match[1]) not in kept and int(match[1]) < newest:
                self.store.remove(f"{name}/manifest.json")
                self.store.remove(name)

    def load_newest(self) -> Loaded | None:
        """
        Return the newest checkpoint that verifies on all ranks, or None for a run without any.

        A damaged one is named and set aside, and the one before it is tried.

        Raises:
            NoCheckpointError: The run has committed a step before, and none can be loaded.
        """
        mine = committed_steps(self.store) if ranks.rank() == 0 else []
        steps = ranks.gather_from_ranks(mine)[0]  # one rank lists: listings may differ
        for step in reversed(steps):
            loaded, problem, complete = None, "", False
            try:
                manifest = read_manifest(self.store, step)
                complete = True
                loaded = self._load(step, manifest)
            except (CorruptFileError, FileNotFoundError) as error:
                problem = str(error)
            problems = [problem for problem in ranks.gather_from_ranks(problem) if problem]
            if loaded is not None and not problems:
                return loaded
            if ranks.rank() == 0:
                self._set_aside(step, problems[0], was_committed=complete)
            ranks.barrier()
        self._refuse_to_start_over()
        return None

    def _load(self, step: int, manifest: dict[str, Any]) -> Loaded:
        folder = self.store / step_name(step)
        entries = {entry["file"]: entry for entry in manifest["files"]}
        read_verified(folder, entries["config.json"])
        model = read_tensors(folder, entries["model.safetensors"])
        optimizer: dict[str, Tensor] = {}
        rng: dict[str, Tensor] | None = None
        for rank in range(manifest["world_size"]):
            state = read_tensors(folder, entries[state_name(rank, manifest["world_size"])])
            optimizer |= _below("optimizer/", state)
            if rank == ranks.rank():
                rng = _below("rng/", state)
        return Loaded(step, manifest, model, optimizer, rng)

    def _set_aside(self, step: int, problem: str, was_committed: bool) -> None:
        aside = f"damaged-{step_name(step)}-attempt-{max(self.attempt, 0):04d}"
        if was_committed:
            self.store.claim("committed.json", json.dumps({"first_step": step}).encode())
        self.store.move(step_name(step), aside)
        self._on_damaged(f"{problem} Set aside as {self.store.where(aside)}.")

    def _refuse_to_start_over(self) -> None:
        if self.store.exists("committed.json"):
            raise NoCheckpointError(
                f"Run {self.store.url} has saved checkpoints before, and none of them can be loaded "
                "now. It does not start over by itself: restore its step folders, or begin again "
                "under another --run."
            )


def read_verified(folder: Store, entry: Mapping[str, Any]) -> Tensor:
    """
    Return a file's bytes as a uint8 tensor after comparing them with its manifest entry.

    Raises:
        CorruptFileError: It is gone, or not what was written.
    """
    where = f"Checkpoint {folder.where(entry['file'])}"
    try:
        size = folder.size_bytes(entry["file"])
    except FileNotFoundError:
        raise CorruptFileError(f"{where} is gone, though the manifest names it.") from None
    if size != entry["bytes"]:
        raise CorruptFileError(
            f"{where} is corrupt: it has {size} bytes, expected {entry['bytes']}."
        )
    buffer = torch.empty(size, dtype=torch.uint8)
    folder.read_into(entry["file"], buffer.numpy())
    if xxhash.xxh3_128_hexdigest(buffer.numpy().data) != entry["xxh3"]:
        raise CorruptFileError(f"{where} is corrupt: xxh3 differs from the manifest.")
    return buffer


def read_tensors(folder: Store, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """
    Return the tensors of a verified file; see `read_verified`.

    They are views of one buffer, which costs no copy, but for those that do not begin where
    torch's own would: a product's last bits may depend on that, and a resume must not.
    """
    buffer = read_verified(folder, entry)
    places, _ = tensor_file.parse_header(buffer.numpy(), folder.where(entry["file"]))
    tensors = {}
    for name, place in places.items():
        view = buffer[place.start : place.stop].view(TORCH_TYPES[place.dtype]).view(place.shape)
        aligned = view.data_ptr() % tensor_file.ALIGNMENT_BYTES == 0
        tensors[name] = view if aligned else view.clone()
    return tensors


def _write_file(
    folder: Store, name: str, tensors: Tensors, metadata: Mapping[str, str]
) -> dict[str, Any]:
    with folder.create(name) as sink:
        parts = {key: _from_torch(tensor) for key, tensor in tensors.items()}
        size, hashed = tensor_file.write_tensors(sink, parts, metadata)
    return {"file": name, "bytes": size, "xxh3": hashed}


def _from_torch(tensor: Tensor) -> tensor_file.Tensor:
    on_host = tensor.detach().cpu().contiguous()
    data: np.ndarray[Any, np.dtype[np.uint8]] = on_host.reshape(-1).view(torch.uint8).numpy()
    return tensor_file.Tensor(TYPE_NAMES[tensor.dtype], tuple(tensor.shape), data.data)


def _share(tensors: Tensors, rank: int, world_size: int) -> list[str]:
    """Return the names that one rank writes: largest first, each to the rank with the least."""
    loads = [0] * world_size
    mine = []
    for name in sorted(tensors, key=lambda n: (-tensors[n].nbytes, n)):
        lightest = loads.index(min(loads))
        loads[lightest] += tensors[name].nbytes
        if lightest == rank:
            mine.append(name)
    return mine


def _below(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
