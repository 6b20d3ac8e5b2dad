"""The studies in `recipes/` with the models they are for: what `plan` counts, without weights."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.stages.conftest import command, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOOLS = "recipes/tool-calling/tools.jinja"


@dataclass(frozen=True)
class Shape:
    """What counts in a config.json of Qwen's."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head_size: int = 128
    tied: bool = False
    kind: str = "qwen3"

    @property
    def config(self):
        name = {"qwen3": "Qwen3ForCausalLM", "qwen2": "Qwen2ForCausalLM"}[self.kind]
        return {
            "architectures": [name],
            "model_type": self.kind,
            "vocab_size": 151_936,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_size,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 40_960,
            "eos_token_id": 151_645,
        }

    def adapters(self, rank, targets):
        """Parameters of LoRA: rank * (inputs + outputs) of every target."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        sums = {
            "q_proj": self.hidden + queries,
            "k_proj": self.hidden + keys,
            "v_proj": self.hidden + keys,
            "o_proj": queries + self.hidden,
            "gate_proj": self.hidden + self.inner,
            "up_proj": self.hidden + self.inner,
            "down_proj": self.inner + self.hidden,
        }
        return self.layers * rank * sum(sums[target] for target in targets)


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERY = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
QWEN3_32B = Shape(5120, 25_600, 64, 64, 8)
QWEN3_8B = Shape(4096, 12_288, 36, 32, 8)
QWEN3_4B = Shape(2560, 9728, 36, 32, 8, tied=True)
QWEN25_05B = Shape(896, 4864, 24, 14, 2, 64, tied=True, kind="qwen2")


@dataclass(frozen=True)
class Study:
    """A recipe with its model, and what its plan must say."""

    name: str
    shape: Shape
    total: int
    trainable: int
    settings: dict
    stages: dict
    """Training stage -> batch_tokens, accumulate, passes."""
    more: tuple[str, ...] = ()
    """On the command line: fewer sample rows, so that the test is quick."""


STUDIES = (
    Study(
        "ela-mcq", QWEN3_32B, 32_762_123_264, 32_762_123_264,
        {"tuning": "full", "compute.precision": "bf16", "parallel.strategy": "zero3",
         "parallel.offload": "all"},
        {"sft": (4096, 2, 2), "dpo": (4096, 4, 1)},
        ("stages.raw-items.num=200", "stages.raw-pairs.num=80"),
    ),
    Study(
        "tool-calling", QWEN3_8B, 8_190_735_360, 8_190_735_360,
        {"tuning": "full", "compute.precision": "bf16", "parallel.strategy": "zero2",
         "stages.sft.save_every_steps": 100, "stages.sft.keep_last": 4,
         "stages.sft.data.train_on": "all_assistant"},
        {"sft": (8192, 2, 1)},
        ("stages.train-data.num=200",),
    ),
    Study(
        "finance-lora", QWEN3_4B, 4_022_468_096 + QWEN3_4B.adapters(64, EVERY),
        QWEN3_4B.adapters(64, EVERY),
        {"tuning": "lora", "lora.rank": 64, "lora.alpha": 128, "lora.dropout": 0.05,
         "compute.precision": "bf16", "stages.sft.learning_rate": 5e-5,
         "stages.sft.data.max_tokens": 4096, "stages.sft.activation_checkpointing": True},
        {"sft": (8192, 8, 3)},
    ),
    Study(
        "domain", QWEN25_05B, 494_032_768 + QWEN25_05B.adapters(8, ATTENTION),
        QWEN25_05B.adapters(8, ATTENTION),
        {"tuning": "lora", "lora.rank": 8, "lora.alpha": 16, "lora.targets": list(ATTENTION),
         "stages.sft.data.max_tokens": 512, "stages.sft.learning_rate": 5e-5},
        {"pretrain": (1024, 4, 3), "sft": (1024, 4, 1)},
        ("stages.texts.num=200", "stages.chats.num=200", "stages.pairs.num=80"),
    ),
    Study(
        "math", QWEN3_8B, 8_190_735_360, 8_190_735_360,
        {"tuning": "full", "stages.sft.data.split.test": 0.1,
         "stages.sft.data.split.validation": 0.1, "stages.sft.data.split.seed": 42},
        {"sft": (8192, 2, 3)},
    ),
    Study(
        "math", QWEN3_8B, 8_190_735_360 + QWEN3_8B.adapters(16, EVERY),
        QWEN3_8B.adapters(16, EVERY), {"tuning": "lora"}, {"sft": (8192, 2, 3)}, ("tuning=lora",),
    ),
)  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Make a folder with a config and Qwen3's own tokenizer, where it is; ours elsewhere."""

    def make(shape):
        folder = tmp_path / "model"
        folder.mkdir()
        real = ROOT.resolve().parent / "shared" / "data" / "tokenizers" / "qwen3"
        for path in real.glob("*.json"), real.glob("merges.txt"):
            for file in path:
                shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(shape.config))
        more = () if real.is_dir() else ("model.tokenizer=tiny", f"model.chat_template={TOOLS}")
        return (f"model.path={folder}", *more)

    return make


def posttrain(cache, *arguments, **variables):
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env={**environment(cache), **variables},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def find(settings, key):
    for name in key.split("."):
        if isinstance(settings, list):
            settings = next(stage for stage in settings if stage["name"] == name)
        else:
            settings = settings[name]
    return settings


