import json

import pytest

from posttrain.config.data import SourceConfig, TaskData
from posttrain.config.evaluation import FormulaTask
from posttrain.data.records import Origin
from posttrain.errors import DataError
from posttrain.evaluation.problems import (
    name_origins,
    read_choices,
    read_gsm8k,
    read_math,
    read_problems,
    read_questions,
    read_tool_problems,
)
from posttrain.files import write_jsonl
from posttrain.samples import GENERATORS

TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def source(tmp_path, rows, **settings):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return SourceConfig(path=tmp_path / "rows.jsonl", **settings)


def calling(arguments, **more):
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "It is 1."},
    ]
    return {"messages": messages, "tools": [TOOL], **more}


def test_the_last_box_of_the_solution_is_the_reference_and_fields_become_groups(tmp_path):
    rows = [
        {"problem": "P", "solution": r"\boxed{1} so \boxed{\frac{1}{2}}", "type": "Algebra"},
        {"problem": "P", "answer": 3, "level": 4, "subject": "Geometry"},
    ]
    found = read_math(source(tmp_path, rows))
    assert [p.reference for p in found] == [r"\frac{1}{2}", "3"]
    assert [dict(p.groups) for p in found] == [
        {"subject": "Algebra"},
        {"level": "4", "subject": "Geometry"},
    ]


def test_columns_and_limit_of_the_source_are_honoured(tmp_path):
    rows = [{"Frage": "P", "answer": "1"}, {"Frage": "P"}]
    found = read_math(source(tmp_path, rows, columns={"problem": "Frage"}, limit=1))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("row", "options", "reference"),
    [
        ({"question": "?", "options": ["(A)x", "(B) y"], "label": "B"}, ("x", "y"), "B"),
        (
            {
                "question": {
                    "stem": "?",
                    "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}],
                },
                "answerKey": "2",
            },
            ("x", "y"),
            "B",
        ),
        (
            {
                "question": "?",
                "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                "answerKey": "A",
            },
            ("x", "y"),
            "A",
        ),
        ({"stem": "?", "options": [{"key": "A", "text": "x"}, {"key": "B", "text": "y"}],
          "answer": "B"}, ("x", "y"), "B"),
        ({"question": "?", "options": ["x", "y", "z"], "answer": 2}, ("x", "y", "z"), "C"),
        ({"question": "?", "options": {"A": "x", "B": "y"}, "answer": "y"}, ("x", "y"), "B"),
    ],
)  # fmt: skip
def test_every_shape_of_choice_rows(tmp_path, row, options, reference):
    (found,) = read_choices(source(tmp_path, [row]))
    assert found.choice.options == options
    assert found.reference == reference


def test_a_passage_stands_before_the_question(tmp_path):
    row = {"passage": "P.", "question": "Q?", "options": ["x", "y"], "answer": "A"}
    (found,) = read_choices(source(tmp_path, [row]))
    assert found.messages[0]["content"] == "P.\n\nQ?\nA. x\nB. y"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "?", "answer": "A"}, "no `options`"),
        ({"question": "?", "options": ["x"], "answer": "A"}, "1 options"),
        ({"question": "?", "options": ["x", "y"], "answer": "C"}, "names no option"),
        ({"question": "?", "options": ["x", "y"], "answer": 7}, "names no option"),
        ({"question": "?", "options": ["x", ""], "answer": "A"}, "an option is not text"),
        ({"options": ["x", "y"], "answer": "A"}, "no `question`"),
    ],
)
def test_an_unusable_question_is_named(tmp_path, row, reason):
    good = {"question": "?", "options": ["x", "y"], "answer": "A"}
    with pytest.raises(DataError, match=rf"rows.jsonl:2: .*{reason}.*1 problems are unusable"):
        read_choices(source(tmp_path, [good, row]))


def test_own_sample_rows_are_read(tmp_path):
    found = read_choices(source(tmp_path, list(GENERATORS["mcq"](20, 0))))
    assert {p.reference for p in found} == set("ABCD")
    assert "skill" in found[0].groups


def test_the_last_calling_turn_is_the_reference_and_later_turns_are_not_shown(tmp_path):
    (found,) = read_tool_problems(source(tmp_path, [calling({"a": 1})]))
    assert [m["role"] for m in found.messages] == ["user"]
    assert found.reference == "f(a=1)"
    assert found.expected == {"calls": [{"name": "f", "arguments": {"a": 1}}], "possible": None}


def test_a_conversation_without_calls_expects_none(tmp_path):
    row = {"messages": calling({})["messages"][::3], "tools": [TOOL]}
    (found,) = read_tool_problems(source(tmp_path, [row]))
    assert found.expected["calls"] == []
    assert [m["role"] for m in found.messages] == ["user"]


def test_accepted_values_must_have_their_shape(tmp_path):
    (found,) = read_tool_problems(source(tmp_path, [calling({"a": 1}, ground_truth=[{"f": {}}])]))
    assert found.expected["possible"] == [{"f": {}}]
    with pytest.raises(DataError, match=r"rows.jsonl:1: `ground_truth` is not a list"):
        read_tool_problems(source(tmp_path, [calling({"a": 1}, ground_truth=[{"f": {"a": 1}}])]))


