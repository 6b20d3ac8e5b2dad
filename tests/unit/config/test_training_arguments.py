"""`training_args`: fields of the installed class, checked by name, type and what they would do."""

import ast
import dataclasses
import subprocess
import sys

import pytest
from transformers import TrainingArguments

from posttrain.config.load import load_recipe
from posttrain.config.migrate import OLD_NAMES
from posttrain.config.not_carried import MISSING, NOT_NEEDED
from posttrain.config.training_arguments import is_passed_on, list_fields, read_type
from posttrain.errors import ConfigError

RECIPE = """\
name: t
model: {path: tiny}
stages:
  - stage: sft
    data: {sources: [{path: rows.jsonl}]}
    training_args:
"""


@pytest.fixture
def load(tmp_path):
    def load(*lines):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE + "".join(f"      {line}\n" for line in lines))
        return load_recipe(path).stages[0].training_args

    return load


def test_the_fields_are_those_of_the_installed_class():
    fields = {f.name for f in dataclasses.fields(TrainingArguments) if not f.name.startswith("_")}
    assert set(list_fields()) == fields


def test_every_field_is_passed_on_or_has_a_reason():
    passed = {name for name in list_fields() if is_passed_on(name)}
    # What a new version of transformers adds is looked at here before a recipe may use it.
    assert passed <= {
        "ddp_backend",
        "ddp_bucket_cap_mb",
        "ddp_static_graph",
        "debug",
        "full_determinism",
        "log_level",
        "log_level_replica",
        "tf32",
        "torch_empty_cache_steps",
    }
    assert passed >= {"tf32", "torch_empty_cache_steps", "full_determinism"}
    assert not passed & (set(OLD_NAMES) | set(NOT_NEEDED) | set(MISSING))


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("bool", True, "often"),
        ("int | None", None, "three"),
        ("float", 3, [1]),
        ("Optional[str]", "text", 3),
        ("Union[str, bool]", True, [1]),
        ("dict[str, Any] | str | None", {"a": 1}, 3),
        ("list[str] | None", ["a"], {"a": 1}),
        ("SchedulerType | str", "cosine", 3),
        ('"str | None"', None, 3),
    ],
)
def test_types_are_read_from_the_source(annotation, good, bad):
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(read_type(ast.parse(annotation, mode="eval").body))
    assert adapter.validate_python(good) == good
    with pytest.raises(ValidationError):
        adapter.validate_python(bad)


def test_a_class_of_transformers_own_is_not_judged():
    from typing import Any

    assert read_type(ast.parse("ParallelismConfig | None", mode="eval").body) is Any


def test_values_are_taken_as_they_are(load):
    given = load("torch_empty_cache_steps: 5", "tf32: false", "ddp_bucket_cap_mb: 25")
    assert given == {"torch_empty_cache_steps": 5, "tf32": False, "ddp_bucket_cap_mb": 25}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("torch_empty_cache_step: 5", "no such field; did you mean `torch_empty_cache_steps`?"),
        ("qwertyuiop: 5", "no such field; see its documentation"),
        ("torch_empty_cache_steps: often", "should be a valid integer"),
        ("torch_empty_cache_steps: true", "is no switch"),
        ("per_device_train_batch_size: 2", "here it is `stages.STAGE.batch_tokens`"),
        ("learning_rate: 1e-5", "here it is `stages.STAGE.learning_rate`"),
        ("optim: adafactor", "here it is `stages.STAGE.optimizer`"),
        ("lr_scheduler_kwargs: {a: 1}", "here it is `stages.STAGE.schedule_options`"),
        ("adam_epsilon: 1e-6", "here it is `stages.STAGE.epsilon`"),
        ("bf16: true", "here it is `compute.precision`"),
        ("fp16: true", "here it is `compute.precision`"),
        ("save_steps: 5", "here it is `stages.STAGE.save_every_steps`"),
        ("seed: 5", "here it is `seed`"),
        ("group_by_length: true", "every batch is packed here"),
        ("packing: true", "every batch is packed here"),
        ("logging_nan_inf_filter: true", "stops the run"),
        ("remove_unused_columns: true", "the format decides"),
        ("dataloader_num_workers: 4", "memory map"),
        ("load_best_model_at_end: true", "final_model"),
        ("torch_compile: true", "compute.compile compiles norms"),
        ("neftune_noise_alpha: 5", "here it is `stages.sft.neftune_alpha`"),
        ("push_to_hub: true", "publish"),
    ],
)
def test_a_mistake_is_told_at_its_own_line(load, line, message):
    with pytest.raises(ConfigError) as caught:
        load("tf32: false", line)
    (told,) = str(caught.value).splitlines()
    name = line.partition(":")[0]
    assert f"recipe.yaml:8: `stages.0.training_args.{name}`: " in told
    assert message in told


def test_every_mistake_has_a_line(load):
    with pytest.raises(ConfigError) as caught:
        load("fp16: true", "optim: adafactor", "tf32: maybe")
    assert [line.count("training_args.") for line in str(caught.value).splitlines()] == [1, 1, 1]


def test_nothing_of_it_imports_torch():
    program = (
        "import sys, posttrain.config.training_arguments as t; t.list_fields();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
