"""Tasks by name: what a file says, below what a stage says."""

import pytest

from posttrain.config.evaluation import ChoiceTask, FormulaTask, NumberTask
from posttrain.config.load import load_recipe
from posttrain.config.recipe import Recipe
from posttrain.config.tasks import SHIPPED, list_tasks
from posttrain.errors import ConfigError
from posttrain.runs.list_tasks import render_tasks

NAMES = (
    "arc", "arc-letter", "demo", "gsm8k", "gsm8k-8shot", "items", "math", "math500", "mcq",
    "perplexity", "sat", "sat-letter", "tool_calls",
)  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Write a recipe with these tasks, and own tasks beside it."""

    def write(tasks, **own):
        (tmp_path / "tasks").mkdir(exist_ok=True)
        for name, text in own.items():
            (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
        path = tmp_path / "recipe.yaml"
        path.write_text(
            f"name: study\nmodel: {{path: tiny}}\nstages:\n  - stage: evaluate\n    tasks:\n{tasks}"
        )
        return path

    return write


def load(path, *overrides):
    return load_recipe(path, overrides).stages[0].tasks


def mistake(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_that_comes_with_us_is_whole_with_a_path(write, name):
    (task,) = load(write(f"      - {{task: {name}, data: {{path: x.jsonl}}}}\n"))
    assert task.label == name
    # How to get our data is no help with a mistyped path of one's own.
    assert task.data.get is None


def test_how_to_get_the_data_is_told_of_the_default_path_alone(write):
    ours, own = load(write("      - gsm8k\n      - {task: math, data: {path: x, get: mine}}\n"))
    assert (ours.data.get or "").startswith("posttrain download openai/gsm8k")
    assert own.data.get == "mine"


def test_a_file_that_is_no_task_hides_no_other_one(write):
    path = write("      - fine\n", fine="kind: exact\ndata: {path: /rows.jsonl}\n", empty="")
    text = " ".join(render_tasks(path.parent).split())
    assert "empty broken" in text
    assert "a task is a mapping of keys" in text
    assert "fine exact" in text
    assert "math500 formula" in text


def test_these_are_all_and_each_says_what_it_is(tmp_path):
    found = list(list_tasks(tmp_path).values())
    assert [task.name for task in found] == list(NAMES)
    assert all(task.about for task in found)
    assert {task.path.parent for task in found} == {SHIPPED}


def test_a_stage_goes_over_the_file_key_by_key(write):
    path = write("      - {task: math500, name: short, max_new_tokens: 9, data: {limit: 3}}\n")
    (task,) = load(path)
    assert isinstance(task, FormulaTask)
    assert (task.label, task.max_new_tokens, task.cot, task.data.limit) == ("short", 9, True, 3)
    assert task.data.path == path.parent / "data/math500"


def test_a_name_alone_is_a_task_and_can_be_overridden(write):
    path = write("      - gsm8k\n      - arc\n")
    first, second = load(
        path, "stages.evaluate.tasks.gsm8k.shots.number=0", "stages.0.tasks.1.task=sat"
    )
    assert isinstance(first, NumberTask)
    assert isinstance(second, ChoiceTask)
    assert second.label == "sat"


def test_an_own_task_comes_first_and_may_build_on_one_of_ours(write):
    own = "task: gsm8k\nabout: mine\ndata: {path: mine.jsonl}\nmax_new_tokens: 7\n"
    path = write("      - gsm8k\n", gsm8k=own)
    (task,) = load(path)
    assert (task.label, task.max_new_tokens) == ("gsm8k", 7)
    assert task.data.path == path.parent / "tasks/mine.jsonl"
    assert next(iter(list_tasks(path.parent).values())).about == "mine"


def test_an_own_task_may_build_on_another_own_one(write):
    one = "kind: exact\ndata: {path: /rows.jsonl}\nstop: [x]\n"
    (task,) = load(write("      - two\n", one=one, two="task: one\nsamples: 2\ntemperature: 1\n"))
    assert (task.stop, task.samples, task.label) == (("x",), 2, "two")


def test_a_task_by_its_path(write, tmp_path):
    (tmp_path / "else.yaml").write_text("kind: exact\ndata: {path: rows.jsonl}\n")
    (task,) = load(write("      - {task: ./else.yaml}\n"))
    assert (task.label, task.data.path) == ("else", tmp_path / "rows.jsonl")


def test_a_task_by_its_path_is_reached_by_its_name_and_groups_can_be_cleared(write):
    own = "kind: number\ngroups: {level: level}\ndata: {path: x.jsonl}\n"
    path = write("      - {task: ./tasks/mine.yaml}\n", mine=own)
    (task,) = load(path)
    assert task.groups == {"level": "level"}
    place = "stages.evaluate.tasks.mine"
    (task,) = load(path, f"{place}.data.limit=2", f"{place}.groups={{}}")
    assert (task.data.limit, task.groups) == (2, {})


def test_no_tasks_are_refused_in_plain_words(write):
    said = mistake(write("      - gsm8k\n"), "stages.evaluate.tasks=[]")
    assert said.endswith("`stages.0.tasks`: is empty; give at least one")


def test_another_place_of_rows_takes_the_place_of_the_files(write):
    own = (
        "kind: number\ndata: {path: a.jsonl, get: ask}\nshots: {number: 1, data: {path: b.jsonl}}\n"
    )
    made = "  - {stage: sample-data, name: made, kind: math, num: 3}\n"
    path = write(
        "      - {task: mine, data: {from_stage: made}, "
        "shots: {examples: [{problem: p, answer: a}]}}\n",
        mine=own,
    )
    path.write_text(path.read_text().replace("stages:\n", f"stages:\n{made}"))
    (task,) = load_recipe(path).stages[1].tasks
    assert (task.data.path, task.data.from_stage) == (None, "made")
    assert task.shots.data is None
    assert task.shots.number == 1


def test_an_unknown_task_is_told_with_the_nearest_names(write):
    said = mistake(write("      - gsm8k\n      - {task: gsm9k}\n"))
    assert "recipe.yaml:7: `gsm9k` is no task; did you mean `gsm8k`" in said


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("{data: {path: x}}", "recipe.yaml:6: `stages.0.tasks.0` needs the key `task`"),
        ("{task: perplexity}", "recipe.yaml:6: `stages.0.tasks.0.data`: say where the rows are"),
        ("{task: gsm8k, temprature: 1}", "recipe.yaml:6: unknown key"),
        ("{task: gsm8k, samples: 1001, temperature: 1}", "less than or equal to 1000"),
        ("{task: gsm8k, answer_pattern: '('}", "no regular expression: missing )"),
        ("{task: gsm8k, samples: 2}", "`samples` are all the same at `temperature: 0`"),
        ("{task: gsm8k, shots: 3}", "3 examples are wanted and 0 written down"),
        ("{task: gsm8k, prompt: '{{ answer }}'}", "knows no `answer`"),
        ("{task: gsm8k, prompt: '{{ problem'}", "not a template"),
        ("{task: gsm8k, cot: true, prompt: '{{ problem }}'}", "`cot` has no effect"),
        ("{task: arc, samples: 2, temperature: 1}", "are of `method: letter`"),
        ("{task: ./gone.yaml}", "recipe.yaml:6: no task file"),
        ("{task: wrong}", "wrong.yaml:2: `stages.0.tasks.0.max_new_tokens`"),
        ("{task: bare}", "bare.yaml: a task needs `kind`"),
        ("{task: circle}", "circle.yaml: builds on itself"),
        ("{task: one}", "makes a loop: one -> two -> one"),
        ("{task: odd}", "odd.yaml:1: `stages.0.tasks.0.kind: sum` is no kind; known: 'number'"),
    ],
)
def test_mistakes_are_told_where_they_are_written(write, task, said):
    path = write(
        f"      - {task}\n",
        wrong="kind: number\nmax_new_tokens: many\ndata: {path: x}\n",
        bare="data: {path: x}\n",
        circle="task: ./circle.yaml\n",
        one="task: two\n",
        two="task: one\n",
        odd="kind: sum\ndata: {path: x}\n",
    )
    assert said in mistake(path)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data.max_rows=3", "`max_rows` is of training data; `limit`"),
        ("data.weight=2", "`weight` is of training data"),
        ("top_p=0.9", "`top_p` has no effect at `temperature: 0`; raise it"),
        ("top_k=5", "`top_k` has no effect at `temperature: 0`; raise it"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(write, key, said):
    path = write("      - {task: gsm8k, data: {path: x.jsonl}}\n")
    assert said in mistake(path, f"stages.evaluate.tasks.gsm8k.{key}")


def test_a_recipe_that_was_written_down_needs_no_task_files(write):
    path = write("      - {task: mine}\n", mine="kind: exact\ndata: {path: x.jsonl}\n")
    recipe = load_recipe(path)
    (path.parent / "tasks/mine.yaml").unlink()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
