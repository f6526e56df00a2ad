"""
How tests ask a server, as OpenAI's client does and as anybody may.

    ask(url, "Hi.", stop="\\n")
    request(url, "POST", "/v1/chat/completions", asking("Hi.", stream=True))
"""

from __future__ import annotations

import http.client
import json
from typing import Any

import openai

from tests.conftest import HANGS_SECONDS


def client(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=HANGS_SECONDS)


def ask(url: str, question: str, **more: Any) -> str:
    """Return the answer to a question, asked by OpenAI's client."""
    with client(url) as asking:
        messages = [{"role": "user", "content": question}]
        reply = asking.chat.completions.create(model="r", messages=messages, **more)  # type: ignore[call-overload]
        return str(reply.choices[0].message.content)


def request(
    url: str, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HANGS_SECONDS)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    try:
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def asking(question: str, **more: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}], **more})
