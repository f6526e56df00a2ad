"""
Whether an object store takes checkpoints, and keeps two writers of one run apart.

    finding = check_bucket("s3://bucket/runs")
"""

from __future__ import annotations

from instruct_core.errors import ConfigError
from launch.checkup.finding import Finding, fails, ok, refused
from launch.runs.places import try_url


def check_bucket(url: str) -> Finding:
    """Write, read and remove a small object, and return what is found."""
    try:
        apart = try_url("--checkpoints", url, writes=True)
    except ConfigError as error:
        return refused("checkpoints", error)
    if not apart:
        found = f"{url} does not keep two writers apart: it has no conditional writes"
        fix = "Give another store (S3, gs:// and az:// have them), or never let two jobs train one run"
        return fails("checkpoints", found, fix)
    return ok("checkpoints", f"{url} can be written, and of two writers one makes an object")
