"""
Torch's tensors as the bytes of a safetensors file, and back, without a copy.

    spec = spec_of(tensor)
    tensor = view_of(buffer, place)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instruct_core.storage.tensor_file import (
    ALIGNMENT_BYTES,
    Place,
    Spec,
    other_type,
    parse_header,
)

TYPE_NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
TORCH_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
Tensors = Mapping[str, Tensor]


def tensors_of(data: Tensor, where: str) -> dict[str, Tensor]:
    """
    Return the tensors inside the bytes of a safetensors file.

    They are views of one buffer, which costs no copy, but for those that do not begin where
    torch's own would: a product's last bits may depend on that, and a resume must not.

    Raises:
        CorruptFileError: The bytes are no file of tensors that torch has; ``where`` names it.
    """
    places, _ = parse_header(data.numpy(), where)
    tensors = {}
    for name, place in places.items():
        if place.dtype not in TORCH_TYPES:
            raise other_type(where, name, place.dtype)
        tensors[name] = view_of(data, place, copy_misaligned=True)
    return tensors


def spec_of(tensor: Tensor) -> Spec:
    """Return what a file's header says of a tensor."""
    return Spec(TYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def view_of(buffer: Tensor, place: Place, copy_misaligned: bool = False) -> Tensor:
    """Return a tensor inside the bytes of a file: in place, or a copy where that begins off a line."""
    raw = buffer[place.start : place.stop]
    raw = raw if raw.data_ptr() % ALIGNMENT_BYTES == 0 or not copy_misaligned else raw.clone()
    return raw.view(TORCH_TYPES[place.dtype]).view(place.shape)


def bytes_of(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    flat: np.ndarray[Any, np.dtype[np.uint8]] = (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    )
    return flat
