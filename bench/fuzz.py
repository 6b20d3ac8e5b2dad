"""Mutated rows through every converter: nothing but a record or a RowError may come out.

Each row is one of our own in some format, changed at one to four places: keys dropped, renamed and
doubled, types swapped, values nested, nothing, numbers without end or none, halves of surrogate
pairs, NUL, special tokens, brackets without end. It goes through detection, its own format's
converter, another format's, and, where a record comes out, through ``check_chat``, ``canonical``
and the writer of some format. What is counted: rows in = records + rejects, for each format.

    python bench/fuzz.py                        # 100,000 rows
    python bench/fuzz.py --rows 3000 --seed 7
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

from posttrain.data.formats import FORMATS, Format, detect_format
from posttrain.data.formats.text import convert_text
from posttrain.data.formats.writers import WRITERS, write_row
from posttrain.data.records import Chat, Content, Preference, RowError, check_chat
from posttrain.errors import DataError

ASK = {"role": "user", "content": "What is 2 + 2?"}
GOOD = {"role": "assistant", "content": "It is 4."}
BAD = {"role": "assistant", "content": "It is 5."}
CALL = {"id": "c1", "type": "function",
        "function": {"name": "add", "arguments": {"a": 2, "b": [2.5, "x", None]}}}  # fmt: skip
RESULT = {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "array"}},
          "required": ["a"]}  # fmt: skip
ADD = {"name": "add", "description": "Adds.", "parameters": SCHEMA}
LOOSE = {"name": "add", "parameters": {"a": {"type": "int"}, "b": {"type": "List[int], optional"}}}
BFCL = {"name": "add", "parameters": {"type": "dict", "properties": {
    "a": {"type": "float"}, "b": {"type": "tuple", "items": {"type": "any"}}}}}  # fmt: skip
CALLING = [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL],
                 "reasoning_content": "I add."}, RESULT, {**GOOD, "loss_weight": 0.5}]  # fmt: skip
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "function_call",
            "value": '{"name": "add", "arguments": {"a": 2}}'},
            {"from": "observation", "value": "4"}, {"from": "gpt", "value": "a"}]  # fmt: skip
CHATML = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"

SEEDS: dict[str, list[dict[str, Any]]] = {
    "messages_json": [
        {"messages_json": json.dumps(CALLING), "tools_json": json.dumps([ADD]), "id": 3}
    ],
    "kto": [
        {"messages": [ASK, GOOD], "label": True},
        {"prompt": "q", "completion": "a", "label": "true"},
    ],
    "dolci": [{"messages": [
        {"role": "system", "content": "s", "functions": json.dumps([LOOSE])},
        ASK,
        {"role": "assistant", "content": None, "functions": None,
         "function_calls": "add(a=2, b=[1, 'x\\n'])\nadd(a=-1)"},
        {"role": "environment", "content": "4"}, GOOD]}],
    "glaive": [
        {"system": f"SYSTEM: Use them -\n{json.dumps(BFCL)}", "chat": "USER: q\n\nASSISTANT: "
         """<functioncall> {"name": "add", "arguments": '{"a": 2}'} <|endoftext|>\n\n"""
         "FUNCTION RESPONSE: 4\n\nASSISTANT: a"},
        {"messages": [ASK, {**GOOD, "content": '<functioncall> {"name": "f"}'}],
         "tools": [{"name": "f"}]},
    ],
    "toolace": [{"system": f"Functions: {json.dumps([BFCL])}\nPut it as [func1(x=y)]",
                 "conversations": [{"from": "user", "value": "q"},
                                   {"from": "assistant", "value": "[add(a=2, b=(1, 2))]"}]}],
    "messages": [
        {"messages": CALLING, "tools": [{"type": "function", "function": ADD}], "reference": 4},
        {"messages": [{**ASK, "content": [{"type": "text", "value": "q"}], "loss_weight": 0.0},
                      {**GOOD, "content": [{"type": "reasoning", "value": "r"},
                                           {"type": "text", "text": "a"}], "train": True}],
         "system": "s", "metadata": {"source": "x", "score": 0.5}},
        {"messages": [ASK, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                      {"role": "function", "name": "f", "content": {"r": 1}}], "functions": [ADD]},
    ],
    "sharegpt": [{"conversations": SHAREGPT, "system": "s", "tools": json.dumps([ADD]), "id": "7"}],
    "xlam": [{"query": "q", "tools": json.dumps([LOOSE]),
              "answers": json.dumps([CALL["function"]]), "id": 0}],
    "math": [{"problem": "p", "solution": r"So $\boxed{\frac{1}{2}}$.", "level": "Level 3"}],
    "mcq": [{"standard": "L.4.1", "standard_description": "d", "grade": "4", "difficulty": "easy",
             "stem": "Which?", "options": [{"key": k, "text": f"t{k}"} for k in "ABCD"],
             "answer": "B", "explanation": "e"}],
    "multiple_choice": [
        {"passage": "p", "question": "Which?", "options": ["(A)x", "(B)y"], "label": "B"},
        {"question": {"stem": "s", "choices": [{"text": "x", "label": "A"},
                                               {"text": "y", "label": "B"}]}, "answerKey": "A"},
        {"question": "q", "choices": ["x", "y"], "answer": 1},
    ],
    "question_answer": [{"question": "q", "answer": "a", "history": [["q", "a"]]}],
    "gsm8k": [{"question": "q", "answer": "48/2 = <<48/2=24>>24\n#### 24"}],
    "alpaca": [{"instruction": "i", "input": "x", "output": "o", "history": [["q", "a"]],
                "system": "s", "reference": "r"}],
    "dolly": [{"instruction": "i", "context": "c", "response": "r", "category": "qa"}],
    "query_response": [{"query": "q", "response": "r", "system": "s"}],
    "input_output": [{"input": "i", "output": "o"}],
    "prompt_completion": [
        {"prompt": [ASK], "completion": CALLING[1:], "tools": [ADD]},
        {"prompt": CHATML, "completion": "a<|im_end|>"},
    ],
    "prompt_response": [{"prompt": "q", "response": "a"}],
    "prompt": [{"prompt": CHATML, "reward_model": {"ground_truth": "4"}}, {"prompt": [ASK]}],
    "chatml": [{"text": f"{CHATML}a<|im_end|>\n", "metadata": {"id": 1}}],
    "first_turn_preference": [{"prompt": [ASK], "chosen": CALLING[1:], "rejected": [BAD]}],
    "preference": [
        {"prompt": [ASK], "chosen": {"content": "x"}, "rejected": {"content": "y"},
         "metadata": {"chosen_score": 0.9, "rejected_score": 0.5}},
        {"prompt": "q", "chosen": "x", "rejected": "y", "chosen_score": 2, "rejected_score": 1},
        {"prompt": ASK["content"], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    ],
    "sharegpt_preference": [{"conversations": SHAREGPT[:1], "chosen": SHAREGPT[3],
                             "rejected": {"from": "gpt", "value": "b"}}],
    "alpaca_preference": [{"instruction": "i", "input": "x", "chosen": "a", "rejected": "b"}],
    "messages_preference": [{"chosen": [ASK, GOOD], "rejected": [ASK, BAD], "tools": [ADD]}],
    "v1_preference": [{"chosen_messages": [{**ASK, "loss_weight": 0.0}, GOOD],
                       "rejected_messages": [{**ASK, "loss_weight": 0.0}, BAD]}],
    "hh_rlhf": [{"chosen": "\n\nHuman: q\n\nAssistant: a",
                 "rejected": "\n\nHuman: q\n\nAssistant: b"}],
    "stack_exchange": [{"question": "q", "response_j": "a", "response_k": "b"}],
    "text": [{"text": "A page."}, {"messages": [ASK, GOOD]}],
}  # fmt: skip
"""Rows of our own, by format; a test holds that every format is among them."""

DEEP: list[Any] = []
for _ in range(150):  # The readers let no more than 200 levels through.
    DEEP = [DEEP]
JUNK: tuple[Any, ...] = (
    None, "", " \n", 0, -1, 2**63, 10**5000, 1.5, -0.0, float("nan"), float("inf"), True, False,
    "\x00", "\ud800", "ok\udfff", "<|im_end|>", "<|im_start|>user\n", "<functioncall>", "####",
    r"\boxed{", "{", "[", "[{" * 400, "(" * 400, "[" * 3000, '{"a": ' * 400, "'", '"""', "f(", "海",
    "\u2028", "a" * 20000, [], {}, [None], [[]], {"": ""}, [{}], {"type": "image"},
    {"role": "user"},
    DEEP, {"type": DEEP}, ["a", 1, None], b"bytes", ("a", "b"),
)  # fmt: skip
NAMES = sorted({
    *(name for known in FORMATS.values() for name in (*known.fields, *known.optional)),
    "role", "content", "from", "value", "text", "tool_calls", "function", "arguments", "name", "id",
    "weight", "loss_weight", "train", "reasoning", "type", "properties", "required", "metadata",
})  # fmt: skip
SECONDS_A_ROW = 5.0
"""More for one row is a hang."""


