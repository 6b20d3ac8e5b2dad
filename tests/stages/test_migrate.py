"""`posttrain migrate`: old settings become recipes that check finds good, and nothing is lost."""

import json

import pytest

from posttrain.config.load import load_recipe
from posttrain.config.migrate import NOT_NEEDED, OLD_NAMES
from tests.stages.test_mistakes import complain

FINETUNE = """\
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
tokenizer_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
template_path: self_model/template/qwen2_chatml.json
data:
  train_file: data/train.jsonl
  eval_file: data/validation.jsonl
  max_length: 512
peft: {enabled: true, lora_r: 8, lora_alpha: 16, target_modules: [q_proj, k_proj]}
trace: swanlab
training_args:
  output_dir: self_model/checkpoints/finetune
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 4
  learning_rate: 5.0e-5
  num_train_epochs: 1
  fp16: true
"""
PRETRAIN = """\
model_name_or_path: ./base
data: {train_file: corpus.txt, text_fields: [text, body], block_size: 256}
peft: {enabled: false, qlora: false}
training_args: {batch_size: 4, learning_rate: 1e-4, max_steps: 100, warmup_steps: 5}
"""
RLHF = """\
model_name_or_path: m/sft
reward_model_name_or_path: m/rm
data: {train_file: pairs.jsonl, max_length: 1024}
beta: 0.2
loss_type: ipo
training_args: {per_device_train_batch_size: 1, learning_rate: 5e-6}
ppo:
  train_file: prompts.jsonl
  max_prompt_length: 512
  max_response_length: 128
  rollout_backend: vllm
  rollout_n: 4
  actor_lr: 1e-6
  train_batch_size: 64
  ppo_mini_batch_size: 16
  kl_loss_coef: 0.001
  logger: [console, wandb]
  n_gpus_per_node: 8
"""
FLAT = """\
model_name_or_path: ./models/Qwen3-4B-Chat
lora_rank: 64
lora_alpha: 128
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
num_train_epochs: 3
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 5.0e-5
cutoff_len: 4096
bf16: true
gradient_checkpointing: true
group_by_length: true
some_switch_of_theirs: 7
"""
SECTIONS = """\
model: {model_name: Qwen/Qwen3-32B, attn_implementation: flash_attention_3}
sft: {train_data_path: sft.jsonl, learning_rate: 1e-5, max_length: 2048, batch_size: 1}
dpo: {train_data_path: dpo.jsonl, learning_rate: 1e-6, beta: 0.1}
deepspeed: ds.json
"""
FACTORY = """\
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
dataset_dir: data
template: llama3
cutoff_len: 2048
max_samples: 1000
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
overwrite_output_dir: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
val_size: 0.1
eval_strategy: steps
"""
ZERO = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_clipping": 0.5,
    "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "overlap_comm": True},
}


@pytest.fixture
def migrate(cli, tmp_path):
    """Migrate a text and load what has come of it."""

    def run(text, *settings, file="old.yaml"):
        (tmp_path / file).write_text(text)
        result = cli("migrate", file, "out=new/recipe.yaml", *settings)
        assert result.returncode == 0, result.stderr
        path = tmp_path / "new/recipe.yaml"
        checked = cli("check", str(path))
        assert checked.returncode == 0, checked.stderr
        return load_recipe(path), path.read_text(), result.stdout

    return run


def test_a_finetune_yaml_with_sections(migrate, tmp_path):
    recipe, text, said = migrate(FINETUNE)
    (stage,) = recipe.stages
    assert recipe.model.path == "Qwen/Qwen2.5-0.5B-Instruct"
    assert (recipe.tuning, recipe.lora.rank, recipe.lora.alpha) == ("lora", 8, 16)
    assert recipe.lora.targets == ("q_proj", "k_proj")
    assert recipe.tracking.swanlab
    assert (stage.stage, stage.learning_rate, stage.epochs) == ("sft", 5e-5, 1)
    assert (stage.batch_tokens, stage.accumulate) == (1024, 4)
    assert "batch_tokens: 1024  # per_device_train_batch_size: 2 x 512 tokens" in text
    assert stage.data.sources[0].path == tmp_path / "data/train.jsonl"
    assert stage.data.validation_sources[0].path == tmp_path / "data/validation.jsonl"
    assert recipe.output == tmp_path / "self_model/checkpoints"
    assert recipe.model.chat_template == tmp_path / "self_model/template/qwen2_chatml.json"
    assert "not carried over: training_args.fp16: " in said
    assert "#   training_args.fp16: " in text
    assert said.count("not carried over") == 1