def numbers(block, pattern):
    found = re.search(pattern.replace("N", r"([\d.,]+)"), block)
    assert found, (pattern, block)
    return [float(number.replace(",", "")) for number in found.groups()]


def check_arithmetic(block, batch_tokens, accumulate, passes):
    read, used, test, unused = numbers(block, r"rows +N read = N used \+ N test \+ N not used")
    assert read == used + test + unused
    train, validation = numbers(block, r"examples +N train \+ N validation")
    if not block.startswith("pretrain"):  # where rows are joined, and blocks are cut
        assert used == train + validation
    examples, mean, per_pass, _ = numbers(
        block, r"tokens +N examples x N tokens = N a pass, N of them trained"
    )
    assert per_pass == pytest.approx(examples * mean, rel=0.01)
    counted, tokens, batches, limit = numbers(
        block, r"batches +N passes = N tokens -> N batches of up to N tokens"
    )
    assert (counted, tokens) == (passes, passes * per_pass)
    assert limit == batch_tokens
    assert tokens / limit <= batches < 2 * tokens / limit + passes
    shown, added, steps = numbers(block, r"steps +N batches / N accumulated = N optimizer steps")
    assert (shown, added) == (batches, accumulate)
    assert steps == math.ceil(batches / accumulate)


@pytest.mark.parametrize("study", STUDIES, ids=lambda s: f"{s.name}-{s.settings['tuning']}")
def test_plan_of_the_real_model(study, model, tmp_path, cache_dir):
    path = ROOT / "recipes" / study.name / f"{study.name}.yaml"
    if study.name == "domain":
        # What comes after new tokens can only be counted once they are there.
        recipe = yaml.safe_load(path.read_text())
        recipe["stages"] = [s for s in recipe["stages"] if s["stage"] != "extend-tokenizer"]
        path = tmp_path / "domain.yaml"
        path.write_text(yaml.safe_dump(recipe))
    settings = (*model(study.shape), f"output={tmp_path / 'runs'}", *study.more)
    assert ": good; " in posttrain(cache_dir, "check", str(path), *settings)
    shown, *blocks = re.split(r"\n\nstage ", posttrain(cache_dir, "plan", str(path), *settings))
    resolved = yaml.safe_load(shown)
    for key, value in study.settings.items():
        assert find(resolved, key) == value, key
    plans = {block.partition(":")[0]: block for block in blocks}
    for stage, arithmetic in study.stages.items():
        check_arithmetic(plans[stage], *arithmetic)
        parameters = f"{study.trainable:,} of {study.total:,} trainable ({resolved['tuning']})"
        assert f"parameters  {parameters}" in plans[stage]
        if resolved["parallel"]["strategy"] != "ddp":
            check_sharing(plans[stage], study.trainable, resolved["parallel"])


def check_sharing(block, trainable, parallel):
    """Trained weights and gradients take 4 bytes each, the optimizer 8; 8 devices share them."""
    whole, _, _, _, activations = numbers(
        block,
        "about N GiB: weights N GiB, gradients N GiB, optimizer N GiB, activations N [GM]iB",
    )
    assert activations > 0
    kept = numbers(block, f"{parallel['strategy']}: with 8 processes about N GiB on each device")[0]
    if parallel["offload"] == "all":
        (away,) = numbers(block, "and N GiB for it in CPU memory")
        assert away == pytest.approx(12 * trainable / 8 / 2**30, abs=0.1)
        assert kept == pytest.approx(whole - (16 - 4 / 8) * trainable / 2**30, abs=0.2)
    else:
        assert kept == pytest.approx(whole - 12 * 7 / 8 * trainable / 2**30, abs=0.2)


def test_variables_lead_math_to_the_real_data(model, tmp_path, cache_dir, shared_data):
    few = [
        f"stages.{stage}.data.sources.{place}.limit=200"
        for stage in ("sft", "grpo")
        for place in (0, 1)
    ]
    settings = (*model(QWEN3_8B), f"output={tmp_path / 'runs'}", *few)
    folders = {"GSM8K_DIR": str(shared_data / "gsm8k"), "MATH_DIR": str(shared_data / "math")}
    shown = posttrain(cache_dir, "plan", "recipes/math/math.yaml", *settings, **folders)
    sft, grpo = re.split(r"\n\nstage ", shown)[1:]
    check_arithmetic(sft, 8192, 2, 3)
    assert numbers(sft, "rows +N read")[0] == numbers(grpo, "rows +N read")[0] == 400
    assert numbers(sft, "N not used")[0] < 20


def test_real_tool_calls_are_read_with_the_real_template(model, tmp_path, cache_dir, shared_data):
    names = ("dolci_shaped_DERIVED_from_bfcl.jsonl", "dolci_real_row.jsonl")
    sources = ", ".join(f"{{path: {shared_data / 'toolcall' / name}}}" for name in names)
    shown = posttrain(
        cache_dir, "plan", "recipes/tool-calling/tool-calling.yaml", *model(QWEN3_8B),
        f"output={tmp_path / 'runs'}", f"stages.sft.data.sources=[{sources}]",
    )  # fmt: skip
    check_arithmetic(shown, 8192, 2, 1)
    assert numbers(shown, "rows +N read")[0] == 241
    assert numbers(shown, "N not used")[0] == 0
