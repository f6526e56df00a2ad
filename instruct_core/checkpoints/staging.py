"""
What is to be saved, as the bytes of the files it becomes, in host memory.

    image = staging.image("model.safetensors", tensors, {"format": "pt"})
    staging.finish()                 # from here on the tensors may change
    store.put(image.name, image.views)

A file's image is filled tensor by tensor and then written in one piece. Both may happen in another
thread than the one that trains. The memory is kept from one save to the next: to touch 1.5 GB for
the first time costs more than to copy it. On a GPU it is pinned, and the copies run in a stream of
their own, beside the kernels of the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instruct_core.storage.tensor_file import Tensor as FileTensor
from instruct_core.storage.tensor_file import (
    aligned_buffer,
    file_views,
    plan_file,
)
from instruct_core.storage.torch_tensors import Tensors, bytes_of, spec_of, view_of


class Image(NamedTuple):
    """A file to be written: its name and its bytes, in parts."""

    name: str
    views: list[memoryview]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return sum(view.nbytes for view in self.views)


class Staging:
    """
    Host memory for one set of files.

    Make it in the thread that trains; what a GPU has been told to do until then is waited for.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}  # uint8, grown when a file grows
        self._stream: torch.cuda.Stream | None = None
        self._reached: torch.cuda.Event | None = None

    def mark(self) -> None:
        """Have the copies wait for what this thread has told the GPU so far."""
        if torch.cuda.is_available():
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._reached = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._reached.record()

    def image(self, name: str, tensors: Tensors, metadata: Mapping[str, str]) -> Image:
        """Copy tensors into the image of a safetensors file; done after `finish` where on a GPU."""
        specs = {key: spec_of(tensor) for key, tensor in tensors.items()}
        head, places, size = plan_file(specs, metadata)
        gpu = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)
        if gpu is not None:  # a thread begins with GPU 0, and what it does there takes memory of it
            torch.cuda.set_device(gpu)
        buffer = self._buffer(name, size, pinned=gpu is not None)
        buffer.numpy()[: len(head)] = np.frombuffer(head, np.uint8)
        for key, place in places.items():
            if tensors[key].is_cuda:
                self._copy_from_gpu(tensors[key], view_of(buffer, place))
            else:  # not torch's copy, which would start a second pool of threads
                np.copyto(buffer.numpy()[place.start : place.stop], bytes_of(tensors[key]))
        return Image(name, [memoryview(buffer.numpy()[:size].data)])

    def _copy_from_gpu(self, tensor: Tensor, target: Tensor) -> None:
        assert self._stream is not None, "mark comes first"
        assert self._reached is not None
        self._stream.wait_event(self._reached)
        with torch.cuda.stream(self._stream):
            target.copy_(tensor.detach(), non_blocking=True)

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
        if self._stream is not None:
            self._stream.synchronize()


def direct_image(name: str, tensors: Tensors, metadata: Mapping[str, str]) -> Image:
    """Return the image of CPU tensors as they lie: they must not change until it is written."""
    parts = {
        key: FileTensor(spec_of(t), memoryview(bytes_of(t).data)) for key, t in tensors.items()
    }
    return Image(name, file_views(parts, metadata))
