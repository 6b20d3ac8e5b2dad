from functools import partial

import pytest

from posttrain.config.evaluation import TASK_KINDS
from posttrain.config.load import build_settings
from posttrain.data.formats.choice import Choice
from posttrain.data.records import Origin
from posttrain.errors import DataError
from posttrain.evaluation.problems import Problem, read_problems
from posttrain.evaluation.prompts import Prompt, build_prompts, encode_prompts
from posttrain.files import write_jsonl

CHOICE = Choice("A passage.", "Which?", ("x", "y"), 1)


def task(kind="number", **settings):
    values = {"kind": kind, "data": {"path": "x.jsonl"}, **settings}
    return build_settings(TASK_KINDS[kind], values, [])


def problem(text="How many?", **more):
    prompt = {"role": "user", "content": text}
    return Problem(Origin("data/test.jsonl", 12), (prompt,), "72", **more)


def choice(**more):
    return problem(CHOICE.text, choice=CHOICE, **more)


def put(task, problem, **more):
    (found,) = build_prompts(task, [problem], **more)
    return found


@pytest.mark.parametrize(
    ("kind", "cot", "below"),
    [
        ("number", None, ""),
        ("number", False, "\nGive only the final answer."),
        (
            "formula",
            True,
            "\nPlease reason step by step, and put your final answer within \\boxed{}.",
        ),
        ("choice", None, "\nAnswer with the letter of the right option."),
    ],
)
def test_cot_settles_what_is_asked_below_the_problem(kind, cot, below):
    (message,) = put(task(kind, cot=cot), problem()).messages
    assert message["content"] == "How many?" + below


def test_a_system_turn_replaces_the_one_of_the_row():
    row = Problem(
        Origin("a", 1),
        ({"role": "system", "content": "old"}, {"role": "user", "content": "?"}),
        "1",
    )
    found = put(task(system="new"), row).messages
    assert [m["content"] for m in found] == ["new", "?"]
    assert row.messages[0]["content"] == "old"


def test_solved_examples_are_turns_before_the_problem():
    examples = [{"problem": f"P{n}", "answer": f"A{n}"} for n in (1, 2, 3)]
    shots = {"number": 2, "examples": examples}
    found = put(task(system="s", shots=shots), problem()).messages
    assert [(m["role"], m["content"]) for m in found] == [
        ("system", "s"), ("user", "P1"), ("assistant", "A1"), ("user", "P2"), ("assistant", "A2"),
        ("user", "How many?"),
    ]  # fmt: skip


def test_a_problem_that_is_its_only_example_is_told_with_its_place():
    shots = {"examples": [{"problem": "how  many?", "answer": "A1"}]}
    with pytest.raises(DataError, match=r"test\.jsonl:12: this problem is one of the solved"):
        put(task(shots=shots), problem())


def test_plain_text_has_its_examples_inside():
    shots = {"examples": [{"problem": "P1", "answer": "A1"}]}
    found = put(task(context="text", system="s", shots=shots), problem())
    assert found.text == "s\n\nQuestion: P1\nAnswer: A1\n\nQuestion: How many?\nAnswer:"
    assert found.messages == ({"role": "user", "content": found.text},)


def test_a_passage_stands_before_the_question_and_scored_options_behind_it():
    likely = task("choice", method="likelihood", context="text")
    assert put(likely, choice()).text == "A passage.\n\nQuestion: Which?\nAnswer:"
    lettered = put(task("choice"), choice()).messages[-1]["content"]
    assert lettered.startswith("A passage.\n\nWhich?\nA. x\nB. y\nAnswer with")


@pytest.mark.parametrize(("method", "told"), [("likelihood", "y"), ("letter", "B")])
def test_examples_of_multiple_choice_are_answered_as_the_task_asks(tmp_path, method, told):
    row = {"question": "Which?", "options": ["x", "y"], "answer": "B", "explanation": "So."}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    data = {"path": str(tmp_path / "rows.jsonl")}
    for cot in (None, True) if method == "letter" else (None,):
        settings = task("choice", method=method, cot=cot, shots={"number": 1, "data": data})
        found = put(settings, problem(choice=CHOICE), read=partial(read_problems, settings))
        answer = found.messages[1]["content"]
        assert answer == (f"So.\nAnswer: {told}" if cot else told)
        assert ("A. x" in found.messages[0]["content"]) == (method == "letter")


