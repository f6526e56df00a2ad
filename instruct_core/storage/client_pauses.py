"""
Clients of object stores draw how long they wait before another try, and not from the run's generator.

    leave_generator_alone()      # once the client is there

Python's generator is part of every checkpoint: a run that met a busy store would end with other bits.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from types import ModuleType

CLIENTS = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"}


def _module_again() -> ModuleType:
    """Return Python's module anew, with a generator of its own: clients take whatever it has."""
    spec = importlib.util.find_spec("random")
    assert spec is not None, "Python has it"
    assert spec.loader is not None, "and it is a file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_own = _module_again()


def leave_generator_alone() -> None:
    """Give the modules of all clients that are loaded a generator of their own."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in CLIENTS:
            names = getattr(module, "__dict__", {})  # there may be anything in place of a module
            if names.get("random") is random:
                names["random"] = _own
