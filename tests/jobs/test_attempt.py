"""One rank's attempt, with a trainer that only looks around."""

from __future__ import annotations

import errno
import gc
import os
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from instruct_core import ranks
from instruct_core.checkpoints.loader import Loaded
from instruct_core.checkpoints.manifest import Manifest, Progress
from instruct_core.config import TrainConfig, identity_of
from instruct_core.errors import ConfigError, InstructError, NoCheckpointError
from instruct_core.recipe import Shard
from instruct_core.storage.cache import cache_folder
from instruct_core.train.compiler import COMPILED
from jobs import attempt as module
from jobs import gpu_memory
from jobs.attempt import _Attempt
from jobs.gpu_memory import out_of_gpu_memory_is_a_setting
from jobs.job_folder import AwayError
from jobs.survival import deadline
from jobs.survival.deadline import deadline_of
from jobs.survival.stop_signal import StopSignal
from jobs.world import World
from tests.fakes import facts_of

CONFIG = TrainConfig(
    "r", "s", "c", "r", "random", "tiny", "f", max_steps=4, tokens_per_step=512, seq_len=8,
    micro_batch_size=8,
)  # fmt: skip


class Watched:
    """Stands in for everything around `_Attempt`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.load: Callable[[], Loaded | None] = lambda: None
        self.train: Callable[[], str] = lambda: "finished"
        self.lost = ""

        class Trainer:
            progress = Progress(global_step=2, samples_seen=0, tokens_seen=0)

            def __init__(self, *arguments: Any) -> None: ...

            def run(trainer) -> str:  # noqa: N805  self is the one outside
                return self.train()

        beginning = SimpleNamespace(model=SimpleNamespace(config=None))
        monkeypatch.setattr(module, "Trainer", Trainer)
        monkeypatch.setattr(module, "load_newest", lambda *a, **options: self.load())
        monkeypatch.setattr(module, "lost_save", lambda ledger, checkpoints: self.lost)
        monkeypatch.setattr(
            _Attempt, "_data", lambda attempt: (None, SimpleNamespace(vocab_size=1), None)
        )
        monkeypatch.setattr(_Attempt, "_setup", lambda attempt, *a: None)
        monkeypatch.setattr(module, "begin", lambda *a: beginning)

    def run(self, device: str = "cuda", config: TrainConfig = CONFIG) -> Any:
        """Run an attempt."""
        aside: Any = SimpleNamespace(
            note=print, loaded=lambda manifest: None, resumed=lambda step, shape: None,
            working=lambda phase: None, look_amid_save=None, store=None,
        )  # fmt: skip
        facts = {"identity": identity_of(CONFIG)}
        return _Attempt(config, facts, torch.device(device), aside, aside, aside, aside).run()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_loaded_state_is_gone_while_the_run_trains(watched: Watched) -> None:
    tensors: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def load() -> Loaded:
        mine = [torch.zeros(3) for _ in range(3)]
        tensors.extend(map(weakref.ref, mine))
        manifest = Manifest(
            global_step=2, attempt=0, world_size=1, saved_at=1.0, files=[],
            identity=identity_of(CONFIG), **facts_of(2),
        )  # fmt: skip
        return Loaded(2, manifest, {"w": mine[0]}, {"m": mine[1]}, {"cpu": mine[2]})

    def train() -> str:
        gc.collect()
        alive.extend(tensor() is not None for tensor in tensors)
        return "finished"

    watched.load, watched.train = load, train
    watched.run()

    assert alive == [False] * 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL error in: NCCLUtils.hpp\nLast error:\nCuda failure 2 'out of memory'"),
    ],
)
def test_gpu_that_is_too_small_names_the_next_smaller_micro_batch(
    watched: Watched, error: Exception
) -> None:
    watched.train = raising(error)

    with pytest.raises(ConfigError, match="--micro-batch-size 4: the run goes on") as caught:
        watched.run()

    assert "\n" not in str(caught.value)
    assert re.search("out of memory|ALLOC_FAILED", str(caught.value))


def test_micro_batch_that_is_never_filled_is_not_the_one_to_make_smaller(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 sequences each of 16 ranks has four at once, whatever was typed."""
    monkeypatch.setattr(gpu_memory, "ranks", SimpleNamespace(world_size=lambda: 16))
    watched.train = raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))

    with pytest.raises(ConfigError, match="--micro-batch-size 2: the run goes on"):
        watched.run()


