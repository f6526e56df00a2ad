"""What is found about an object store."""

from __future__ import annotations

import pytest
import s3fs

from launch.checkup import bucket
from launch.checkup.bucket import check_bucket


def test_store_that_nobody_can_reach_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs.S3FileSystem.clear_instance_cache()  # another test's may know another place
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for-nobody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    finding = check_bucket("s3://nobody/x")

    s3fs.S3FileSystem.clear_instance_cache()
    assert finding.state == "would fail"
    assert finding.found.startswith("--checkpoints s3://nobody/x cannot be used: ")
    assert finding.fix.startswith("Try again in some minutes")


def test_memory_of_one_process_would_fail() -> None:
    assert check_bucket("memory://x").state == "would fail"


@pytest.mark.parametrize(("apart", "state"), [(True, "ok"), (False, "would fail")])
def test_store_without_conditional_writes_would_fail(
    apart: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "try_url", lambda *_, **__: apart)

    finding = check_bucket("s3://bucket/x")

    assert (finding.name, finding.state) == ("checkpoints", state)
    assert apart or "never let two jobs train one run" in finding.fix
