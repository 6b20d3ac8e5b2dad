"""`posttrain migrate`: old settings become recipes that check finds good, and nothing is lost."""

import json

import pytest

from posttrain.config.load import load_recipe
from posttrain.config.migrate import OLD_NAMES
from posttrain.config.not_carried import MISSING, NOT_NEEDED
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
    assert (stage.steps, stage.warmup_steps, stage.learning_rate) == (100, 5, 1e-4)
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
    assert (recipe.lora.targets, recipe.lora.rank, recipe.lora.alpha) == ("all-linear", 8, 16)
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
    more = "early_stopping_patience: 3\n"
    (tmp_path / "old.yaml").write_text(FINETUNE + more)
    result = cli("check", "old.yaml")
    assert result.returncode == 2
    for number, key in ((4, "data"), (8, "peft"), (10, "training_args")):
        (line,) = [line for line in result.stderr.splitlines() if f"unknown key `{key}`" in line]
        assert f"old.yaml:{number}: " in line
        assert "a section of another tool's settings (`posttrain migrate OLD.yaml" in line
        assert "did you mean" not in line
    assert "here it is `stages.STAGE.early_stopping.patience`" in result.stderr


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
    assert not set(MISSING) & (set(OLD_NAMES) | set(NOT_NEEDED))


SCRIPT = """\
#!/bin/bash
# Don't read what stands in a comment: --learning_rate 9
RANK=128
export header="torchrun --nproc_per_node 1 --rdzv-id=$JOB \\
-m some.train"
export shared="--do_train True \\
--max_seq_length 2048 \\
--lr_scheduler_type linear \\
--warmup_ratio 0.03 \\
--save_strategy no \\
--num_train_epochs 4 \\
--bf16 True --tf32 False --fp16 False \\
--optim adamw_torch \\
--seed 3 \\
--save_strategy epoch \\
--lora True --lora_r $RANK --lora_alpha 512 \\
--lora_target_modules q_proj k_proj v_proj \\
--learning_rate 2e-05 \\
--per_device_train_batch_size 1 \\
--gradient_accumulation_steps 32"  # so much
if [[ $1 == big ]]; then
    shared="$shared --fsdp 'full_shard auto_wrap'"
fi
arguments="$shared --model_name_or_path $2 --output_dir ../out/it --train_files a.jsonl b.jsonl \\
2>&1 | tee train.log"
touch executed
eval "$header" "$arguments"
"""


def test_a_script_of_flags_is_read_and_never_run(migrate, tmp_path):
    recipe, text, said = migrate(SCRIPT, file="base_training_args.sh")
    (stage,) = recipe.stages
    assert not (tmp_path / "executed").exists()
    assert (stage.learning_rate, stage.epochs, stage.accumulate) == (2e-5, 4, 32)
    assert (stage.schedule, stage.warmup, stage.optimizer) == ("linear", 0.03, "adamw")
    assert (stage.data.max_tokens, stage.batch_tokens) == (2048, 2048)
    assert stage.training_args == {"tf32": False}
    assert recipe.seed == 3
    assert recipe.compute.precision == "bf16"
    assert (recipe.tuning, recipe.lora.rank, recipe.lora.alpha) == ("lora", 128, 512)
    assert recipe.lora.targets == ("q_proj", "k_proj", "v_proj")
    assert [source.path.name for source in stage.data.sources] == ["a.jsonl", "b.jsonl"]
    assert "not carried over: model_name_or_path: `$2` is known to the shell alone" in said
    assert "not carried over: rdzv_id: `$JOB` is known to the shell alone" in said
    for key in ("nproc_per_node", "save_strategy", "fsdp"):
        assert f"not carried over: {key}: " in said
    assert "no such setting" not in said
    assert "#   fsdp: start with torchrun" in text


def test_a_script_that_does_not_end_its_quotes_is_one_line(cli, tmp_path):
    (tmp_path / "old.sh").write_text('args="--learning_rate 1e-5\n')
    complain(cli("migrate", "old.sh", "out=new.yaml"), 2, "old.sh", "shell script")