def test_gpu_that_is_too_small_for_one_sequence_is_told_of_activation_checkpointing(
    watched: Watched,
) -> None:
    watched.train = raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    config = replace(CONFIG, micro_batch_size=1)

    with pytest.raises(ConfigError, match="with --activation-checkpointing on, which takes longer"):
        watched.run(config=config)
    with pytest.raises(ConfigError, match="No smaller one is left"):
        watched.run(config=replace(config, activation_checkpointing="on"))


@pytest.mark.parametrize(
    ("ranks_of_run", "changes", "told"),
    [
        (2, {}, "with --shard full, which shares the model out over the GPUs: the run goes on"),
        (
            2,
            {"shard": "full"},
            "No smaller one is left: use GPUs with more memory, or more of them, or",
        ),
        (2, {"compile": True}, "with --no-compile --shard full, which shares the model out"),
        (
            1,
            {},
            "No smaller one is left: use GPUs with more memory, or more of them with --shard full,",
        ),
    ],
)
def test_gpus_that_are_too_small_for_a_whole_model_are_told_to_share_it(
    monkeypatch: pytest.MonkeyPatch, ranks_of_run: int, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: ranks_of_run)
    config = replace(CONFIG, micro_batch_size=1, activation_checkpointing="on", **changes)

    with (
        pytest.raises(ConfigError, match=told),
        out_of_gpu_memory_is_a_setting(config, torch.device("cuda:0")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def test_model_that_finds_no_room_before_a_step_is_to_be_shared_and_no_micro_batch_to_be_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: 2)

    with (
        pytest.raises(ConfigError, match="with --shard full, which shares"),
        out_of_gpu_memory_is_a_setting(CONFIG, torch.device("cuda:0"), before_a_step=True),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


@pytest.mark.parametrize(("ranks_of_run", "shard"), [(1, "none"), (2, "full")])
def test_model_that_finds_no_room_although_nothing_spares_more_is_told_of_other_gpus(
    monkeypatch: pytest.MonkeyPatch, ranks_of_run: int, shard: Shard
) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: ranks_of_run)

    with (
        pytest.raises(ConfigError, match=r"memory for the model: .* or begin another") as caught,
        out_of_gpu_memory_is_a_setting(replace(CONFIG, shard=shard), torch.device("cuda:0"), True),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    assert not re.search("--micro-batch-size|--activation-checkpointing", str(caught.value))


def test_other_errors_of_a_step_stay_what_they_are(watched: Watched) -> None:
    watched.train = raising(RuntimeError("DefaultCPUAllocator: not enough memory"))

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        watched.run()


def test_attempt_that_finds_nothing_of_a_save_that_was_told_does_not_begin_anew(
    watched: Watched,
) -> None:
    watched.lost = "Run r has saved step 2 before"
    watched.train = raising(AssertionError("trains"))

    with pytest.raises(NoCheckpointError, match="saved step 2 before"):
        watched.run()


def test_store_that_is_away_at_a_start_is_told_as_that(watched: Watched) -> None:
    watched.load = raising(OSError("no answer in time"))

    with pytest.raises(AwayError, match="no answer in time"):
        watched.run()


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), FileNotFoundError("gone"), ConfigError("x")]
)
def test_what_will_not_pass_is_not_taken_for_a_store_that_is_away(
    watched: Watched, error: Exception
) -> None:
    watched.load = raising(error)

    with pytest.raises((PermissionError, FileNotFoundError, InstructError)) as caught:
        watched.run()

    assert not isinstance(caught.value, AwayError)


def test_store_that_refuses_us_at_a_start_may_let_us_in_at_the_next(watched: Watched) -> None:
    watched.load = raising(PermissionError("s3://bucket/r: Forbidden"))

    with pytest.raises(AwayError, match=r"^a store refuses us: s3://bucket/r: Forbidden$"):
        watched.run()


def test_unreadable_ledger_does_not_end_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "newest_timed_save", raising(OSError("no answer in time")))

    assert deadline_of(module.Store(tmp_path)).save_seconds == 0.0


def raising(error: Exception) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize("compiled", [True, False])
def test_run_keeps_what_it_compiles_where_nobody_else_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    class EnoughError(Exception): ...

    def enough() -> None:
        raise EnoughError

    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(module, "read_world", lambda: World(0, 1, 0, 1, "7", ""))
    monkeypatch.setattr(module, "job_folder", enough)
    monkeypatch.setenv(COMPILED, default_cache_dir())
    config = replace(CONFIG, compile=compiled, deterministic=False, runs=str(tmp_path))

    with pytest.raises(EnoughError):
        module.train(config, "", StopSignal())

    assert (Path(os.environ[COMPILED]).parent == cache_folder()) == compiled
