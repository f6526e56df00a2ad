"""
A real S3 server of our own on loopback: SeaweedFS, which enforces conditional writes.

    with S3Server(folder) as server:
        os.environ |= server.env
        server.kill(); server.start()       # kill -9; what was answered is still there

Ports are free ones, all files lie in the folder, and the server dies with the test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest
import s3fs

KEY, SECRET = "instruct-test-key", "instruct-test-secret-value"
BUCKET = "bucket"
READY_SECONDS = 150.0
SERVICES = ("master", "volume", "filer", "s3")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has now; weed takes 10,000 more than each for its own talk."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            if port not in found:
                found.append(port)
    return found


class S3Server:
    """
    One server with one bucket.

    Args:
        folder: For its data and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"s3://{BUCKET}"
        self.env = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['s3']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Have this process talk to this server, and not to one of an earlier test that it knows."""
        s3fs.S3FileSystem.clear_instance_cache()
        for name, value in self.env.items():
            patch.setenv(name, value)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [
            str(Path(sys.executable).parent / "weed"), "mini", f"-dir={data}", f"-bucket={BUCKET}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"-{name}.port={port}" for name, port in self._ports.items()),
        ]  # fmt: skip
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=os.environ | self.env | {"HOME": str(self._folder)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS
        while not self._has_bucket():
            assert self._process.poll() is None, (self._folder / "weed.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)

    def _has_bucket(self) -> bool:
        """Return True once the bucket is there: it is made a moment after the first answer."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self._ports["s3"])) != 0:
                return False
        client = s3fs.S3FileSystem(
            key=KEY, secret=SECRET, endpoint_url=self.env["AWS_ENDPOINT_URL"],
            skip_instance_cache=True, config_kwargs={"retries": {"max_attempts": 1}},
        )  # fmt: skip
        try:
            client.call_s3("head_bucket", Bucket=BUCKET)
        except Exception:  # botocore's own kinds as well
            return False
        return True

    def is_running(self) -> bool:
        """Return True unless it was killed."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
