import pytest
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from posttrain.training.arguments import keep_to_one_device


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
