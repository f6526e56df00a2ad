"""However often a client asks a busy store again, the run's generator stays where it is."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from instruct_core.storage.store import Store

# As in gcsfs.retry and google.auth: pauses are drawn from the module that everybody has. azure.storage
# makes a generator for each.
RETRY = """
import random

def pause(retry):
    drawn = random.Random().uniform(0, 1) + random.SystemRandom().random()
    return min(random.random() + 2 ** (retry - 1), 32) + random.uniform(0, 1) + drawn
"""


class BusyGoogle(MemoryFileSystem):
    """gcsfs as it is where each request is answered at the second try."""

    protocol = ("gs", "gcs")

    def pipe_file(self, *args: object, **options: object) -> None:
        assert sys.modules["gcsfs.retry"].pause(1) > 1
        super().pipe_file(*args, **options)


@pytest.fixture
def busy_google(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package, retry = types.ModuleType("gcsfs"), types.ModuleType("gcsfs.retry")
    vars(package)["GCSFileSystem"] = BusyGoogle
    exec(RETRY, vars(retry))
    monkeypatch.delitem(_registry, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", package)
    monkeypatch.setitem(sys.modules, "gcsfs.retry", retry)
    yield
    _registry.pop("gs")


@pytest.mark.usefixtures("busy_google")
def test_client_that_asks_again_does_not_move_the_generator_of_the_run() -> None:
    store = Store("gs://bucket/run")
    before = random.getstate()

    store.put("a", [memoryview(b"data")])
    store.claim("b", b"mine")

    assert random.getstate() == before
