"""What makes a stage run again, and what does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.load import build_recipe
from posttrain.runs.kinds import KINDS
from posttrain.runs.progress import MadeModel, Progress, settle_sources, stage_digest


def build(folder: Path, *overrides: str, **changes: Any) -> Progress:
    """A recipe of training and two evaluations on files in a folder."""
    folder.mkdir(exist_ok=True)
    for name in ("rows.jsonl", "test.jsonl"):
        if not (folder / name).exists():
            (folder / name).write_text(f'{{"question": "{name}?", "answer": "#### 1"}}\n')

    def tasks() -> list[dict[str, Any]]:
        return [{"task": "gsm8k", "data": {"path": folder / "test.jsonl"}}]

    training = {"stage": "sft", "data": {"sources": [{"path": folder / "rows.jsonl"}]}}
    values = {
        "name": "run",
        "model": {"path": "tiny"},
        "stages": [
            {"stage": "evaluate", "name": "base", "model_from": "base", "tasks": tasks()},
            training,
            {"stage": "evaluate", "name": "tuned", "compare_to": "base", "tasks": tasks()},
        ],
        **changes,
    }
    progress = Progress(build_recipe(values, list(overrides), "a test"), folder / "run")
    progress.models["sft"] = MadeModel(folder / "run" / "sft" / "final", "digest of sft")
    progress.evaluations["base"] = (folder / "run" / "base", "digest of base")
    return progress


def digests(progress: Progress) -> dict[str, str]:
    # Without the training itself: a training stage does not start from its own model.
    trained = progress.models.pop("sft")
    found = {"sft": stage_digest(progress.recipe.stages[1], progress)}
    found["base"] = stage_digest(progress.recipe.stages[0], progress)
    progress.models["sft"] = trained
    return {**found, "tuned": stage_digest(progress.recipe.stages[2], progress)}


def changed(first: dict[str, str], second: dict[str, str]) -> set[str]:
    return {name for name in first if first[name] != second[name]}


def test_how_often_a_run_logs_and_saves_does_not_make_it_another_run(tmp_path):
    rhythm = [f"stages.sft.{key}=7" for key in ("log_every_steps", "save_every_steps", "keep_last")]
    assert not changed(digests(build(tmp_path)), digests(build(tmp_path, *rhythm)))


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("stages.sft.learning_rate=1e-3", {"sft"}),
        ("stages.sft.data.train_on=last_assistant", {"sft"}),
        ("stages.tuned.tasks.0.max_new_tokens=7", {"tuned"}),
        ("seed=3", {"sft"}),
        ("tuning=lora", {"sft"}),
        ("lora.rank=4", set()),
        ("compute.threads=1", {"base", "sft", "tuned"}),
        ("model.path=tiny-wide", {"base", "sft", "tuned"}),
    ],
)
def test_a_setting_runs_the_stages_again_that_depend_on_it(tmp_path, override, stages):
    assert changed(digests(build(tmp_path)), digests(build(tmp_path, override))) == stages


def test_moved_files_are_the_same_files(tmp_path):
    assert not changed(digests(build(tmp_path / "here")), digests(build(tmp_path / "there")))


def test_changed_rows_run_the_stage_again(tmp_path):
    before = digests(build(tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"question": "other?", "answer": "#### 2"}\n')
    assert changed(before, digests(build(tmp_path))) == {"sft"}


@pytest.mark.parametrize("file", ["model.safetensors", "chat_template.jinja"])
def test_changed_bytes_of_a_local_model_run_everything_again(tmp_path, file):
    model = tmp_path / "model"
    model.mkdir()
    (model / file).write_text("one")
    before = digests(build(tmp_path, model={"path": str(model)}))
    (model / file).write_text("two")
    assert changed(before, digests(build(tmp_path, model={"path": str(model)}))) == {
        "base",
        "sft",
        "tuned",
    }


def test_a_changed_template_file_runs_everything_again(tmp_path):
    template = tmp_path / "own.jinja"
    model = {"path": "tiny", "chat_template": template}
    template.write_text("one")
    before = digests(build(tmp_path, model=model))
    template.write_text("two")
    assert len(changed(before, digests(build(tmp_path, model=model)))) == 3


def test_an_evaluation_is_run_again_after_the_one_it_is_compared_with(tmp_path):
    progress = build(tmp_path)
    before = digests(progress)
    progress.evaluations["base"] = (tmp_path, "another digest")
    assert changed(before, digests(progress)) == {"tuned"}


def test_what_a_stage_must_leave_behind_is_known(tmp_path):
    _, training, evaluation = build(tmp_path).recipe.stages
    for stage, names in (
        (training, ["final/MANIFEST.json"]),
        (evaluation, ["gsm8k/records.jsonl", "gsm8k/results.json"]),
    ):
        outputs = KINDS[stage.stage].outputs(stage, tmp_path)
        assert [str(path.relative_to(tmp_path)) for path in outputs] == names


def test_another_reward_model_in_the_same_folder_runs_online_training_again(tmp_path):
    judge = tmp_path / "judge"
    judge.mkdir()
    stage = {
        "stage": "grpo",
        "data": {"sources": [{"path": tmp_path / "rows.jsonl"}]},
        "rewards": {"model": str(judge)},
    }

    def digest() -> str:
        progress = build(tmp_path, stages=[stage])
        progress.models.clear()
        return stage_digest(progress.recipe.stages[0], progress)

    (judge / "model.safetensors").write_text("one")
    before = digest()
    assert digest() == before
    (judge / "model.safetensors").write_text("two")
    assert digest() != before


def test_an_encoder_stage_goes_on_from_the_encoder_before_it(tmp_path):
    def mlm(name: str) -> dict[str, Any]:
        return {"stage": "mlm", "name": name, "data": {"sources": [{"path": tmp_path / "a.txt"}]}}

    progress = build(tmp_path, stages=[mlm("first"), mlm("second")])
    progress.models.clear()
    progress.models["first"] = MadeModel(tmp_path, "digest")
    assert progress.parent_of(progress.recipe.stages[1]) == "first"


def settled_data(progress: Progress) -> Any:
    stage: Any = settle_sources(progress.recipe.stages[1], progress)
    return stage.data


def test_training_rows_are_searched_for_the_problems_of_all_evaluations(tmp_path):
    data = settled_data(build(tmp_path))
    assert data.contamination.action == "report"
    assert [source.path for source in data.contamination.against] == [tmp_path / "test.jsonl"]

    off = build(tmp_path, "stages.sft.data.contamination=null")
    assert settled_data(off).contamination is None
    named = [{"path": str(tmp_path / "rows.jsonl")}]
    own = build(tmp_path, f"stages.sft.data.contamination.against={named}")
    assert [s.path for s in settled_data(own).contamination.against] == [tmp_path / "rows.jsonl"]


def test_an_evaluation_that_is_added_trains_nothing_again_unless_rows_are_dropped(tmp_path):
    def digest(*overrides: str, problems: str) -> str:
        progress = build(tmp_path, *overrides)
        (tmp_path / "test.jsonl").write_text(problems)
        return stage_digest(settle_sources(progress.recipe.stages[1], progress), progress)

    one, other = (f'{{"question": "{word}?", "answer": "#### 1"}}\n' for word in ("a", "b"))
    assert digest(problems=one) == digest(problems=other)
    drop = "stages.sft.data.contamination=drop"
    dropped = {digest(drop, problems=problems) for problems in (one, other)}
    assert len({digest(problems=one), *dropped}) == 3
    assert digest(problems=one) == digest("stages.sft.data.workers=2", problems=one)


def test_every_evaluation_set_is_searched_whatever_names_it(tmp_path):
    def against(*data: dict[str, Any]) -> list[dict[str, Any]]:
        stages = [
            {"stage": "evaluate", "name": f"e{i}", "tasks": [{"task": "gsm8k", "data": item}]}
            for i, item in enumerate(data)
        ]
        training = {"stage": "sft", "data": {"sources": [{"path": tmp_path / "rows.jsonl"}]}}
        progress = build(tmp_path, stages=[stages[0], training, *stages[1:]])
        fields = {"path", "dataset", "limit", "columns"}
        found = settled_data(progress).contamination.against
        return [source.model_dump(include=fields, exclude_defaults=True) for source in found]

    pattern, file, folder = tmp_path / "te*.jsonl", tmp_path / "test.jsonl", tmp_path / "set"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"question": "a?", "answer": "#### 1"}\n')
    assert against({"path": pattern}, {"path": folder}) == [{"path": pattern}, {"path": folder}]
    assert against({"path": file, "limit": 3}, {"path": file, "limit": 2}) == [
        {"path": file, "limit": 3}
    ]
    assert against({"path": file, "limit": 3}, {"path": file}, {"path": file, "limit": 9}) == [
        {"path": file}
    ]
    columns = {"path": file, "columns": {"question": "q"}}
    assert against({"path": file}, columns, {"path": tmp_path / "absent*.jsonl"}) == [
        {"path": file},
        columns,
    ]
    info = {name: {"file_name": "test.jsonl"} for name in ("one", "two")}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    entries = [{"path": tmp_path / "dataset_info.json", "dataset": name} for name in info]
    assert against(*entries) == entries


def test_a_column_that_is_called_path_is_part_of_what_a_stage_depends_on(tmp_path):
    columns = [f"stages.sft.data.sources.0.columns={{path: {name}}}" for name in ("a", "b")]
    first, second = (digests(build(tmp_path, override)) for override in columns)
    assert changed(first, second) == {"sft"}


def measured(folder, file="held.jsonl", *more):
    (folder / file).write_text('{"question": "What is 1 + 1?", "answer": "#### 2"}\n')
    data = f"{{path: {folder / file}}}"
    tasks = f"[{{kind: number, name: sums, data: {data}}}]"
    return build(folder, f"stages.sft.evaluation={{tasks: {tasks}, problems: 4}}", *more)


def test_tasks_in_training_train_nothing_again_unless_they_choose_the_model(tmp_path):
    plain = digests(build(tmp_path))
    assert not changed(plain, digests(measured(tmp_path)))
    assert not changed(
        plain, digests(measured(tmp_path, "other.jsonl", "stages.sft.keep_best=accuracy"))
    )
    best = ("stages.sft.keep_best=accuracy", "stages.sft.final_model=best")
    chosen = digests(measured(tmp_path, "held.jsonl", *best))
    assert "sft" in changed(plain, chosen)
    held = measured(tmp_path, "held.jsonl", *best)
    (tmp_path / "held.jsonl").write_text('{"question": "What is 2 + 2?", "answer": "#### 4"}\n')
    assert "sft" in changed(chosen, digests(held))


def test_training_rows_are_searched_for_the_problems_of_tasks_in_training(tmp_path):
    data = settled_data(measured(tmp_path))
    assert [source.path.name for source in data.contamination.against] == [
        "test.jsonl",
        "held.jsonl",
    ]
