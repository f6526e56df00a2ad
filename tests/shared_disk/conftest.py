"""A disk that fails on command, for all tests of a file that do not want one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shared_disk.mount import SharedDisk


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDisk]:
    place = tmp_path_factory.mktemp("disk")
    with SharedDisk(place / "folder", place / "one") as disk:
        yield disk
