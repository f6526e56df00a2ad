"""
What is to be saved, as the bytes of the files it becomes, in host memory.

    image = staging.image("model.safetensors", tensors, {"format": "pt"})
    staging.finish()                 # from here on the tensors may change
    store.put(image.name, image.views)

A file's image is filled tensor by tensor and then written in one piece, by another thread if need
be. The memory is kept from one save to the next: to touch 1.5 GB for the first time costs more than
to copy it. On a GPU it is pinned, and the copies run beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instruct_core.storage.tensor_file import Place, Spec, aligned_buffer, file_views, plan_file
from instruct_core.storage.tensor_file import Tensor as FileTensor

TYPE_NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
TORCH_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}

Tensors = Mapping[str, Tensor]


class Image(NamedTuple):
    """A file to be written: its name and its bytes, in parts."""

    name: str
    views: list[memoryview]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return sum(view.nbytes for view in self.views)


class Staging:
    """Host memory for one set of files."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}  # uint8, grown when a file grows

    def image(self, name: str, tensors: Tensors, metadata: Mapping[str, str]) -> Image:
        """Begin to copy tensors into the image of a safetensors file; the memory is reused."""
        specs = {key: spec_of(tensor) for key, tensor in tensors.items()}
        head, places, size = plan_file(specs, metadata)
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        buffer = self._buffer(name, size, on_gpu)
        buffer.numpy()[: len(head)] = np.frombuffer(head, np.uint8)
        for key, place in places.items():
            view_of(buffer, place).copy_(tensors[key].detach(), non_blocking=on_gpu)
        return Image(name, [memoryview(buffer.numpy()[:size].data)])

    def _buffer(self, name: str, size: int, pinned: bool) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size or buffer.is_pinned() != pinned:
            self._buffers.pop(name, None)  # freed before the new one is taken
            size += size // 1000  # random generators may grow by a number
            if pinned:
                buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            else:
                buffer = torch.from_numpy(aligned_buffer(size))
            self._buffers[name] = buffer
        return buffer

    def finish(self) -> None:
        """Wait for the copies from a GPU."""
        if any(buffer.is_pinned() for buffer in self._buffers.values()):
            torch.cuda.current_stream().synchronize()


def direct_image(name: str, tensors: Tensors, metadata: Mapping[str, str]) -> Image:
    """Return the image of CPU tensors as they lie: they must not change until it is written."""
    parts = {key: FileTensor(spec_of(t), _bytes_of(t)) for key, t in tensors.items()}
    return Image(name, file_views(parts, metadata))


def spec_of(tensor: Tensor) -> Spec:
    """Return what a file's header says of a tensor."""
    return Spec(TYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def view_of(buffer: Tensor, place: Place) -> Tensor:
    """Return a tensor that lies inside the bytes of a file, without a copy."""
    return buffer[place.start : place.stop].view(TORCH_TYPES[place.dtype]).view(place.shape)


def _bytes_of(tensor: Tensor) -> memoryview:
    data: np.ndarray[Any, np.dtype[np.uint8]] = (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    )
    return memoryview(data.data)
