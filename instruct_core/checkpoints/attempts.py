"""
Which attempt a run belongs to: the newest that has begun, and no other may write. No torch.

    newest_attempt(Store("checkpoints_instruct/my-run"))      # 3
    check_fence(store, attempt=2)                             # FencedError
"""

from __future__ import annotations

import re

from instruct_core.errors import FencedError
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.store import Store

ATTEMPT_FILE = re.compile(r"(\d{4,})\.json")


def newest_attempt(store: Store) -> int:
    """Return the number of a run's newest attempt; -1 before there is one."""
    matches = [ATTEMPT_FILE.fullmatch(name) for name in store.names("attempts")]
    return max((int(match[1]) for match in matches if match), default=-1)


def host_of(store: Store, attempt: int) -> str:
    """Return where rank 0 of an attempt was when it began; "an unknown host" where nobody can tell."""
    try:
        host = loose_json(store.read(f"attempts/{attempt:04d}.json", at_most=1 << 16))["host"]
    except (OSError, ValueError, KeyError, TypeError):
        host = ""
    return str(host) or "an unknown host"


def check_fence(store: Store, attempt: int) -> None:
    """
    Look whether a run is still that of an attempt.

    Raises:
        FencedError: A newer attempt has begun.
        OSError: Its claim is not there, as where somebody has renamed the folder: what is written now
            would be half a run in the place of the whole one.
    """
    newest = newest_attempt(store)
    if newest < attempt:
        raise OSError(
            f"{store.url} is not the run's folder any more: the claim of attempt {attempt} is not in "
            "it. If it was moved or renamed, move it back"
        )
    if newest > attempt:
        raise FencedError(
            f"Run {store.url} belongs to attempt {newest} now; this is attempt {attempt}, which must "
            f"not write any more. Attempt {newest} began on {host_of(store, newest)}: if that is "
            "another command's, end one of the two."
        )