@dataclass
class Outcome:
    """What became of one format's rows."""

    rows: int = 0
    records: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Records that ``check_chat`` does not let pass, by reason."""
    seconds: float = 0.0
    slowest: float = 0.0


def copy_value(value: Any) -> Any:
    """Copy lists and objects, so that a seed stays as it is."""
    if isinstance(value, dict):
        return {key: copy_value(inner) for key, inner in value.items()}
    return [copy_value(inner) for inner in value] if type(value) is list else value


def find_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key or position) inside a value; junk's depths are left alone."""
    waiting = [value]
    while waiting and len(waiting) < 200:
        node = waiting.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in items:
            yield node, key
            if isinstance(inner, dict) or type(inner) is list:
                waiting.append(inner)


def mutate(row: dict[str, Any], random: Random) -> dict[str, Any]:
    """Return a row with one to four changes."""
    row = copy_value(row)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        places = list(islice(find_places(row), 200))
        if not places:
            break
        node, key = random.choice(places)
        random.choice(CHANGES)(node, key, random)
    return row


def _drop(node: Any, key: Any, random: Random) -> None:
    del node[key]


def _rename(node: Any, key: Any, random: Random) -> None:
    if isinstance(node, dict):
        node[random.choice(NAMES)] = node.pop(key)
    else:
        node.append(node.pop(key))


