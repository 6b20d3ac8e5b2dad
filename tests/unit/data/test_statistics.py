import numpy as np
import pytest

from posttrain.data.pack import pack_sizes
from posttrain.data.records import Chat, Preference, Text
from posttrain.data.statistics import (
    RowCounts,
    describe_examples,
    describe_lengths,
    describe_packing,
    find_language,
)
from posttrain.data.store import ExampleStore
from tests.unit.data.conftest import assistant, user


def call(name):
    return {"type": "function", "function": {"name": name, "arguments": {}}}


ROWS = [
    Chat((user("What is the sum of 3 and 4?"), assistant("7"))),
    Chat(({"role": "system", "content": "Be brief."}, user("一共几个？"), assistant("七个"))),
    Chat(
        (
            user("weather?"),
            assistant("", tool_calls=[call("look"), call("look"), call("ask")]),
            {"role": "tool", "content": "{}"},
            assistant("fine", reasoning_content="hm"),
        ),
        ({"name": "look"}, {"name": "ask"}),
    ),
    Preference((user("Which?"),), assistant("a"), assistant("b")),
    Text("once upon a time"),
]


def count(rows):
    counts = RowCounts()
    for row in rows:
        counts.count_content(row)
    return counts


def test_rows_are_counted_by_what_they_hold():
    report = count(ROWS).report()

    assert report["turns"] == {"2": 2, "3": 1, "4": 1}
    assert report["roles"] == {"assistant": 5, "user": 4, "system": 1, "tool": 1}
    assert report["tools"] == {
        "with_system": 1,
        "with_tools": 1,
        "with_calls": 1,
        "with_reasoning": 1,
        "calls": 3,
        "distinct_called": 2,
        "most_called": {"look": 2, "ask": 1},
    }
    assert report["languages"] == {
        "sampled": 5,
        "counts": {"English": 2, "Latin script": 2, "Chinese": 1},
    }


def test_language_is_looked_for_in_a_sample():
    assert count([ROWS[0]] * 256).report()["languages"]["sampled"] == 16 + 15


def test_counts_of_chunks_add_up():
    parts = count(ROWS[:2])
    parts.merge(count(ROWS[2:]))
    whole = count(ROWS)

    assert parts.rows == whole.rows == 5
    for key in ("turns", "roles", "tools"):
        assert parts.report()[key] == whole.report()[key]


def test_only_the_most_called_tools_are_named():
    messages = (user("q"), assistant("", tool_calls=[call(f"t{i:02}") for i in range(30)]))
    tools = count([Chat(messages)]).report()["tools"]

    assert tools["distinct_called"] == tools["calls"] == 30
    assert list(tools["most_called"]) == [f"t{i:02}" for i in range(20)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How many apples are there in the box?", "English"),
        ("小明有三个苹果，妈妈又给了他四个，一共几个？", "Chinese"),
        ("Please translate the following into Chinese: 你好", "English"),
        ("日本の首都はどこですか", "Japanese"),
        ("사과가 몇 개 있습니까", "Korean"),
        ("Сколько яблок", "Cyrillic script"),
        ("Combien de pommes y a-t-il dans cette boîte ?", "Latin script"),
        ("3 + 4 = ?", "no words"),
        ("", "no words"),
    ],
)
def test_language_is_told_by_script_and_small_words(text, language):
    assert find_language(text) == language


def test_lengths_are_described_exactly():
    lengths = np.arange(1, 1001, dtype=np.int32)
    described = describe_lengths(np.append(lengths, 50_000).astype(np.int32))

    assert described["length_tokens"]["p50"] == 501
    assert described["length_tokens"]["max"] == 50_000
    histogram = described["length_histogram"]
    assert sum(histogram["counts"]) + histogram["beyond"] == 1001
    assert histogram["edges"][-1] < 1000  # one outlier does not squeeze all others into a bar
    assert len(histogram["counts"]) == 40


def test_a_single_length_has_a_histogram():
    described = describe_lengths(np.array([7, 7, 7], dtype=np.int32))

    assert described["length_histogram"] == {"counts": [3], "edges": [7.0, 8.0], "beyond": 0}


def test_packing_tells_how_full_batches_get():
    packing = describe_packing(np.array([4096, 4096, 2048, 2048, 4096]))
    assert packing == {"batch_tokens": 8192, "examples": 5, "batches": 2, "fill": 1.0}
    assert describe_packing(np.array([10_000]))["batch_tokens"] == 10_000


def test_realistic_lengths_are_packed_nearly_full():
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.8, 20_000), 16, 8192)

    assert describe_packing(lengths.astype(np.int32))["fill"] > 0.995


def test_best_fit_takes_the_fullest_bin_and_the_first_of_equals():
    sizes = np.array([5, 6, 4, 3, 2])

    assert [b.tolist() for b in pack_sizes(np.arange(5), sizes, 10)] == [[1, 2], [0, 3, 4]]
    assert [b.tolist() for b in pack_sizes(np.array([4, 3, 2]), sizes, 10)] == [[2, 3, 4]]


def make_store(*examples):
    """A store of weight lists."""
    weights = np.array([w for example in examples for w in example], dtype=np.float32)
    offsets = np.cumsum([0, *map(len, examples)])
    places = np.array([(0, 1 + i) for i in range(len(examples))], dtype=np.int64).reshape(-1, 2)
    ids = np.arange(len(weights), dtype=np.int32)
    return ExampleStore(ids, weights, offsets, places, ("rows.jsonl",))


def test_examples_are_described_over_both_splits():
    train = make_store([0, 0, 1, 1], [0, 0.5, 0, 0, 0, 0.5], [0, 1])
    report = describe_examples(train, make_store([0, 0, 0, 1, 1]))

    assert (report["tokens"], report["trained_tokens"]) == (17, 7)
    assert report["supervised"]["share"] == 7 / 17
    assert report["supervised"]["weights"] == {"0": 10, "0.5": 2, "1": 5}
    assert sum(report["supervised"]["histogram"]["counts"]) == 4
    assert report["longest"] == [
        ["rows.jsonl:2", 6],
        ["rows.jsonl:1", 5],
        ["rows.jsonl:1", 4],
        ["rows.jsonl:3", 2],
    ]
    assert report["packing"]["examples"] == 3
    assert report["length_tokens"]["max"] == 6


def test_prompts_without_any_supervised_token_are_described():
    report = describe_examples(make_store([0, 0, 0]), make_store())

    assert report["trained_tokens"] == 0
    assert report["supervised"]["weights"] == {"0": 3}
