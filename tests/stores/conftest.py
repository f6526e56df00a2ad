"""Both stores, one after the other, for every test that asks for `emulated`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.servers import Emulated, azure, google

STORES = {"gs": google, "az": azure}


@pytest.fixture(scope="module", params=STORES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulated]:
    with STORES[request.param](tmp_path_factory.mktemp(request.param)) as emulated:
        yield emulated


@pytest.fixture
def emulated(server: Emulated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    server.line.clear()
    server.use(monkeypatch)
    yield server
    server.line.clear()