def _double(node: Any, key: Any, random: Random) -> None:
    try:
        copied = copy_value(node[key])
    except RecursionError:  # Too deep for this function, which no converter may be.
        return
    if isinstance(node, dict):
        node[random.choice(NAMES)] = copied
    else:
        node.insert(key, copied)


def _replace(node: Any, key: Any, random: Random) -> None:
    node[key] = copy_value(random.choice(JUNK))


def _nest(node: Any, key: Any, random: Random) -> None:
    value = node[key]
    node[key] = random.choice([[value], {random.choice(NAMES): value}, [value, value]])


def _unnest(node: Any, key: Any, random: Random) -> None:
    value = node[key]
    inner = list(value.values()) if isinstance(value, dict) else value
    node[key] = random.choice(inner) if isinstance(inner, list) and inner else json_text(value)


def _edit(node: Any, key: Any, random: Random) -> None:
    value = node[key]
    if not isinstance(value, str):
        node[key] = copy_value(random.choice(JUNK))
        return
    place = random.randint(0, len(value))
    texts = [junk for junk in JUNK if isinstance(junk, str) and len(junk) < 2000]
    node[key] = random.choice([
        value[:place] + random.choice(texts) + value[place:],
        value[:place],
        value * 2,
        value[:place] + value[place + 1 :],
    ])  # fmt: skip


def _swap(node: Any, key: Any, random: Random) -> None:
    other = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
    node[key], node[other] = node[other], node[key]