def test_tool_rows_without_tools_are_refused(tmp_path):
    row = {"messages": calling({})["messages"][::3]}
    with pytest.raises(DataError, match=r"rows.jsonl:1: no tools; a task of this kind needs"):
        read_tool_problems(source(tmp_path, [row]))


def test_a_gsm8k_problem_without_reference_is_refused_by_name(tmp_path):
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no reference answer"):
        read_gsm8k(source(tmp_path, [{"messages": messages}]))


def test_an_unusable_problem_stops_the_evaluation(tmp_path):
    rows = [{"question": "1 + 1?", "answer": "#### 2"}, {"question": "?", "answer": "none"}]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*1 problems are unusable"):
        read_gsm8k(source(tmp_path, rows))


def test_rows_of_one_line_keep_names_of_their_own(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"question": "?", "answer": f"#### {n}"} for n in range(3)]))
    found = read_gsm8k(SourceConfig(path=path))
    names = name_origins(problem.origin for problem in found)
    assert names == ["rows.json:1", "rows.json:1#2", "rows.json:1#3"]
    assert name_origins([Origin("/a/b.jsonl", 3)]) == ["b.jsonl:3"]


@pytest.mark.parametrize(
    ("file", "read", "count"),
    [
        ("gsm8k/test.jsonl", read_gsm8k, 1319),
        ("math/test.jsonl", read_math, 5000),
        ("math/math500.jsonl", read_math, 500),
        ("mcq/agieval/sat-en.jsonl", read_choices, 206),
        ("mcq/arc/ARC-Challenge-Dev.jsonl", read_choices, 294),
        ("toolcall/trl_toolcall_sft.jsonl", read_tool_problems, 8),
        ("toolcall/dolci_shaped_DERIVED_from_bfcl.jsonl", read_tool_problems, 240),
    ],
)
def test_real_files_are_read_whole(shared_data, file, read, count):
    found = read(SourceConfig(path=shared_data / file))
    assert len(found) == count
    assert all(problem.reference for problem in found)


def test_references_of_math_are_the_published_ones(shared_data):
    path = shared_data / "math" / "math500.jsonl"
    published = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    assert [p.reference for p in read_math(SourceConfig(path=path))] == published


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["test.jsonl", "train.jsonl", "testing.jsonl"], ["test.jsonl"]),
        (["test-00000-of-00002.jsonl", "test-00001-of-00002.jsonl", "train-0.jsonl"],
         ["test-00000-of-00002.jsonl", "test-00001-of-00002.jsonl"]),
        (["algebra/test-0.jsonl", "geometry/test-0.jsonl", "geometry/train-0.jsonl"],
         ["algebra/test-0.jsonl", "geometry/test-0.jsonl"]),
        (["test/rows.jsonl", "train/rows.jsonl"], ["test/rows.jsonl"]),
    ],
)  # fmt: skip
def test_a_split_takes_its_files_of_a_folder(tmp_path, files, chosen):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [{"problem": name, "answer": "1"}])
    found = read_math(TaskData(path=tmp_path, split="test"))
    assert [problem.messages[0]["content"] for problem in found] == chosen
    with pytest.raises(DataError, match="no file of the split `dev`"):
        read_math(TaskData(path=tmp_path, split="dev"))


def test_reason_and_detail_of_an_unusable_row_are_told_apart(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"problem": "P"}])
    told = "no reference answer: neither a box in `solution` nor `answer`; 1 problems"
    with pytest.raises(DataError, match=told):
        read_math(TaskData(path=tmp_path / "rows.jsonl"))


def test_missing_rows_come_with_the_way_to_get_them(tmp_path):
    source = TaskData(path=tmp_path / "gone", split="test", get="ask for it")
    with pytest.raises(DataError, match="gone: no such file or folder; get it: ask for it"):
        read_math(source)


def test_own_groups_and_clusters_are_fields_of_the_row(tmp_path):
    rows = [{"problem": "P", "answer": "1", "level": "3", "text": "T", "made": 2024}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    values = {"kind": "formula", "data": {"path": tmp_path / "rows.jsonl"}}
    task = FormulaTask(**values, groups={"year": "made"}, cluster="text")
    (found,) = read_problems(task)
    assert found.groups == {"level": "3", "year": "2024"}
    assert found.cluster == "T"
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no field `author`"):
        read_problems(FormulaTask(**values, groups={"who": "author"}))


def test_questions_on_one_passage_are_a_cluster(tmp_path):
    row = {"question": "?", "options": ["x", "y"], "answer": "B"}
    rows = [{**row, "passage": "one"}, {**row, "passage": "one"}, {**row, "passage": "two"}, row]
    first, second, third, alone = read_choices(source(tmp_path, rows))
    assert first.cluster == second.cluster != third.cluster
    assert alone.cluster is None


def test_questions_with_a_word_as_answer(tmp_path):
    rows = [{"question": "Which?", "answer": " Blue "}, {"problem": "How many?", "answer": 3}]
    assert [p.reference for p in read_questions(source(tmp_path, rows))] == ["Blue", "3"]
    with pytest.raises(DataError, match="no `answer`"):
        read_questions(source(tmp_path, [{"question": "Which?"}]))
