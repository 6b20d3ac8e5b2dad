"""`evaluate --harness` and the stage `harness`, on tasks of our own, without a network."""

import json
import subprocess
import sys

import pytest

from posttrain.files import load_json, load_jsonl
from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain

CHOICE = """\
task: our_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 2.0}
"""
WRITING = """\
task: our_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/writing.jsonl}}
test_split: test
fewshot_split: test
output_type: generate_until
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: as_written, filter: [{function: take_first}]}
  - {name: digits, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}
metadata: {version: 1.0}
"""
TEXTS = """\
task: our_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/writing.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: word_perplexity, higher_is_better: false}
metadata: {version: 1.0}
"""
GROUP = """\
group: ours
task: [our_choice, our_writing]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""
RECIPE = """\
name: measured
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: problems, kind: math, num: 20}
  - {stage: harness, name: before, model_from: base, tasks: [our_choice], tasks_folder: mine}
  - stage: sft
    data: {sources: [{from_stage: problems}]}
    steps: 2
    batch_tokens: 512
    learning_rate: 3e-3
  - {stage: harness, name: after, tasks: [our_choice], tasks_folder: mine}
"""
OWN = ("harness.tasks_folder=mine", "compute.threads=1", "compute.precision=fp32")


@pytest.fixture(autouse=True)
def mine(tmp_path):
    """A folder of task files with their data."""
    folder = tmp_path / "mine"
    folder.mkdir()
    texts = {"choice": CHOICE, "writing": WRITING, "texts": TEXTS, "group": GROUP}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    choices = [
        {"question": f"What is {i} + {i}?", "options": [str(2 * i), str(2 * i + 1)], "label": 0}
        for i in range(6)
    ]
    answers = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(4)]
    for name, rows in {"choice": choices, "writing": answers}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def own_data_cache(tmp_path, monkeypatch):
    """The data sets library writes here and not into the user's own cache."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def evaluate(cli, tasks, *more, target="tiny"):
    return cli("evaluate", target, "--harness", tasks, *OWN, *more)


DIRECT = """
import json, sys, lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from posttrain.config.model import ModelConfig
from posttrain.models.load import load_model, load_tokenizer
config = ModelConfig(path="tiny")
model = load_model(config, attention="sdpa", dtype="float32")
found = lm_eval.simple_evaluate(
    HFLM(pretrained=model, tokenizer=load_tokenizer(config), batch_size=16),
    tasks=["ours", "our_texts"], num_fewshot=1,
    task_manager=TaskManager(include_path="mine", include_defaults=False),
)
json.dump(found["results"], open("direct.json", "w"), default=float)
"""


