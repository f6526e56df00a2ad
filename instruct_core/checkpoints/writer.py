"""
Checkpoints of a run: a folder a step, whole when its manifest is there, verified while it is read.

    checkpoints = Checkpoints(Store("checkpoints_instruct/my-run"))
    attempt = checkpoints.claim_attempt()
    snapshot = checkpoints.take(step=100, ...)  # every rank, main thread: its share, as it lies
    checkpoints.write(snapshot, Keep(last=3))   # every rank, any thread: durable when it returns
    snapshot.copied.wait()                      # before the tensors change: soon after write began
    loaded = load_newest(checkpoints)           # see loading.py

    run.json  committed.json  attempts/0003.json
    step-00000100/  config.json  model.safetensors  state-00000-of-00002.safetensors  manifest.json

Data is written first, the manifest last, and nothing is overwritten: a save that is killed leaves a
folder without a manifest, which the next save removes. Every file is created exclusively, so an
attempt that has lost its node and lives on cannot change a newer one's; on a disk its manifest may still
land on them, and counts for nothing: a step is saved if its manifest says what this attempt has hashed.
In an object store each save has a folder of its own (see steps.py). Rank 0 writes the model; the
optimizer is shared out so that all ranks write the same number of bytes; every rank adds its random
number generators.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from instruct_core import ranks
from instruct_core.checkpoints.attempts import check_fence, newest_attempt
from instruct_core.checkpoints.manifest import FileEntry, Manifest
from instruct_core.checkpoints.removal import drop, remove_save, take_away
from instruct_core.checkpoints.retention import Keep, Removed, Retention, SpoiledError
from instruct_core.checkpoints.snapshot import Snapshot, snapshot_of
from instruct_core.checkpoints.staging import Image, Staging, direct_image
from instruct_core.checkpoints.steps import is_saved_as, mark_committed, new_folder
from instruct_core.checkpoints.together import on_rank_0, together
from instruct_core.errors import FencedError
from instruct_core.storage.documents import seal
from instruct_core.storage.patience import NO_ROOM
from instruct_core.storage.store import Store
from instruct_core.storage.torch_tensors import Tensors


class Ours(NamedTuple):
    """What this process has written, or has read every byte of: a step, where, and its files."""

    step: int
    folder: str
    files: list[FileEntry]


class Checkpoints:
    """
    The checkpoints of one run, for its writer.

    Args:
        store: The run's folder.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.attempt = -1
        # Called with the step when all but the last of this rank's files are written: a drill's moment.
        self.amid_data: Callable[[int], None] = lambda step: None
        # For saves: what fails is told at once, and tried again later.
        self._place = Store(store.url, patience_seconds=0.0)
        self.retention = Retention(self._place)
        self._hashed = Ours(-1, "", [])
        self._num_saves = 0  # that this attempt has begun
        self._may_count = False  # whether the manifest of this save was asked for: it may be there
        self._staging = Staging()
        self._group: Any = None

    def claim_attempt(self) -> int:
        """Take the next attempt number, which nobody else can take, and return it. All ranks."""
        if ranks.rank() == 0:
            self.attempt = newest_attempt(self.store) + 1
            while not self.store.claim(f"attempts/{self.attempt:04d}.json", self._claim()):
                self.attempt += 1
        self.attempt = self.retention.attempt = ranks.value_of_rank_0(self.attempt)
        self._group = ranks.side_group()
        return self.attempt

    def _claim(self) -> bytes:
        claim = {
            "attempt": self.attempt,
            "claimed_at": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "token": uuid.uuid4().hex,  # nobody else's claim has the same bytes
        }
        return json.dumps(claim).encode()

    def adopt(self, step: int, folder: str, files: list[FileEntry]) -> None:
        """Take a checkpoint for ours, whose every byte was compared: training goes on from it."""
        self.retention.known_good.add(step)
        self._hashed = Ours(step, folder, files)

    def take(
        self,
        step: int,
        model: Tensors,
        model_config: Mapping[str, Any],
        optimizer: Tensors,
        rng: Tensors,
        facts: Mapping[str, Any],
        copied: bool = True,
    ) -> Snapshot:
        """
        Return this rank's share of a checkpoint. Called by all ranks, in the main thread.

        Args:
            step: Its global step.
            model: All weights under Hugging Face's names, or adapters under PEFT's.
            model_config: Content of config.json, or of adapter_config.json.
            optimizer: All optimizer tensors, the same on every rank.
            rng: This rank's random number generators.
            facts: Further fields of the manifest: progress, model, identity, versions; base of adapters;
                loss_scale in float16.
            copied: False to write CPU tensors from where they lie, all the time.
        """
        self._staging.mark()
        may_be_direct = not copied and self.store.is_local
        return snapshot_of(step, model, model_config, optimizer, rng, facts, may_be_direct)

    def _images(self, snapshot: Snapshot) -> list[Image]:
        """Return the files of a snapshot; from here on its tensors may change, if it is no direct one."""
        make = direct_image if snapshot.direct else self._staging.image
        images = [make(*part) for part in snapshot.parts]
        self._staging.finish()
        snapshot.copied.set()
        return [*images, *snapshot.documents]

    def write(self, snapshot: Snapshot, keep: Keep) -> Removed:
        """
        Write a checkpoint and commit it. Called by all ranks; returns on all once it is durable.

        Raises:
            FencedError: A newer attempt has begun; nothing was committed.
            OSError: A rank could not write; nothing was committed, and no part of it is left.
        """
        try:
            return self._write(snapshot, keep)
        finally:
            snapshot.copied.set()  # whatever happened: somebody waits for it

    def _write(self, snapshot: Snapshot, keep: Keep) -> Removed:
        images: list[Image] = []

        together(self._group, lambda: images.extend(self._images(snapshot)))
        made = on_rank_0(self._group, lambda: self._make_ready(snapshot, keep))
        if made is None:
            return Removed([], [])
        room, name = Removed(*made[0]), made[1]
        folder = self._place / name
        try:
            written = together(self._group, lambda: list(self._put(folder, snapshot.step, images)))
            files = [FileEntry(*entry) for part in written for entry in part]
            self._hashed = Ours(snapshot.step, name, files)
            on_rank_0(self._group, lambda: self._commit(snapshot, folder, files))
        except OSError as error:
            if ranks.rank() == 0:
                self._clean_up(snapshot.step, name, error)
            raise
        on_rank_0(self._group, lambda: self._prune(keep, snapshot.step, room))
        return room

    def _put(self, folder: Store, step: int, images: list[Image]) -> Iterator[tuple[str, int, str]]:
        """Write this rank's files; yield the fields of their entries."""
        for image in images:
            if image is images[-1]:
                self.amid_data(step)
            yield image.name, image.num_bytes, folder.put(image.name, image.views)

    def _prune(self, keep: Keep, newest: int, room: Removed) -> None:
        """Remove what need not stay. The step is committed: only its own damage makes that undone."""
        check_fence(self._place, self.attempt)
        try:
            self.retention.prune(keep, newest, room)
        except SpoiledError:
            raise
        except OSError as error:
            room.problems.append(f"{self._place.url}: {error}")

    def _make_ready(self, snapshot: Snapshot, keep: Keep) -> tuple[Removed, str] | None:
        """Make room for a step; return what went, and its folder. None if it is committed already."""
        if self._clear(snapshot.step):
            return None
        num_bytes, num_files = snapshot.total_bytes, 2 * ranks.world_size() + 2
        room = self.retention.make_room(keep, snapshot.step, num_bytes, num_files)
        self._num_saves, self._may_count = self._num_saves + 1, False
        return room, new_folder(self._place, snapshot.step, self.attempt, self._num_saves)

    def _clear(self, step: int) -> bool:
        """Have no save in the way on a disk; True if the step is ours and committed already."""
        check_fence(self._place, self.attempt)
        if self._hashed.step == step and is_saved_as(self._place, *self._hashed):
            mark_committed(self._place, step)  # its commit may have been done, and not been told so
            return True
        self.retention.forget(step)
        # Elsewhere none is in the way, and what others left goes once ours is committed.
        if self._place.is_local:
            aside = take_away(self._place, step, self.attempt)
            with contextlib.suppress(OSError):  # a file of it is open, on NFS: it goes later
                drop(self._place, aside)
        return False

    def _commit(self, snapshot: Snapshot, folder: Store, files: list[FileEntry]) -> None:
        sizes = folder.sizes()
        for entry in files:  # a store that lost a part and did not say so
            if sizes.get(entry.file) != entry.bytes:
                raise OSError(
                    f"{folder.where(entry.file)} has {sizes.get(entry.file)} bytes after "
                    f"{entry.bytes} were written"
                )
        manifest = Manifest(
            global_step=snapshot.step,
            attempt=self.attempt,
            world_size=ranks.world_size(),
            saved_at=time.time(),
            files=files,
            **snapshot.facts,
        )
        check_fence(self._place, self.attempt)
        sealed = seal(manifest.document)
        self._may_count = True
        if not folder.claim("manifest.json", sealed):
            check_fence(self._place, self.attempt)
            # By an attempt that was overtaken: it goes, and the save is tried again.
            raise OSError(f"{folder.where('manifest.json')} was written by somebody else meanwhile")
        if folder.read("manifest.json") != sealed:  # what is there goes if it is nobody newer's
            raise OSError(f"{folder.where('manifest.json')} reads back other than it was written")
        mark_committed(self._place, snapshot.step)

    def _clean_up(self, step: int, folder: str, error: OSError) -> None:
        """Remove what a failed save has left, unless it has become somebody else's."""
        self.retention.no_space = error.errno in NO_ROOM
        with contextlib.suppress(OSError, FencedError):  # the next save removes it
            if self._place.is_local:
                self._clear(step)
            elif not self._may_count:
                remove_save(self._place, folder)
