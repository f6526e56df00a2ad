"""
A page in Debian's chromium, asked through its devtools: what a person would see, and what went wrong.

    with Browser(tmp_path) as browser:
        seen = browser.look(page, width=400)
        assert seen.errors == [] and seen.overflowing == []

It is spoken to through two pipes, a message ending in a zero byte.
Source: chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium") or ""
NEEDED = "no chromium here: as root, apt-get install --no-install-recommends chromium"
LOOK = """(() => ({
  text: document.body.innerText,
  colour: getComputedStyle(document.body).backgroundColor,
  overflowing: [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))
    .concat(document.documentElement.scrollWidth > innerWidth ? ['the page'] : []),
  active: document.querySelectorAll('script, img, iframe, a, form, [onerror]').length,
}))()"""


class Seen(NamedTuple):
    """A page as it is shown."""

    text: str
    colour: str  # behind it
    overflowing: list[str]  # beginnings of the elements that leave the screen
    active: int  # scripts, images, links, forms in it
    errors: list[str]  # of the console


class Browser:
    """A chromium without a window; its profile lies in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        ours_in, its_out = os.pipe()
        its_in, ours_out = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command = [CHROMIUM, *flags, "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash", *command],
            pass_fds=[its_in, its_out],
            stderr=subprocess.DEVNULL,
        )
        os.close(its_in)
        os.close(its_out)
        self._in, self._out = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", 0)
        self._number, self._rest, self._events = 0, b"", list[dict[str, Any]]()
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self._ask(f"{domain}.enable")

    _session = ""

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()

    def look(self, page: Path, width: int, dark: bool = False) -> Seen:
        """Open a page on a screen of a width and return what is there."""
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self.visit(page.as_uri())
        return Seen(*self.value(LOOK).values(), self.errors())

    def resize(self, width: int) -> None:
        """Have a screen of a width from now on."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def visit(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._events.clear()
        self._ask("Page.navigate", url=url)
        self._await("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript gives in the page; a promise is waited for."""
        found = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "value" in found["result"], found
        return found["result"]["value"]

    def errors(self) -> list[str]:
        """Return what the console has of the page that is open."""
        said = {
            "Log.entryAdded": lambda event: event["entry"]["text"],
            "Runtime.exceptionThrown": lambda event: event["exceptionDetails"]["text"],
            "Runtime.consoleAPICalled": lambda event: str(event["args"]),
            "Network.loadingFailed": lambda event: event["errorText"],
        }
        return [said[e["method"]](e["params"]) for e in self._events if e["method"] in said]

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._events.append(answer)

    def _await(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._in.fileno(), 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))