def test_a_prompt_of_ones_own_speaks_of_options_and_fields_of_the_row():
    shown = "{% for o in options %} {{ o.letter }}={{ o.text }}{% endfor %}"
    prompt = "{{ row.subject }}: {{ question }}" + shown
    found = put(task("choice", prompt=prompt), choice(row={"subject": "Bio"}))
    assert found.messages[-1]["content"] == "Bio: Which? A=x B=y"
    with pytest.raises(
        DataError, match=r"test\.jsonl:12: .*no attribute 'subject'.*the row has: a"
    ):
        put(task("choice", prompt=prompt), choice(row={"a": 1}))


def test_a_written_example_brings_the_fields_that_the_prompt_speaks_of():
    one = {"problem": "P1", "answer": "A1", "row": {"subject": "Art"}}
    prompt = "{{ row.subject }}: {{ problem }}"
    settings = task(prompt=prompt, shots={"examples": [one]})
    found = put(settings, problem(row={"subject": "Bio"})).messages
    assert [m["content"] for m in found] == ["Art: P1", "A1", "Bio: How many?"]
    bare = task(prompt=prompt, shots={"examples": [{"problem": "P1", "answer": "A1"}]})
    with pytest.raises(DataError, match=r"shots\.examples:1: .*the row has: no fields"):
        put(bare, problem(row={"subject": "Bio"}))


def test_a_template_cannot_reach_into_python():
    prompt = "{{ problem.__class__.__mro__ }}"
    with pytest.raises(DataError, match="unsafe"):
        put(task(prompt=prompt), problem())


def test_examples_from_a_file_are_the_same_for_all_and_never_the_problem_itself(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"}
            for n in range(9)]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"path": str(tmp_path / "rows.jsonl")}
    settings = task(data=data, shots={"number": 3, "data": data, "seed": 1})
    problems = read_problems(settings)
    found = build_prompts(settings, problems, lambda source: read_problems(settings, source))
    heads = []
    for one, prompt in zip(problems, found, strict=True):
        asked = [m["content"] for m in prompt.messages if m["role"] == "user"]
        assert asked[-1] == one.messages[-1]["content"]
        assert asked[-1] not in asked[:-1]
        assert len(asked) == 4
        heads.append(tuple(asked[:-1]))
        assert "####" in prompt.messages[1]["content"]
    assert len(set(heads)) == 4  # one for all, and one for each of the three that are in it
    bare = task(data=data, cot=False, shots={"number": 3, "data": data, "seed": 1})
    (first, *_) = build_prompts(bare, problems, lambda source: read_problems(bare, source))
    assert first.messages[1]["content"].isdigit()
    other = task(data=data, shots={"number": 3, "data": data, "seed": 2})
    again = build_prompts(other, problems, lambda source: read_problems(other, source))
    assert again[0].messages != found[0].messages


def test_too_few_examples_are_told(tmp_path):
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(3)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"path": str(tmp_path / "rows.jsonl")}
    settings = task(data=data, shots={"number": 3, "data": data})
    problems = read_problems(settings)
    with pytest.raises(DataError, match="has 2 solved examples besides this problem"):
        build_prompts(settings, problems, lambda source: read_problems(settings, source))


def test_a_template_that_refuses_a_problem_is_one_line(tiny_tokenizer):
    template = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = "{{ raise_exception('only system turns') }}"
    try:
        with pytest.raises(DataError, match=r"test\.jsonl:12: the template refuses.*only system"):
            encode_prompts(
                [problem()], [Prompt(({"role": "user", "content": "?"},))], tiny_tokenizer
            )
    finally:
        tiny_tokenizer.chat_template = template


def test_plain_text_needs_no_template(tiny_tokenizer):
    prompts = build_prompts(task(context="text"), [problem()])
    (ids,) = encode_prompts([problem()], prompts, tiny_tokenizer)
    assert tiny_tokenizer.decode(ids, skip_special_tokens=True) == "Question: How many?\nAnswer:"
