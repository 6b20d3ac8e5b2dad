import pytest
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from posttrain.config.train import SftStage
from posttrain.errors import ConfigError
from posttrain.runtime import Compute
from posttrain.training.arguments import build_arguments, check_passed_on, keep_to_one_device


@pytest.fixture
def several(tmp_path):
    """Arguments of a process that sees some GPUs and was started by itself."""

    def make(count):
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        arguments._n_gpu = count
        return arguments

    return make


def test_of_several_gpus_one_is_used_and_how_to_use_all_is_said(several, capsys):
    arguments = several(4)
    assert arguments.parallel_mode == ParallelMode.NOT_DISTRIBUTED  # where DataParallel comes in
    keep_to_one_device(arguments)
    assert arguments.n_gpu == 1
    assert arguments.parallel_mode == ParallelMode.NOT_PARALLEL
    assert arguments.train_batch_size == several(1).train_batch_size
    said = capsys.readouterr().err
    assert "4 GPUs are visible, one is used" in said
    assert "torchrun --nproc_per_node 4 -m posttrain train" in said


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one_stay_as_they_are(several, capsys, count):
    arguments = several(count)
    keep_to_one_device(arguments)
    assert arguments.n_gpu == count
    assert capsys.readouterr().err == ""


def stage_with(**settings):
    rows = {"sources": [{"path": "rows.jsonl"}]}
    return SftStage.model_validate({"stage": "sft", "data": rows, **settings})


def test_passed_on_fields_and_the_schedule_stand_in_the_arguments(tmp_path):
    stage = stage_with(
        training_args={"torch_empty_cache_steps": 7, "log_level": "error"},
        schedule="cosine_with_min_lr",
        schedule_options={"min_lr_rate": 0.1},
        warmup_steps=3,
        epsilon=1e-6,
    )
    arguments = build_arguments(
        stage,
        folder=tmp_path,
        compute=Compute("cpu", "fp32", 1, "a test"),
        steps=10,
        seed=4,
        save_steps=5,
        validate=False,
    )
    assert (arguments.torch_empty_cache_steps, arguments.log_level) == (7, "error")
    assert arguments.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert arguments.get_warmup_steps(10) == 3
    assert (arguments.adam_epsilon, arguments.seed) == (1e-6, 4)


def test_what_transformers_refuses_is_one_line_before_anything_is_spent():
    check_passed_on(stage_with(training_args={"log_level": "error"}), device="cpu")
    with pytest.raises(ConfigError, match=r"`sft`: transformers refuses .*: it knows no 'shout'"):
        check_passed_on(stage_with(training_args={"log_level": "shout"}), device="cpu")