def test_scores_are_those_of_the_harness_itself(cli, tmp_path, cache_dir):
    result = evaluate(cli, "ours,our_texts", "harness.num_fewshot=1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("our_choice") == 2  # acc and acc_norm
    folder = tmp_path / "runs" / "tiny" / "harness"
    whole = load_json(folder / "harness.json")
    done = subprocess.run(
        [sys.executable, "-c", DIRECT], cwd=tmp_path, env=environment(cache_dir),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    direct = load_json(tmp_path / "direct.json")
    scores = {name: task["scores"] for name, task in whole["tasks"].items()} | whole["groups"]
    assert set(scores) == {"our_choice", "our_writing", "our_texts", "ours"}
    for name, found in scores.items():
        expected = {k: v for k, v in direct[name].items() if "," in k and "_stderr" not in k}
        assert {key: score["value"] for key, score in found.items()} == pytest.approx(expected)
    assert whole["versions"]["lm_eval"]
    assert whole["tasks"]["our_choice"]["task_version"] == 2.0
    assert whole["tasks"]["our_writing"]["solved_examples"] == 1


def test_every_problem_has_a_record(cli, tmp_path):
    result = evaluate(cli, "ours,our_texts", "harness.limit=3", "out=here")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "here"
    choice = load_jsonl(folder / "our_choice" / "records.jsonl")
    assert [record["id"] for record in choice] == [f"our_choice:{i}" for i in range(3)]
    for record in choice:
        best = max(record["options"], key=lambda option: option["logprob"])
        assert record["completion"] == best["text"]
        assert record["correct"] == (record["answer"] == record["reference"])
    results = load_json(folder / "our_choice" / "results.json")
    assert results["correct"] == sum(record["correct"] for record in choice)
    assert results["metric"] == "accuracy"
    assert 0 <= results["interval"][0] < results["value"] + 1e-9 <= results["interval"][1] + 1e-9
    written = load_jsonl(folder / "our_writing" / "records.jsonl")
    assert set(written[0]["scores"]) == {"exact_match,as_written", "exact_match,digits"}
    assert written[1]["prompt"][0]["content"] == "What is 1 + 1?\nAnswer:"
    texts = load_json(folder / "our_texts" / "results.json")
    assert texts["metric"] == "word_perplexity"
    assert texts["higher_is_better"] is False
    assert "| our_texts | word_perplexity,none |" in (folder / "report.md").read_text()
    for name in ("our_choice", "our_writing", "our_texts"):
        assert f"<h1>{name}</h1>" in (folder / name / "report.html").read_text()


def test_a_stage_measures_before_and_after_and_the_two_are_compared(cli, tmp_path):
    (tmp_path / "measured.yaml").write_text(RECIPE)
    result = cli("run", "measured.yaml")
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "measured"
    page = (run / "report.html").read_text()
    assert "our_choice" in page
    compared = cli("compare", "runs/measured/after", "runs/measured/before")
    assert compared.returncode == 0, compared.stderr
    assert "our_choice" in compared.stdout
    again = cli("run", "measured.yaml")
    assert again.stderr.count("unchanged, not run again") == 4
    task = tmp_path / "mine" / "choice.yaml"
    task.write_text(task.read_text().replace("Answer:", "The answer is:"))
    changed = cli("evaluate", "measured.yaml")
    assert changed.returncode == 0, changed.stderr
    records = load_jsonl(run / "after" / "our_choice" / "records.jsonl")
    assert records[0]["prompt"][0]["content"].endswith("The answer is:")
    again = cli("evaluate", "measured.yaml", "--harness", "our_writing", *OWN[:1])
    assert again.returncode == 0, again.stderr
    results = load_json(run / "harness" / "our_writing" / "results.json")
    assert results["model"] == str(run / "sft" / "final")


def test_a_misspelt_task(cli):
    complain(evaluate(cli, "our_chioce"), 2, "no task", "did you mean `our_choice`?")


def test_data_that_cannot_be_had(cli, mine):
    (mine / "far.yaml").write_text(
        CHOICE.replace("our_choice", "far").replace("dataset_path: json", "dataset_path: a/b")
    )
    complain(evaluate(cli, "far"), 3, "harness task `far`", "without a network")


def test_a_data_file_that_is_not_there(cli, mine):
    (mine / "choice.jsonl").unlink()
    complain(evaluate(cli, "our_choice"), 3, "harness task `our_choice`", "choice.jsonl")


def test_a_broken_task_file(cli, mine):
    (mine / "broken.yaml").write_text("task: broken\nmetric_list: [\n")
    complain(evaluate(cli, "our_choice"), 2, "broken.yaml:", "mend the task file")


def test_a_task_file_with_a_broken_template(cli, mine):
    (mine / "odd.yaml").write_text(
        CHOICE.replace("our_choice", "odd")
        .replace("FOLDER", str(mine))
        .replace("{{label}}", "{{ }}")
    )
    complain(evaluate(cli, "odd"), 2, "harness", "mend")


def test_a_folder_without_tasks(cli):
    result = cli("evaluate", "tiny", "--harness", "x", "harness.tasks_folder=none")
    complain(result, 2, "no task files")


def test_settings_are_written_with_their_prefix(cli):
    complain(evaluate(cli, "our_choice", "limit=3"), 2, "unknown key `limit`")


def test_a_chat_template_that_is_not_there(cli, tmp_path, cache_dir):
    script = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from posttrain.models.tiny import ensure_tiny\n"
        "p = ensure_tiny('tiny'); t = AutoTokenizer.from_pretrained(p); t.chat_template = None\n"
        "t.save_pretrained('plain')\n"
        "AutoModelForCausalLM.from_pretrained(p).save_pretrained('plain')"
    )
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(cache_dir),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    result = evaluate(cli, "our_choice", "harness.chat_template=true", target="plain")
    complain(result, 2, "no chat template", "harness.chat_template=false")


def test_without_the_extra(tmp_path, cache_dir):
    hide = "import sys; sys.modules['lm_eval'] = None; "
    start = [*command()[:2], hide + command()[2]]
    done = subprocess.run(
        [*start, "evaluate", "tiny", "--harness", "our_choice", *OWN],
        cwd=tmp_path, env=environment(cache_dir),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    complain(done, 5, "lm_eval is not installed", "posttrain[harness]")
