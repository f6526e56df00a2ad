"""
A stand-in for Google's storage on loopback: an emulator from PyPI, with two of its faults fixed.

    python -m tests.stores.gcs_server 4443 folder

It takes any write, where Google's storage refuses one that says `ifGenerationMatch=0` if the object is
there, when the request is made and once more when a resumable upload ends. And it reads an upload as
text, which changes bytes. It answers one request at a time, so nothing comes between look and write.

Source: cloud.google.com/storage/docs/request-preconditions (412, and what 0 means).
"""

from __future__ import annotations

import io
import json
import logging
import sys
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"


class Conditional(RequestHandler):  # type: ignore[misc]
    """Refuses a write that wants to be the first and is not; takes bytes as they are."""

    must_be_first: ClassVar[dict[str, tuple[str, str]]] = {}  # upload to (bucket, name)

    def do_POST(self) -> None:  # noqa: N802  http.server's name
        """Look at the condition, turn an upload of two parts into one of bytes, and hand it on."""
        words = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(words.query).items()}
        if not words.path.startswith("/upload/"):
            super().do_POST()
            return
        bucket = words.path.split("/")[-2]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if query["uploadType"] == "multipart":
            head, content = body.split(b"\n\n", 2)[1:]
            query["name"] = json.loads(head.split(b"\n--")[0])["name"]
            query["uploadType"] = "media"
            body = content.rpartition(b"\n--")[0]
        if query.get("ifGenerationMatch") == "0" and self._is_there(bucket, query["name"]):
            self.send_error(412)
            return
        if query["uploadType"] == "resumable" and "ifGenerationMatch" in query:
            self.must_be_first[query["name"]] = (bucket, query["name"])
        self.path = f"{words.path}?{urlencode(query)}"
        self.headers.replace_header("Content-Length", str(len(body)))
        if query["uploadType"] == "media":
            self.headers.replace_header("Content-Type", "application/octet-stream")
        self.rfile = io.BufferedReader(io.BytesIO(body))  # type: ignore[arg-type]
        super().do_POST()

    def do_PUT(self) -> None:  # noqa: N802  http.server's name
        """Look at the condition of an upload once more when a part of it comes."""
        query = parse_qs(urlsplit(self.path).query)
        wanted = self.must_be_first.get(query["name"][0])
        if wanted and self._is_there(*wanted):
            self.send_error(412)
            return
        super().do_PUT()

    def _is_there(self, bucket: str, name: str) -> bool:
        return name in self.storage.objects.get(bucket, {})


def main() -> None:
    """Serve until killed; what was answered is on the disk."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    logging.disable(logging.CRITICAL)
    storage = Storage(data_dir=str(folder))
    if BUCKET not in storage.buckets:
        buckets.create_bucket(BUCKET, storage)
    HTTPServer(("127.0.0.1", port), partial(Conditional, storage)).serve_forever()


if __name__ == "__main__":
    main()
