import pickle

import pytest

from posttrain.data.contamination import ContaminationIndex, normalize_text
from posttrain.data.records import Chat, Origin, Preference, Record, Text
from tests.unit.data.conftest import assistant, user

SHELVES = (
    "A library has 12 shelves with 30 books each. On Monday 45 books are lent and 9 come back. "
    "How many books stand on the shelves in the evening?"
)
BUS = "公交车上原来有18个人，到站后下去8个人，又上来6个人，现在车上一共有多少个人？"


def chat(text, answer="a", **keys):
    return Chat((user(text), assistant(answer)), keys=keys)


def problems(*contents, **settings):
    """An index of evaluation problems, each with its number as the line."""
    contents = [chat(c) if isinstance(c, str) else c for c in contents]
    records = [Record(c, Origin("test.jsonl", i)) for i, c in enumerate(contents, 1)]
    return ContaminationIndex(records, **settings)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many?", "how  many"),
        ("Ｈow many １２?", "how many 12"),
        ("well-known", "Well known!"),
        ("3 + 4 = ?", "3+4=?"),
        ("3 − 4", "3 - 4"),
        ("$3.50, please.", "3.50 please"),
        ("a_b", "a b"),
        ("$x^{2}$", "x^2"),
        ("今天 天气", "今天天气。"),
    ],
)
def test_same_problem_in_other_writing_is_the_same(one, other):
    assert normalize_text(one) == normalize_text(other)
    assert problems(one).find(chat(other)).what == "prompt text"


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 + 4", "3 - 4"), ("3.5", "35"), ("3.5", "3 5"), ("-2", "2"), ("x < 3", "x > 3")],
)
def test_other_numbers_or_signs_are_another_problem(one, other):
    assert normalize_text(one) != normalize_text(other)
    assert problems(one).find(chat(other)) is None


def test_training_row_with_an_evaluation_prompt_is_found():
    index = problems("one", "two")
    match = index.find(chat("TWO!"))

    assert index.problems == 2
    assert (match.what, match.origin, match.share, match.text) == (
        "prompt text",
        "test.jsonl:2",
        1.0,
        "two",
    )
    assert index.find(chat("three")) is None


def test_key_finds_what_the_text_does_not():
    evaluation = chat("different", id="x7")

    assert problems(evaluation).find(chat("one", id="x7")) is None
    match = problems(evaluation, keys=["id"]).find(chat("one", id="x7"))
    assert (match.what, match.text) == ("id", "x7")
    assert problems(evaluation, keys=["id"]).find(chat("other", id="x8")) is None


def test_value_of_one_key_does_not_match_another_key():
    index = problems(chat("two", id="x7"), keys=["id", "topic"])

    assert index.find(chat("one", topic="x7")) is None


def test_prompts_of_punctuation_alone_are_not_the_same_problem():
    assert problems("!!!", "").find(chat("???")) is None


def test_a_problem_inside_of_a_document_is_found():
    document = "Some words before. Question: Tom has 3 apples, how many? And words behind."
    index = problems("Tom has 3 apples, how many?")

    assert index.find(Text(document)).what == "prompt text"
    assert index.find(Text("Tom.")) is None


def test_other_words_are_no_problem_inside_of_a_document():
    index = problems("Tom has 3 apples, how many?", "3 + 4 = 7")

    assert index.find(Text("Tom has 4 apples, how many? " * 3)) is None
    assert index.find(Text("He wrote 3 - 4 = 7 again.")) is None
    assert index.find(Text("He wrote 3 + 4 = 7 again.")).origin == "test.jsonl:2"


def test_a_problem_of_very_few_words_is_not_looked_for_inside_of_a_document():
    index = problems("How many are there?", "还有多少个苹果？")

    assert index.find(Text("Nobody asked: How many are there? 还有多少个苹果？")) is None
    assert index.find(Text("还有多少个苹果")) is not None


