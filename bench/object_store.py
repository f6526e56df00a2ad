"""
What bench/checkpoint.py does on object storage: one large object to and from a local S3 server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.common import report, seconds_of
from instruct_core.storage.store import Store

S3_BYTES = 256 << 20


def bench_s3(root: Path) -> None:
    from tests.s3_server import S3Server

    data = np.random.default_rng(1).integers(0, 256, S3_BYTES, np.uint8)
    data.tofile(root / "file")
    with S3Server(root / "s3") as server:
        os.environ |= server.env
        import s3fs

        store = Store(f"{server.url}/ours")
        fs = s3fs.S3FileSystem()
        part = {"chunksize": 16 << 20, "max_concurrency": 8}
        there = server.url.removeprefix("s3://") + "/theirs"

        def put_ours() -> None:
            store.put("file", [data.data])

        def get_ours() -> None:
            store.read_hashed("file", np.empty(S3_BYTES, np.uint8))

        def put_theirs() -> None:
            fs.put_file(str(root / "file"), there, **part)

        def get_theirs() -> None:
            fs.get_file(there, str(root / "back"), **part)

        def timed(run: Callable[[], None], before: Callable[[], object]) -> Callable[[], float]:
            def once() -> float:
                before()
                return seconds_of(run)

            return once

        for what, ours, theirs in (("put", put_ours, put_theirs), ("get", get_ours, get_theirs)):
            before = (lambda: store.remove("file")) if what == "put" else lambda: None
            other = (
                (lambda: fs.rm(there) if fs.exists(there) else None)
                if what == "put"
                else lambda: None
            )
            report(
                f"checkpoint s3 {what}",
                {f"{what}_file": timed(theirs, other), "ours": timed(ours, before)},
                baseline=f"{what}_file", unit="seconds", higher_is_better=False,
            )  # fmt: skip
