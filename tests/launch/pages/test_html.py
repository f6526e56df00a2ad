"""A page as a browser reads it: whatever is written on it is text, wherever it stands."""

from __future__ import annotations

from html.parser import HTMLParser

from launch.pages.blocks import Heading, Picture, Table, Words
from launch.pages.html import html_of

HOSTILE = """"><script>x()</script><img src=y onerror='z()'></title></style>&lt;&amp;"""


class Seen(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_of_others_is_text_wherever_it_stands() -> None:
    table = Table([HOSTILE, "loss", "tokens"], [[HOSTILE, "1", "2"]])
    blocks = [Heading(HOSTILE), Heading(HOSTILE, is_detail=True), Words(HOSTILE), table]

    page = html_of(HOSTILE, [*blocks, Picture("<svg></svg>", HOSTILE)])

    usual = html_of("", [Heading(""), Heading("", is_detail=True), Words(""), Picture("<svg></svg>", ""),
                         Table(["", "", ""], [["", "", ""]])])  # fmt: skip
    assert Seen(page).tags == Seen(usual).tags
    assert {name for name, _ in Seen(page).attributes} == {
        name for name, _ in Seen(usual).attributes
    }
    assert ("data-of", HOSTILE) in Seen(page).attributes
    assert Seen(page).text.count(HOSTILE) == 8  # title, three headings, words, two cells, a caption
