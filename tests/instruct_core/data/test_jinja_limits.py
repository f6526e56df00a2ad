"""Templates of strangers end: what they compute is counted, and what they make has a size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instruct_core.data import jinja_limits
from instruct_core.data.jinja_limits import BoundedEnvironment, EndlessError
from instruct_core.data.shard_plan import scan
from instruct_core.data.sources import Source
from instruct_core.data.templates import CHATML, choose_template
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Turn
from instruct_core.errors import ConfigError

NESTED = "{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x SIGN n.x %}{% endfor %}"
)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_limits, "MAX_STEPS", 20_000)  # as far as ever, in no time
    monkeypatch.setattr(jinja_limits, "MAX_SIZE", 1 << 20)


def rendered(text: str) -> str:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.render(environment.from_string(text))


@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        "{% for a in range(10**30) %}{% endfor %}",
        "{{ range(10**30) | list }}",
        "{% set r = range(9000) %}{% for a in r %}{% for b in r if false %}{% endfor %}{% endfor %}",
        "{% set r = range(9000) %}{% for a in r %}{% for b in r recursive %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    ],
)
def test_loops_and_macros_end(text: str) -> None:
    with pytest.raises(EndlessError, match="loops and macros take more than 20,000 steps"):
        rendered(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10**10 * [1] }}",
        "{{ 10**(10**10) }}",
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        DOUBLED.replace("SIGN", "~"),
        DOUBLED.replace("SIGN", "+"),
    ],
)
def test_what_is_made_has_a_size(text: str) -> None:
    with pytest.raises(EndlessError, match="a text, a list or a number that is too large"):
        rendered(text)


LONG = "{% set a = 'a' * 9000 %}"


@pytest.mark.parametrize(
    "text",
    [
        "{{ '%9999999d' % 1 }}",
        "{{ '%.9999999f' % 1 }}",
        "{{ '%*d' % (9999999, 1) }}",
        "{{ '%(x)9999999d' % {'x': 1} }}",
        "{{ '%9999999d' | format(1) }}",
        "{{ 'a'.ljust(9999999) }}",
        "{{ 'a'.center(10**10, '-') }}",
        "{{ 'a' | center(9999999) }}",
        "{{ 'a' | center(width=9999999) }}",
        "{{ ['a'] | map('center', 9999999) | list }}",
        "{{ '1'.zfill(9999999) }}",
        "{{ '\t'.expandtabs(9999999) }}",
        "{{ '{:9999999}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w=9999999) }}",
        "{{ '{x:9999999}'.format_map({'x': 1}) }}",
        "{{ 'a\nb' | indent(9999999) }}",
        "{{ [1] | batch(9999999, 0) | list }}",
        "{{ [1] | slice(9999999) | list }}",
        "{{ 1 | round(9999999) }}",
        "{{ [1] | tojson(indent=9999999) }}",
        LONG + "{{ a.replace('a', a) }}",
        LONG + "{{ a | replace('a', a) }}",
        LONG + "{{ a.join(a) }}",
        LONG + "{{ a | join(a) }}",
        LONG + "{{ a.join(range(900) | map('string')) }}",
        LONG + "{{ range(900) | map('string') | join(a) }}",
        LONG + "{{ [a] * 900 }}",
        LONG + "{{ ([a] * 900) | string | length }}",
        LONG + "{{ ([a] * 900) ~ '' }}",
        LONG + "{% for i in range(900) %}{{ a }}{% endfor %}",
        LONG + "{% macro m() %}{% for i in range(900) %}{{ a }}{% endfor %}{% endmacro %}{{ m() }}",
        LONG + "{{ a | wordwrap(1, wrapstring=a) }}",
        LONG + "{{ a.translate({97: a}) }}",
        LONG + "{% for i in range(900) %}{% set b = 'a'.ljust(9000) %}{% endfor %}",
    ],
)
def test_what_is_filled_up_and_what_is_written_have_a_size(text: str) -> None:
    with pytest.raises(EndlessError, match="a text, a list or a number that is too large"):
        rendered(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ '%5d|%-4s|%.2f|%*d' % (1, 'a', 2, 3, 4) }}{{ '%s' % 'b' }}", "    1|a   |2.00|  4b"),
        ("{{ '{:>{w}}|{x:04}'.format(1, w=3, x=2) }}", "  1|0002"),
        ("{{ 'a'.ljust(3) ~ 'b'.center(3) ~ '7'.zfill(3) }}", "a   b 007"),
        ("{{ 'a,b'.replace(',', ', ') | indent(2, true) }}", "  a, b"),
        ("{{ '-'.join([1, 2] | map('string')) }}{{ [1, 2] | map('string') | join('+') }}", "1-21+2"),
        ("{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2] | join(', ') }}", "[[1, 2], [3, 0]]1, 2"),
        ("{{ 2.345 | round(2) }}{{ '%d' | format(7) }}{{ 'a b' | wordwrap(1) }}", "2.357a\nb"),
        ("{{ '4915112345678 of 99999999999: {}'.format('me') }}", "4915112345678 of 99999999999: me"),
        ("{% for a in [3, 4, 5] if a > 3 %}{{ loop.index ~ '/' ~ loop.length }}"
         "{{ ', ' if not loop.last }}{% endfor %}", "1/2, 2/2"),
        ("{% for a in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for a in [1, [2]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}", "12"),
        ("{% macro m(x) %}<{{ x }}{{ caller() if caller }}>{% endmacro %}"
         "{% call m(1) %}in{% endcall %}{{ m(2) }}", "<1in><2>"),
        ("{{ 'a' ~ 1 ~ none ~ missing }}{{ 'b' * 3 }}{{ 2 ** 10 + 2.5 }}", "a1Nonebbb1026.5"),
        ("{{ range(3, 0, -1) | list }}", "[3, 2, 1]"),
    ],
)  # fmt: skip
def test_what_is_counted_is_written_as_ever(text: str, expected: str) -> None:
    assert rendered(text) == expected


def test_every_text_has_all_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    template = choose_template("chatml", load_tokenizer())
    chat = [Turn("user", "Hi."), Turn("assistant", "Hello.")] * 20

    monkeypatch.setattr(jinja_limits, "MAX_STEPS", len(chat))

    assert len(template.segments(chat)) > len(chat)
    with pytest.raises(
        ConfigError,
        match=r"chatml cannot be used: it stops at turn 41 .*than 40 steps",
    ):
        template.segments([*chat, Turn("user", "And?")], asks=True)


def test_template_that_would_not_end_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "long.jinja"
    path.write_text(NESTED + CHATML.replace("BEGIN\n", "").replace("END", "eos_token"))

    with pytest.raises(
        ConfigError,
        match=r"^Template .*long.jinja cannot be used: it stops at .* 20,000 steps\. Ch",
    ):
        choose_template(str(path), load_tokenizer())


def test_template_that_would_not_end_on_one_row_stops_the_scan(tmp_path: Path) -> None:
    loop = "{% for m in messages %}{% for a in range(m.content | length * 99) %}{% endfor %}{% endfor %}"
    (tmp_path / "long.jinja").write_text(
        loop + CHATML.replace("BEGIN\n", "").replace("END", "eos_token")
    )
    template = choose_template(str(tmp_path / "long.jinja"), load_tokenizer())
    rows = [{"instruction": "Hi.", "output": "a" * length} for length in (1, 999, 999)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source("rows", "rows", [str(tmp_path / "rows.jsonl")])

    with pytest.raises(
        ConfigError, match=r"^Template .*long.jinja cannot be used: it stops at turn 2"
    ):
        scan(source, None, None, skip_bad_rows=True, template=template)


@pytest.mark.parametrize("text", ["{{ lipsum() }}", "{{ [1, 2] | random }}"])
def test_nothing_is_drawn_at_random(text: str) -> None:
    with pytest.raises(Exception, match=r"lipsum|random"):
        rendered(text)
