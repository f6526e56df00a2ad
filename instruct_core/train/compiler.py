"""
Training without torch's compiler, which takes a second to load and is for `--compile` alone.

    model = data_parallel(module, device, compiled=False)
    with eagerly(): ...          # what is compiled runs as it is written

torch loads it (torch._dynamo) in passing: DDP's constructor asks it how compiled models are reduced,
and its forward is hidden from it. Nothing that is computed depends on either. This goes by names
inside torch 2.13; tests/instruct_core/train/test_compiler.py fails where another one loads it again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from instruct_core.storage.cache import own_folder

COMPILER = "torch._dynamo"
COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # names the folder of what was compiled
# A shape has kernels of its own: what a run computes must not depend on the shapes that came before.
HOW: dict[str, Any] = {"backend": "inductor", "dynamic": False}
# A buffer is a table that every rank has made for itself: nothing to send.
OPTIONS: dict[str, Any] = {"gradient_as_bucket_view": True, "forward_sync_buffers": False}


def data_parallel(
    module: nn.Module, device: torch.device, compiled: bool
) -> DistributedDataParallel:
    """Return a module whose gradients are the mean over all ranks."""
    if compiled or device.type == "cuda":  # a second is little beside what a GPU's start takes
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, **OPTIONS)
    with _unloaded():
        return _EagerDataParallel(module, **OPTIONS)


def keep_compiled_apart() -> None:
    """
    Have what is compiled kept where nobody else can write, unless the person has named a place for it.

    It is machine code, and torch loads what it finds. By itself it looks below the temporary folder, in a
    folder whose name is known to all and which the first to come may create.
    """
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # Torch names its own when its compiler is imported, which may have been by now.
    if os.environ.get(COMPILED, "") in ("", default_cache_dir()):
        os.environ[COMPILED] = str(own_folder(Path(tempfile.gettempdir())) / "compiled")
    config.cpp_cache_precompile_headers = False  # which lie in torch's own folder all the same


def eagerly() -> AbstractContextManager[Any]:
    """Return a context in which nothing is compiled; without the compiler nothing is anyway."""
    if COMPILER not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


class _EagerDataParallel(DistributedDataParallel):
    def _run_ddp_forward(self, *inputs: Any, **options: Any) -> Any:
        return self.module(*inputs, **options)


@contextmanager
def _unloaded() -> Iterator[None]:
    """Answer DDP's question as the compiler does, unless it is loaded already."""
    if COMPILER in sys.modules:
        yield
        return
    answer = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")
    torch._dynamo = SimpleNamespace(utils=answer)  # type: ignore[assignment]
    try:
        yield
    finally:
        del torch._dynamo  # the next who asks loads it


def settle_buckets(model: nn.Module, device: torch.device) -> None:
    """
    Run two backwards of nothing through DDP before the first step.

    DDP regroups gradients after its first backward, and the grouping decides the order in
    which three or more ranks are summed. Were it to happen after a resume, the first step
    would differ in its last bits from that of a run which was not interrupted. After the
    second, all gradients lie in the new buckets, and none in memory of its own.
    """
    nothing = torch.zeros((1, 8), dtype=torch.int64, device=device)
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        with eagerly():
            model(nothing, nothing, nothing, nothing).mul(0.0).backward()