def json_text(value: Any) -> str:
    """A value as JSON text where it has one; else as Python shows it, cut short."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return f"{type(value)}"


CHANGES = (_drop, _rename, _double, _replace, _replace, _nest, _unnest, _edit, _edit, _swap)


def check_row(
    convert: Callable[[Any], Content], row: Any, random: Random, outcome: Outcome
) -> None:
    """Convert one row and hold what comes out to being a record.

    Raises:
        AssertionError: A row took too long, or what came out is no record.
    """
    outcome.rows += 1
    started = time.perf_counter()
    try:
        content = convert(row)
    except RowError as error:
        outcome.rejects[error.reason] += 1
        return
    finally:
        seconds = time.perf_counter() - started
        outcome.seconds += seconds
        outcome.slowest = max(outcome.slowest, seconds)
    outcome.records += 1
    assert seconds < SECONDS_A_ROW, f"{seconds:.1f} s"
    assert isinstance(content.canonical(), str)
    assert isinstance(content.prompt_text, str)
    assert all(type(key) is str and type(text) is str for key, text in content.keys.items())
    try:
        if isinstance(content, Chat):
            check_chat(content)
        elif isinstance(content, Preference):
            check_chat(content.answered(content.chosen))
            check_chat(content.answered(content.rejected))
    except RowError as error:
        outcome.refused[error.reason] += 1
        return
    write_some(content, random)


def write_some(content: Content, random: Random) -> None:
    """Write a record in some format; it may be refused, or is read as the same."""
    kind = {Chat: "chat", Preference: "preference"}.get(type(content), "text")
    name = random.choice([name for name, writer in WRITERS.items() if writer.kind == kind])
    try:
        row = write_row(content, name)
    except RowError:
        return
    json.dumps(row)


def run_fuzz(rows: int, seed: int) -> dict[str, Outcome]:
    """Mutate and convert rows, the same for the same seed.

    Args:
        rows: How many, spread over all formats.
        seed: Of the mutations.

    Returns:
        Outcome by format.
    """
    random = Random(seed)
    formats: dict[str, Format] = {**FORMATS, "text": Format("text", (), convert_text)}
    names = sorted(SEEDS)
    outcomes = {name: Outcome() for name in names}
    for number in range(rows):
        name = names[number % len(names)]
        row = mutate(random.choice(SEEDS[name]), random)
        if number % 10 == 0:
            with contextlib.suppress(DataError):
                detect_format([row], "row", formats[name].kind)
        check_row(formats[name].convert, row, random, outcomes[name])
        if number % 4 == 0:
            # As where a recipe names the wrong format.
            other = random.choice(names)
            check_row(formats[other].convert, row, random, outcomes[other])
    for name, outcome in outcomes.items():
        assert outcome.rows == outcome.records + outcome.rejects.total(), name
        assert all(len(reason) < 100 for reason in outcome.rejects), name
    return outcomes


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    outcomes = run_fuzz(options.rows, options.seed)
    seconds = time.perf_counter() - started
    print(f"{'format':22}{'rows':>8}{'records':>9}{'rejects':>9}{'reasons':>9}{'refused':>9}"
          f"{'us/row':>9}{'slowest ms':>12}")  # fmt: skip
    for name, found in outcomes.items():
        print(f"{name:22}{found.rows:8,}{found.records:9,}{found.rejects.total():9,}"
              f"{len(found.rejects):9}{found.refused.total():9,}"
              f"{1e6 * found.seconds / max(found.rows, 1):9.1f}"
              f"{1e3 * found.slowest:12.1f}")  # fmt: skip
    converted = sum(found.rows for found in outcomes.values())
    records = sum(found.records for found in outcomes.values())
    refused = sum((found.refused for found in outcomes.values()), Counter())
    spent = sum(found.seconds for found in outcomes.values())
    print(f"{options.rows:,} mutated rows, {converted:,} conversions = {records:,} records + "
          f"{converted - records:,} rejects; nothing else was raised")  # fmt: skip
    print(f"{records - refused.total():,} records pass check_chat; the others:",
          ", ".join(f"{reason} {count:,}" for reason, count in refused.most_common()))  # fmt: skip
    print(f"{converted / spent:,.0f} conversions/s, {seconds:.1f} s in all, seed {options.seed}")


if __name__ == "__main__":
    main()