RATES = """\
model_name_or_path: a/b
train_file: x.jsonl
finetuning_type: full
optim: paged_adamw_8bit
adam_beta2: 0.95
adam_epsilon: 1e-6
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
warmup_steps: 20
warmup_ratio: 0.5
pure_bf16: true
torch_empty_cache_steps: 4
ddp_timeout: 180000000
galore_rank: 16
torch_compile: true
"""


def test_switches_that_stand_for_a_choice(migrate):
    switches = "train_on_prompt: true\nuse_cpu: true\neval_dataset: [held]\nuse_swanlab: true\n"
    old = f"model_name_or_path: a/b\ntrain_file: x.jsonl\nswanlab_project: p\n{switches}"
    recipe, _, said = migrate(old)
    (stage,) = recipe.stages
    assert stage.data.train_on == "everything"
    assert recipe.compute.device == "cpu"
    assert recipe.tracking.swanlab.project == "p"
    assert [s.path.name for s in stage.data.validation_sources] == ["held.json"]
    assert "not carried over" not in said


def test_optimizer_schedule_and_number_format(migrate):
    recipe, text, said = migrate(RATES)
    (stage,) = recipe.stages
    assert (stage.optimizer, stage.beta2, stage.epsilon) == ("adamw_8bit", 0.95, 1e-6)
    assert (stage.schedule, stage.schedule_options) == ("cosine_with_min_lr", {"min_lr_rate": 0.1})
    assert stage.warmup_steps == 20  # transformers takes it before a share
    assert recipe.compute.weights == "bf16"
    assert stage.training_args == {"torch_empty_cache_steps": 4}
    assert "optimizer: adamw_8bit  # was optim" in text
    assert "not carried over: galore_rank: there are optimizer: adamw" in said
    assert "not carried over: torch_compile: compute.compile compiles norms" in said


@pytest.mark.parametrize(
    ("line", "found", "dropped"),
    [
        ("optim: muon", {"optimizer": "muon"}, ""),
        ("use_muon: true", {"optimizer": "muon"}, ""),
        ("optim: adafactor", {"optimizer": "adafactor"}, ""),
        ("optim: lion_8bit", {"optimizer": "adamw"}, "optim: lion_8bit is none of adamw"),
        ("lr_scheduler_type: constant_with_warmup", {"schedule": "constant"}, ""),
        ("lr_scheduler_type: reduce_lr_on_plateau", {"schedule": "cosine"}, "planned"),
        (
            "lr_scheduler_kwargs: '{\"num_cycles\": 0.4}'",
            {"schedule_options": {"num_cycles": 0.4}},
            "",
        ),
        ("warmup_steps: 0.1", {"warmup": 0.1, "warmup_steps": None}, ""),
        ("warmup_steps: 0", {"warmup": 0.0, "warmup_steps": None}, ""),
        ("torch_empty_cache_steps: often", {"training_args": {}}, "torch_empty_cache_steps"),
    ],
)
def test_each_of_these_by_itself(migrate, line, found, dropped):
    recipe, _, said = migrate(f"model_name_or_path: a/b\ntrain_file: x.jsonl\n{line}\n")
    assert {name: getattr(recipe.stages[0], name) for name in found} == found
    assert (dropped in said) if dropped else ("not carried over" not in said)


def test_early_stopping_and_the_best_model_are_carried_over(cli, tmp_path):
    (tmp_path / "old.yaml").write_text(
        FLAT
        + "early_stopping_patience: 4\nearly_stopping_threshold: 0.01\n"
        + "load_best_model_at_end: true\n"
    )
    result = cli("migrate", "old.yaml", "out=new.yaml")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "new.yaml").read_text()
    assert "patience: 4" in text
    assert "min_delta: 0.01" in text
    assert "final_model: best" in text
    assert "split:  # early stopping looks at rows that are not trained on" in text
