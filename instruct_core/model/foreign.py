"""
A `.pt` file that somebody else wrote, read without running anything in it.

    content = load_foreign("checkpoints/best_model.pt")     # {"model": {...}, "config": {...}}

A `.pt` is a pickle, and a pickle is a program. torch's own restricted reader builds tensors and
plain containers only. Training scripts also put their config there, an object of a class that
does not exist here: such an object is read as the dict of its fields. numpy's numbers and arrays
and paths, which are plain data too, are read by stand-ins of ours. Anything else that a pickle
would have to call is refused by name.

Sources: torch/_weights_only_unpickler.py; pickletools (NEWOBJ makes an object, REDUCE calls);
numpy's scalartypes.c and methods.c (what its numbers and arrays are pickled as).
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from instruct_core.data.values import with_article
from instruct_core.errors import UnsafeFileError

# What torch's reader raises for bytes that are no pickle, and for one that it refuses.
NOT_A_CHECKPOINT = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError, LookupError,
    TypeError, OverflowError,
)  # fmt: skip
PLAIN_STANDARD_CLASSES = {"argparse.Namespace", "types.SimpleNamespace"}


class _PlainFields:
    """Stands in for an unknown class: takes the fields of an object, and nothing else."""

    wanted = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> _PlainFields:
        if args or kwargs:
            raise UnsafeFileError(f"it calls {cls.wanted}")
        return super().__new__(cls)


class _NumpyType:
    """Stands in for numpy.dtype: the type of a number."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _NumpyArray:
    """Stands in for numpy.ndarray: no config needs its numbers."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _numpy_scalar(kind: _NumpyType, data: Any = None) -> Any:
    """Return the number that numpy's own function would make of its bytes; None for a date or text."""
    if not NUMBERS.fullmatch(kind.code):
        return None
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, f"{kind.order}{kind.code}")[0].item()


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


NUMBERS = re.compile(r"b1|[iuf][1248]")
PLAIN_DATA: dict[str, Any] = {
    "numpy.dtype": _NumpyType,
    "numpy.ndarray": _NumpyArray,
}
for _paths in ("pathlib", "pathlib._local"):  # the second in Python 3.13 alone
    PLAIN_DATA |= {f"{_paths}.{kind}": _path for kind in ("PosixPath", "WindowsPath")}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since numpy 2
    PLAIN_DATA |= {f"{_core}.scalar": _numpy_scalar, f"{_core}._reconstruct": _NumpyArray}


def load_foreign(data: bytes, where: str) -> dict[str, Any]:
    """
    Return the dict in a `.pt` file; objects in it become dicts of their fields.

    Args:
        data: The whole file.
        where: Its address, for messages.

    Raises:
        UnsafeFileError: It wants something run or imported; the message names what.
    """
    try:
        content = _load_restricted(data)
    except UnsafeFileError as error:
        raise UnsafeFileError(_refused(where, str(error))) from None
    except NOT_A_CHECKPOINT as error:
        reason = f"it is none that torch can read ({type(error).__name__})"
        raise UnsafeFileError(_refused(where, reason)) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UnsafeFileError(_refused(where, f"it holds {with_article(kind)}, no dict"))
    return {str(key): _plain(value) for key, value in content.items()}


def _load_restricted(data: bytes) -> Any:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except ValueError:
        names = []  # the format before torch 1.6; its reader below allows no unknown name
    # In order: of several that are refused, the same one is named each time.
    allowed: list[Any] = [(_stand_in(name), name) for name in sorted(names)]
    with torch.serialization.safe_globals(allowed):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _stand_in(name: str) -> Any:
    if name in PLAIN_DATA:
        return PLAIN_DATA[name]
    module = name.split(".", maxsplit=1)[0]
    installed = module in sys.stdlib_module_names or module in ("torch", "numpy")
    if installed and module != "__main__" and name not in PLAIN_STANDARD_CLASSES:
        raise UnsafeFileError(f"it wants {name}")
    return type(name.rsplit(".", 1)[-1], (_PlainFields,), {"wanted": name})


def _plain(value: Any) -> Any:
    if isinstance(value, _PlainFields):
        return {name: _plain(field) for name, field in vars(value).items()}
    if isinstance(value, Mapping):
        return {key: _plain(field) for key, field in value.items()}
    return value


def _refused(where: str, reason: str) -> str:
    return (
        f"File {where} is not read: only tensors and plain fields are, and {reason}. "
        "Save it again as torch.save({'model': model.state_dict()}, path)."
    )