def test_a_pretrain_yaml(migrate, tmp_path):
    recipe, _, said = migrate(PRETRAIN)
    (stage,) = recipe.stages
    assert (stage.stage, stage.data.block_tokens, stage.batch_tokens) == ("pretrain", 256, 1024)
    assert stage.data.text_fields == ("text", "body")
    assert (stage.steps, stage.warmup, stage.learning_rate) == (100, 0.05, 1e-4)
    assert recipe.tuning == "full"
    assert recipe.model.path == str(tmp_path / "base")
    assert "not carried over" not in said


def test_an_rlhf_yaml_is_several_kinds_of_training(migrate, tmp_path):
    recipe, _, said = migrate(RLHF)
    (stage,) = recipe.stages
    assert (stage.stage, stage.beta, stage.loss, stage.batch_tokens) == ("dpo", 0.2, "ipo", 2048)
    assert "ppo: another kind of training; migrate again with stage=ppo" in said
    (tmp_path / "new/recipe.yaml").unlink()
    recipe, _, said = migrate(RLHF, "stage=grpo")
    (stage,) = recipe.stages
    assert (stage.stage, stage.completions, stage.max_new_tokens) == ("grpo", 4, 128)
    assert (stage.prompts_per_rollout, stage.updates_per_rollout) == (64, 4)
    assert (stage.learning_rate, stage.kl_weight) == (1e-6, 0.001)
    assert (stage.rewards.model, stage.rewards.answer) == ("m/rm", 0)
    assert stage.data.sources[0].path == tmp_path / "prompts.jsonl"
    assert stage.data.max_tokens == 512
    assert recipe.tracking.wandb
    for key in ("beta", "loss_type", "ppo.rollout_backend", "ppo.n_gpus_per_node"):
        assert f"not carried over: {key}: " in said


def test_a_flat_lora_yaml(migrate):
    recipe, text, said = migrate(FLAT)
    (stage,) = recipe.stages
    assert (recipe.tuning, recipe.lora.rank, recipe.lora.dropout) == ("lora", 64, 0.05)
    assert recipe.compute.precision == "bf16"
    assert stage.activation_checkpointing
    assert (stage.data.max_tokens, stage.batch_tokens, stage.accumulate) == (4096, 8192, 8)
    assert "group_by_length: every batch is packed here" in text
    assert "some_switch_of_theirs: no such setting here" in said


def test_what_is_trained_is_carried_over(migrate):
    settings = FLAT + (
        "use_dora: true\nuse_rslora: true\nadditional_target: embed_tokens,lm_head\n"
        "init_lora_weights: gaussian\nneftune_noise_alpha: 5\nfreeze_trainable_layers: 2\n"
    )
    recipe, _, said = migrate(settings)
    lora = recipe.lora
    assert (lora.dora, lora.rslora, lora.init) == (True, True, "gaussian")
    assert lora.train_in_full == ("embed_tokens", "lm_head")
    assert recipe.stages[0].neftune_alpha == 5
    assert "not carried over: freeze_trainable_layers: name the layers: train_only" in said


def test_sections_of_two_stages_and_a_deepspeed_file(migrate, tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps(ZERO))
    recipe, _, _ = migrate(SECTIONS)
    sft, dpo = recipe.stages
    assert (sft.stage, sft.learning_rate, sft.batch_tokens) == ("sft", 1e-5, 2048)
    assert (dpo.stage, dpo.learning_rate, dpo.beta) == ("dpo", 1e-6, 0.1)
    assert dpo.data.sources[0].path == tmp_path / "dpo.jsonl"
    assert (recipe.parallel.strategy, recipe.parallel.offload) == ("zero3", "all")
    assert recipe.parallel.deepspeed == tmp_path / "ds.json"


def test_a_deepspeed_json_by_itself(migrate, tmp_path):
    recipe, text, _ = migrate(json.dumps(ZERO), file="ds.json")
    assert (recipe.parallel.strategy, recipe.parallel.offload) == ("zero3", "all")
    assert recipe.parallel.deepspeed == tmp_path / "ds.json"
    assert recipe.stages[0].max_grad_norm == 0.5
    assert "none was named; put yours here" in text


def test_a_llama_factory_yaml_with_its_registry(migrate, tmp_path):
    (tmp_path / "data").mkdir()
    registry = {"identity": {"file_name": "who.json"}, "alpaca_en_demo": {"file_name": "a.json"}}
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(registry))
    recipe, text, _ = migrate(FACTORY)
    (stage,) = recipe.stages
    sources = [(source.path, source.limit) for source in stage.data.sources]
    assert sources == [(tmp_path / "data/who.json", 1000), (tmp_path / "data/a.json", 1000)]
    assert recipe.lora.targets == "all-linear"
    assert (stage.data.split.validation, stage.warmup, stage.schedule) == (0.1, 0.1, "cosine")
    assert (stage.log_every_steps, stage.save_every_steps) == (10, 500)
    for key in ("template", "overwrite_output_dir", "eval_strategy", "do_train"):
        assert f"#   {key}: " in text


