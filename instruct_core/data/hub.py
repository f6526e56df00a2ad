"""
A dataset of Hugging Face as one parquet file, from the Hub or out of this machine's cache.

    fetch("vicgalle/alpaca-gpt4", file)

A Hub that does not answer is noticed with one request: its own client would ask it again for half a
minute, and only then look into the cache.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
from typing import IO
from urllib.error import HTTPError, URLError

from instruct_core.errors import MissingError

HUB = "https://huggingface.co"
TIMEOUT_SECONDS = 10.0


def fetch(dataset_id: str, file: IO[bytes]) -> None:
    """
    Write the rows of a dataset's train split.

    Raises:
        MissingError: There is no such dataset, or it is neither in reach nor in the cache.
    """
    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    is_silent = not os.environ.get("HF_HUB_OFFLINE") and not _is_answered(endpoint)
    if is_silent:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the client is imported
    import datasets

    try:
        datasets.load_dataset(dataset_id, split="train").to_parquet(file)
    except Exception as error:  # datasets raises dozens of kinds: offline, private, no such id
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if is_silent:
            reason = f"{endpoint} does not answer, and it is not in the cache"
        raise MissingError(
            f"Source {dataset_id} is no file here, and cannot be had as a Hugging Face dataset: "
            f"{reason.rstrip('.')}. On a machine without internet give a file, or --source builtin."
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
