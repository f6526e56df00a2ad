"""
A dataset of Hugging Face as one parquet file, from the Hub or out of this machine's cache.

    fetch(dataset_of("vicgalle/alpaca-gpt4"), file)
    fetch(dataset_of("openai/gsm8k:main@v1.1[test]"), file)     # configuration, revision, split

A Hub that does not answer is noticed with one request: its own client would ask it again for half a
minute, and only then look into the cache.
"""

from __future__ import annotations

import os
import re
import ssl
import urllib.request
from collections.abc import Iterable
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError

from instruct_core.errors import MissingError

HUB = "https://huggingface.co"
TIMEOUT_SECONDS = 10.0
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_TYPED = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
    r"(?:\[(?P<split>[\w.+-]+)\])?"
)


class Dataset(NamedTuple):
    """Which rows of the Hub are meant; what is empty is left to the Hub."""

    id: str
    config: str = ""
    revision: str = ""
    split: str = ""

    def __str__(self) -> str:
        parts = (f":{self.config}", f"@{self.revision}", f"[{self.split}]")
        return self.id + "".join(part for part in parts if part not in (":", "@", "[]"))

    @property
    def name(self) -> str:
        """A name for a folder of what is made of it."""
        parts = (self.id.split("/")[1], self.config, self.revision, self.split)
        return "-".join(re.sub(r"[/+]", "-", part) for part in parts if part)


def dataset_of(typed: str) -> Dataset | None:
    """Return the dataset that a word may stand for; None for what is no such word."""
    match = _TYPED.fullmatch(typed)
    return Dataset(**match.groupdict(default="")) if match else None


def fetch(dataset: Dataset, file: IO[bytes]) -> None:
    """
    Write the rows of a dataset's split: train, where none is named.

    Raises:
        MissingError: There is no such dataset, or it is neither in reach nor in the cache.
    """
    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    is_silent = not os.environ.get("HF_HUB_OFFLINE") and not _is_answered(endpoint)
    if is_silent:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the client is imported
    import datasets

    try:
        datasets.load_dataset(
            dataset.id,
            dataset.config or None,
            split=dataset.split or "train",
            revision=dataset.revision or None,
        ).to_parquet(file)
    except Exception as error:  # datasets raises dozens of kinds: offline, private, no such id
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if is_silent:
            reason = f"{endpoint} does not answer, and it is not in the cache"
        raise MissingError(
            f"Source {dataset} is no file here, and cannot be had as a Hugging Face dataset: "
            f"{reason.rstrip('.')}. Name another configuration, revision or split as in "
            f"'{dataset.id}:CONFIG@REVISION[SPLIT]'; on a machine without internet give a file, or "
            "--source builtin."
        ) from error


def _is_answered(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except HTTPError:
        return True  # an answer is an answer
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the client has certificates of its own
    except OSError:
        return False
    return True


def splits_of(files: Iterable[str]) -> list[str]:
    """Return of which splits files are, by words in their names, as load_dataset tells them."""
    found = {""}
    for file in files:
        words = re.findall("[a-z]+", file.rsplit("/", 1)[-1].lower())
        found.add(next((SPLITS[word] for word in words if word in SPLITS), ""))
    return [split for split in dict.fromkeys(SPLITS.values()) if split in found]