@pytest.mark.parametrize("problem", [SHELVES, BUS])
@pytest.mark.parametrize(
    "place",
    [
        lambda text: chat(f"Please help me with this: {text} Thank you very much!"),
        lambda text: chat("Give me a problem.", f"Here is one: {text}"),
        lambda text: Chat(
            (user("Think."), assistant("7", reasoning_content=f"I know this: {text} It is 7."))
        ),
        lambda text: Chat((user("Look it up."), {"role": "tool", "content": text}, assistant("7"))),
        lambda text: Chat(
            (
                user("Search."),
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": {"query": text}}}],
                },
            )
        ),
        lambda text: Preference((user("Say."),), assistant("No."), assistant(f"Well: {text}")),
        lambda text: Text(f"A book of problems.\n\n17. {text}\n\n18. Another one."),
    ],
)
def test_most_of_a_problem_is_found_wherever_it_stands_in_a_row(problem, place):
    match = problems("Something else entirely.", problem).find(place(problem))

    assert match.origin == "test.jsonl:2"
    assert match.share == 1.0
    assert match.what == "n-grams"


def test_part_of_a_problem_is_found_from_the_wanted_share_on():
    row = chat(SHELVES.replace("How many books stand on the shelves", "What is the number left"))

    match = problems(SHELVES).find(row)

    assert match.share == pytest.approx(19 / 29)
    assert match.text == (
        "a library has 12 shelves with 30 books each. on monday 45 books are lent and 9 come back"
    )
    assert problems(SHELVES, coverage=0.6).find(row) is not None
    assert problems(SHELVES, coverage=0.7).find(row) is None
    assert problems(SHELVES, ngram=20).find(row) is None
    assert problems(SHELVES, ngram=None).find(row) is None


def test_of_several_problems_the_one_of_which_most_is_there_is_named():
    other = SHELVES.replace("How many books stand on the shelves in the evening", "What remains")

    assert problems(SHELVES, other).find(chat(f"Now: {other}")).origin == "test.jsonl:2"
    assert problems(other, SHELVES).find(chat(f"Now: {SHELVES}")).origin == "test.jsonl:2"


@pytest.mark.parametrize(
    ("problem", "old", "new"),
    [(SHELVES, "12", "14"), (SHELVES, "and 9 come", "and 3 come"), (BUS, "18", "20")],
)
def test_other_numbers_in_the_same_template_are_another_problem(problem, old, new):
    assert problems(problem).find(chat(f"Now: {problem.replace(old, new)}")) is None
    assert problems(problem).find(chat(f"Now: {problem}")) is not None


def test_numbers_in_another_order_are_another_problem():
    turned = SHELVES.replace("12", "x").replace("30", "12").replace("x", "30")

    assert problems(SHELVES).find(chat(f"Now: {turned}")) is None


def test_signs_tell_long_problems_apart_too():
    problem = "Find the only real number x for which the sum x^2 + 6 x + 9 is equal to nothing."

    assert problems(problem).find(chat(f"Now: {problem.replace('x^2 + 6', 'x^2 - 6')}")) is None
    assert problems(problem).find(chat(f"Now: {problem.replace('x^2', 'x^{2}')}")) is not None


def test_what_stands_before_every_problem_tells_none_of_them():
    before = "Answer with one letter and nothing else, for a machine reads what you write. "
    asked = ["Which planet is red", "Who wrote Emma", "What do bees make", "Where do fish live"]
    index = problems(*(before + question for question in asked))

    assert index.find(chat(f"{before} Which metal is liquid?")) is None
    assert index.find(chat(f"{before} {asked[2]}?")).origin == "test.jsonl:3"
    assert problems(before + asked[0]).find(chat(f"{before} Which metal is liquid?")) is not None


def test_chinese_needs_runs_of_twice_as_many_signs():
    eight, sixteen = "我们一起去公园散步", "小明和小红今天下午放学以后一起去公园"
    problem = f"{sixteen}散步，他们在湖边看见了许多鸭子和天鹅。"

    assert (
        problems(f"老师说，{eight}。大家都很高兴，于是就出发了。", coverage=0.1).find(
            chat(f"昨天{eight}，真开心。")
        )
        is None
    )
    assert problems(problem, coverage=0.3).find(chat(f"{sixteen}玩。")) is not None


def test_the_same_problem_twice_is_one():
    index = problems(*[SHELVES] * 10)

    assert index.problems == 10
    assert index.find(chat(f"Now: {SHELVES}")).origin == "test.jsonl:1"


def test_no_problem_matches_nothing():
    assert problems().find(chat(SHELVES)) is None
    assert problems("x").find(Text("")) is None


def test_the_index_can_be_sent_to_another_process():
    index = pickle.loads(pickle.dumps(problems(SHELVES, "short", keys=["id"])))

    assert index.find(chat(f"Now: {SHELVES}")).share == 1.0
    assert index.find(chat("Short")).what == "prompt text"
