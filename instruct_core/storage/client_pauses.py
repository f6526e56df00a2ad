"""
Clients of object stores draw how long they wait before another try, and not from the run's generator.

    leave_generator_alone()      # once the client is there

Python's generator is part of every checkpoint: a run that met a busy store would end with other bits.
"""

from __future__ import annotations

import random
import sys

CLIENTS = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"}

_own = random.Random()


def leave_generator_alone() -> None:
    """Give the modules of all clients that are loaded a generator of their own."""
    for name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", {})  # there may be anything in place of a module
        if name.partition(".")[0] in CLIENTS and names.get("random") is random:
            names["random"] = _own
