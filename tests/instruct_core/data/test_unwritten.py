"""What a template leaves out of rows is counted and said, by whose words it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.mixed_plan import MixedPlan
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.sources import Source
from instruct_core.data.templates import choose_template
from instruct_core.data.tokenizer import load_tokenizer
from launch.arrays.about_shards import about_plan

WHOLE = """\
{%- for m in messages %}
{{- m.role + ': ' + m.content | trim }}
{%- for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}
{{- eos_token if m.role == 'assistant' }}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
SYSTEM, USER = {"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi \n you"}
THINKS = {"role": "assistant", "content": "<think>Hm.</think>Hello."}
CALLS = {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "3"}
ROWS = [
    {"messages": [USER, THINKS]},
    {"messages": [SYSTEM, USER, THINKS, USER, THINKS]},
    {"messages": [SYSTEM, USER, CALLS, RESULT, THINKS]},
]


def planned(tmp_path: Path, template: str, rows: list[dict[str, Any]]) -> ShardPlan:
    (tmp_path / "mine.jinja").write_text(template)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source("rows", "rows", [str(tmp_path / "rows.jsonl")])
    found = choose_template(str(tmp_path / "mine.jinja"), load_tokenizer())
    return scan(source, None, None, skip_bad_rows=False, template=found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", None),
        ("m.content | trim", "m.content.replace('</think>', '\\n</think>\\n\\n')", None),
        ("m in messages", "m in messages if m.role != 'system'", {"system": 2}),
        ("m in messages", "m in messages if m.role != 'tool'", {"tool": 1}),
        ("m.content | trim", "m.content.split('</think>')[-1]", {"assistant": 3}),
        ("m.content | trim", "(m.content[:20])", {"assistant": 3}),
        ("c in m.tool_calls", "c in (m.tool_calls or [])[:0]", {"calls": 1}),
        ("{{ tools | tojson }}", "", {"tools": 1}),
    ],
)
def test_words_that_a_template_leaves_out_are_counted_by_whose_they_are(
    tmp_path: Path, old: str, new: str, expected: dict[str, int] | None
) -> None:
    rows = ROWS if "tools" not in old else [ROWS[0] | {"tools": [TOOL]}, ROWS[0]]

    plan = planned(tmp_path, WHOLE.replace(old, new), rows)

    assert plan.unwritten == expected
    assert ("unwritten" in plan.to_document()) == bool(expected)
    assert ShardPlan.from_document(plan.to_document(), "plan.json").unwritten == expected


def test_words_that_a_template_leaves_out_are_said_for_a_mixture_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, WHOLE.replace("messages", "messages if m.role != 'system'", 1), ROWS)

    lines = about_plan(MixedPlan.of([plan, plan], [0.5, 0.5]), None)

    assert [line for line in lines if "leaves out" in line] == [
        "Template: it leaves out, or writes in another way, what some rows say: system (in 4). See what "
        "is learnt with --inspect"
    ]
