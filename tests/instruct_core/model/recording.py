"""
What a GPU's recording does, on a CPU: the same operations over the same memory, and nothing else.

Whatever the host worked out while it was recorded stays as it was; whoever asks for a number, or makes a
tensor of one, is refused, as a GPU refuses it. (But for `tolist`, of which torch tells nobody.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from instruct_core.model.family import Recording

aten = torch.ops.aten
OF_THE_HOST = {
    aten._local_scalar_dense, aten.nonzero, aten.equal, aten.lift_fresh, aten.masked_select,
    aten.allclose, aten._unique2, aten.unique_dim, aten.unique_consecutive,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_}
IN_PARTS = torch._C.DispatchKey.CompositeImplicitAutograd


class Recorder(TorchDispatchMode):
    """What is recorded with it, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.recordings = self.repetitions = 0
        self._made = list[tuple[Any, Any, Any, Any]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode operators come whole that are made of others.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), IN_PARTS):
            with self:
                return func.decompose(*args, **kwargs)
        if func.overloadpacket in OF_THE_HOST or waits(func, args):
            raise RuntimeError(f"{func} is not permitted when stream is capturing")
        result = func(*args, **kwargs)
        self._made.append((func, args, kwargs, result))
        return result

    def record(self, step: Callable[[], Tensor]) -> Recording:
        self._made = []
        with self:
            result = step()
        made = self._made
        self.recordings += 1

        def repeat() -> None:
            self.repetitions += 1
            for func, args, kwargs, old in made:
                write(old, func(*args, **kwargs))

        return Recording(repeat, result)


def waits(func: Any, args: Any) -> bool:
    """Return True where the host must know how many places a mask has, or how long rows are."""
    if func is aten.repeat_interleave.Tensor:
        return True
    masks = args[1] if func.overloadpacket in INDEXING else ()
    return any(isinstance(mask, Tensor) and mask.dtype == torch.bool for mask in masks)


def write(old: Any, new: Any) -> None:
    """Have new tensors where old ones lie; views are written over themselves."""
    if isinstance(old, Tensor):
        old.copy_(new)
    elif isinstance(old, (tuple, list)):
        for one, other in zip(old, new, strict=True):
            write(one, other)
