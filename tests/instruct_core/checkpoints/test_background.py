"""What a save may and may not do in its thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from instruct_core.checkpoints import background, staging
from instruct_core.checkpoints.background import Background
from instruct_core.checkpoints.staging import Image, Staging


def test_sandbox_that_refuses_a_priority_ends_no_save(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sandbox:
        PRIO_PROCESS = os.PRIO_PROCESS

        def setpriority(self, *_arguments: int) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(background, "os", Sandbox())
    save: Background[str] = Background()

    save.start(lambda: "saved")

    assert save.result() == "saved"


class TensorOnGpu(torch.Tensor):
    """A tensor of this machine's memory that says it is on the fourth GPU."""

    is_cuda = True
    device = torch.device("cuda", 3)


class Cuda:
    """torch.cuda as it is where a node has several GPUs: each thread begins with the first one."""

    def __init__(self) -> None:
        self._current = threading.local()
        self.used: list[int] = []

    def is_available(self) -> bool:
        return True

    def set_device(self, device: torch.device) -> None:
        self._current.index = device.index

    def use(self) -> None:
        self.used.append(getattr(self._current, "index", 0))

    @contextlib.contextmanager
    def stream(self, _stream: object) -> Iterator[None]:
        yield
        self.use()  # leaving sets the stream of before, on the thread's device

    class Event:
        def record(self) -> None:
            pass

    class Stream:
        def wait_event(self, event: object) -> None:
            pass

        def synchronize(self) -> None:
            pass


class Torch:
    """The module's torch, with those GPUs."""

    def __init__(self) -> None:
        self.cuda = Cuda()

    def empty(self, size: int, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        self.cuda.use()
        return torch.zeros(size, dtype=dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def test_save_of_a_rank_on_the_fourth_gpu_does_nothing_on_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Torch()
    monkeypatch.setattr(staging, "torch", fake)
    weights = {"w": torch.arange(8.0).as_subclass(TensorOnGpu)}
    memory = Staging()
    memory.mark()
    save: Background[Image] = Background()

    save.start(lambda: memory.image("model.safetensors", weights, {}))
    image = save.result()

    assert bytes(image.views[0]).endswith(torch.arange(8.0).numpy().tobytes())
    assert fake.cuda.used == [3, 3]
