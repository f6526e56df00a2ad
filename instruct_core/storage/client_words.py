"""
What Azure's client says beside the error that it raises: nothing.

    keep_quiet_of_other_parts(client.loop)

It ends a large object with the first of its parts that fails, and looks at no other. What those fail of
Python would print when they go, as `Task exception was never retrieved` with all that the client knows.

Source: azure-storage-blob's _shared/uploads_async.py and aio/_download_async.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

PARTS = "/azure/storage/"  # where their code lies


def keep_quiet_of_other_parts(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop print what nobody has asked for, but for parts of objects in Azure's storage."""
    loop.set_exception_handler(_print_others)


def _print_others(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    task = context.get("future")
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    code = getattr(coroutine, "cr_code", None)
    if code is None or PARTS not in code.co_filename:
        loop.default_exception_handler(context)
