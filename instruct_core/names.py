"""
Names that stay in their folder: of a run, of a shard set, of a file that a manifest names.

    PLAIN_NAME.fullmatch("my-run")            # and not "../my-run", "a/b", ".hidden" or ""
"""

from __future__ import annotations

import re

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