BEST = FLAT + "metric_for_best_model: eval_loss\ngreater_is_better: false\n"


def test_the_metric_of_the_best_checkpoint(migrate):
    recipe, _, _ = migrate(BEST)
    assert (recipe.stages[0].keep_best.metric, recipe.stages[0].keep_best.count) == ("loss", 1)


def test_a_metric_that_is_not_measured_is_named_and_left_out(migrate):
    recipe, _, said = migrate(BEST.replace("eval_loss", "rouge"))
    assert recipe.stages[0].keep_best.metric is None
    assert "not carried over: metric_for_best_model: `rouge` is not measured; there is: " in said


def test_a_value_out_of_bounds_is_named_and_left_out(migrate):
    recipe, _, said = migrate(FLAT.replace("5.0e-5", "7").replace("0.05", "1.5"))
    assert recipe.stages[0].learning_rate == 2e-5
    assert "not carried over: learning_rate: `learning_rate` cannot be 7" in said
    assert "not carried over: lora_dropout: " in said


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: [1", ("old.yaml:", "not valid YAML")),
        ("- 1", ("no mapping",)),
        ("foo: 1", ("no setting that is known here",)),
        ("finetuning_type: lora\nstage: kto", ("`stage: kto`", "stage=KIND")),
        ("model: {path: tiny}\nstages: []", ("is a recipe already",)),
    ],
)
def test_mistakes_are_one_line(cli, tmp_path, text, parts):
    (tmp_path / "old.yaml").write_text(text)
    complain(cli("migrate", "old.yaml", "out=new.yaml"), 2, *parts)
    assert not (tmp_path / "new.yaml").exists()
    assert not list(tmp_path.glob(".new*"))


def test_nothing_is_overwritten(cli, tmp_path):
    (tmp_path / "old.yaml").write_text(FLAT)
    complain(cli("migrate", "old.yaml", "out=old.yaml"), 2, "exists already")
    complain(cli("migrate", "none.yaml", "out=new.yaml"), 2, "none.yaml", "cannot be read")
    assert (tmp_path / "old.yaml").read_text() == FLAT


def test_check_names_the_new_key_of_an_old_one(cli, tmp_path):
    (tmp_path / "old.yaml").write_text(FLAT)
    result = cli("check", "old.yaml")
    assert result.returncode == 2
    assert "unknown key `lora_rank`; here it is `lora.rank` (`posttrain migrate" in result.stderr
    assert "unknown key `group_by_length`; not needed: every batch is packed" in result.stderr


def test_check_points_an_old_file_with_sections_to_migrate(cli, tmp_path):
    (tmp_path / "old.yaml").write_text(FINETUNE + "early_stopping_patience: 3\n")
    result = cli("check", "old.yaml")
    assert result.returncode == 2
    for number, key in ((4, "data"), (8, "peft"), (10, "training_args")):
        (line,) = [line for line in result.stderr.splitlines() if f"unknown key `{key}`" in line]
        assert f"old.yaml:{number}: " in line
        assert "a section of another tool's settings (`posttrain migrate OLD.yaml" in line
        assert "did you mean" not in line
    assert "`early_stopping_patience`; not needed: all steps are run" in result.stderr


@pytest.mark.parametrize(
    ("settings", "tuning", "dropped"),
    [
        ("peft: {qlora: true, enabled: true}", "qlora", ""),
        ("peft: {enabled: false, qlora: true}", "full", "qlora: all weights are trained"),
        ("finetuning_type: lora\nquantization_bit: 4", "qlora", ""),
        ("finetuning_type: lora\nquantization_bit: 8", "lora", "quantization_bit: 8 bits are"),
        ("load_in_4bit: true\nlora_r: 8", "qlora", ""),
        ("load_in_4bit: false\nlora_r: 8", "lora", ""),
    ],
)
def test_four_bits_are_qlora(migrate, settings, tuning, dropped):
    recipe, _, said = migrate(f"model_name_or_path: a/b\ntrain_file: x.jsonl\n{settings}\n")
    assert recipe.tuning == tuning
    assert ("not carried over: " in said) == bool(dropped)
    assert dropped in said


@pytest.mark.parametrize(
    ("settings", "train_on"),
    [
        ("mask_history: true", "last_assistant"),
        ("mask_history: false", "all_assistant"),
        ("train_on_prompt: true", "everything"),
        ("train_on_inputs: false", "all_assistant"),
    ],
)
def test_what_other_tools_mask_is_what_is_trained_here(migrate, settings, train_on):
    recipe, _, said = migrate(f"model_name_or_path: a/b\ntrain_file: x.jsonl\n{settings}\n")
    assert recipe.stages[0].data.train_on == train_on
    assert "not carried over: " not in said


def test_no_old_name_is_both_carried_and_not_needed():
    assert not set(OLD_NAMES) & set(NOT_NEEDED)
