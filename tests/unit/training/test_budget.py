"""Batches that do not fit: cut by their trees, and the step done again as the same step."""

import contextlib
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from posttrain.config.model import ModelConfig
from posttrain.config.train import DpoStage, GrpoStage, MaskConfig, PpoStage
from posttrain.data.masking import Masking, mask_batch
from posttrain.errors import PosttrainError
from posttrain.files import load_json, load_jsonl
from posttrain.generation.generator import Completion
from posttrain.layout import Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.heads import end_positions, load_classifier, prepare_reward
from posttrain.models.load import load_model
from posttrain.models.masked import prepare_masked
from posttrain.models.packed import prepare_packed
from posttrain.training.batches import to_tensors
from posttrain.training.budget import TokenBudget, is_out_of_memory, memory_errors
from posttrain.training.mlm import MaskedObjective
from posttrain.training.objective import LanguageObjective
from posttrain.training.policy import PolicyObjective
from posttrain.training.preference import PreferenceObjective
from posttrain.training.reward import RewardObjective
from posttrain.training.rollouts import Sample, pack_samples
from posttrain.training.sft import train_sft
from tests.encoders import save_encoder
from tests.metrics import drop_times

DATA = {"data": {"sources": [{"path": "rows.jsonl"}]}}
DROPOUT = {"tuning": "lora", "lora": {"rank": 4, "dropout": 0.3}}


def draw(length, weight=0.0, parent=-1):
    ids = np.random.default_rng(length).integers(5, 300, length)
    weights = np.full(length, weight)
    if parent < 0:
        weights[0] = 0
    return Segment(ids, weights, parent)


def load(**options):
    register_attention()
    torch.manual_seed(0)
    options = {"attention": "posttrain_sdpa", "dtype": "float32", **options}
    return load_model(ModelConfig(path="tiny"), **options)


def build_rows():
    batch = build_batch([draw(n, 0.5 + n / 10) for n in (30, 12, 25, 7, 41)])
    return load(prepare=prepare_packed), LanguageObjective(), to_tensors(batch)


def build_masked(folder):
    register_attention()
    model = load_model(
        ModelConfig(path=str(save_encoder(folder, "bert", ["a cat sat on the mat"]))),
        attention="posttrain_sdpa",
        dtype="float32",
        prepare=prepare_masked,
        head="MaskedLM",
    )
    segments = [Segment(np.arange(n) % 15 + 3, np.zeros(n)) for n in (30, 12, 25, 7, 41)]
    masking = Masking(MaskConfig(share=0.3), 4, [0, 1, 2, 3, 4], 20)
    batch = mask_batch(build_batch(segments), masking, [1])
    return model, MaskedObjective(), to_tensors(batch)


def build_pairs():
    trees = [(9, 5, 3), (4, 8, 7), (20, 6, 11), (3, 2, 1)]
    segments = []
    for prompt, chosen, rejected in trees:
        root = len(segments)
        segments += [draw(prompt), draw(chosen, 1, root), draw(rejected, 1, root)]
    return build_batch(segments)


def build_reward():
    register_attention()
    torch.manual_seed(0)
    model = load_classifier(
        ModelConfig(path="tiny"),
        prepare=prepare_reward,
        attention="posttrain_sdpa",
        dtype="float32",
    )
    batch = build_pairs()
    batch["end_positions"] = end_positions(batch["segments"])
    return model, RewardObjective(), to_tensors(batch)


def build_dpo(**settings):
    batch = to_tensors(build_pairs())
    batch["reference_logprobs"] = torch.tensor([[-40.0, -31], [-50, -70], [-60, -90], [-18, -9]])
    stage = DpoStage.model_validate({"stage": "dpo", **DATA, **settings})
    return load(prepare=prepare_packed), PreferenceObjective(stage), batch


def build_policy(kind):
    """Groups of answers, each field of theirs set to something."""
    heads = []

    def prepare(model):
        if kind == "ppo":
            heads.append(torch.nn.Linear(model.config.hidden_size, 1))
        prepare_packed(model, *heads)

    model = load(prepare=prepare)
    if heads:
        model.value_head = heads[0]
    random = np.random.default_rng(3)
    samples = []
    for group, sizes in enumerate([(3, 7, 1), (9, 2, 4), (1, 1, 6), (8, 8, 8)]):
        prompt = random.integers(5, 300, 6 + group)
        for size in sizes:
            written = tuple(int(x) for x in random.integers(5, 300, size))
            sample = Sample(prompt, group, Completion("", size, True, written), 0.0)
            for name in ("old_logprobs", "reference_logprobs", "old_values", "returns"):
                setattr(sample, f"{name}_L", torch.tensor(random.normal(-5, 1, size)).float())
            sample.advantages_L = torch.tensor(random.normal(0, 1, size)).float()
            samples.append(sample)
    (batch,) = pack_samples(samples, 4096)
    stage_class = PpoStage if kind == "ppo" else GrpoStage
    stage = stage_class.model_validate({"stage": kind, **DATA, "kl_weight": 0.3})
    return model, PolicyObjective(stage), batch


METHODS = {
    "sft": lambda folder: build_rows(),
    "mlm": build_masked,
    "reward": lambda folder: build_reward(),
    "dpo": lambda folder: build_dpo(sft_weight=0.5),
    "ipo": lambda folder: build_dpo(loss="ipo"),
    "grpo": lambda folder: build_policy("grpo"),
    "ppo": lambda folder: build_policy("ppo"),
}


def measure(model, objective, batches):
    """Gradients and sums of metrics of a step that these batches make up."""
    model.zero_grad()
    total = sum(objective.weigh(batch) for batch in batches)
    results = [objective.measure(model, batch, total) for batch in batches]
    for result in results:
        result.loss.backward()
    sums = {name: sum(float(r.sums[name]) for r in results) for name in results[0].sums}
    named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return named, sums, float(total)


@pytest.mark.parametrize("tokens", [70, 45, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_cut_batch_teaches_what_the_whole_one_does(method, tokens, tmp_path):
    model, objective, batch = METHODS[method](tmp_path)
    model.eval()
    parts = TokenBudget(tmp_path, tokens).cut([batch], 1)
    sizes = batch["segments"].tree_tokens()
    assert len(parts) > 1
    assert sorted(tree for part in parts for tree in part["trees"]) == list(range(len(sizes)))
    for part in parts:
        assert part["segments"].total_tokens == sum(sizes[tree] for tree in part["trees"])
        assert part["segments"].total_tokens <= tokens or len(part["trees"]) == 1
    whole, whole_sums, weight = measure(model, objective, [batch])
    cut, cut_sums, cut_weight = measure(model, objective, parts)
    assert cut_weight == pytest.approx(weight)
    assert cut_sums == pytest.approx(whole_sums, rel=1e-4, abs=1e-4)
    assert cut.keys() == whole.keys()
    for name, gradient in whole.items():
        distance = (cut[name] - gradient).norm() / gradient.norm().clamp_min(1e-3)
        assert distance < 2e-6, name


def test_a_batch_within_the_budget_stays_as_it_is(tmp_path):
    batch = to_tensors(build_pairs())
    assert TokenBudget(tmp_path, 80).cut([batch], 1)[0] is batch


def test_parts_of_parts_know_their_places_in_the_whole(tmp_path):
    batch = to_tensors(build_pairs())
    (first, *_) = TokenBudget(tmp_path, 40).cut([batch], 1)
    again = TokenBudget(tmp_path, 1).cut([first], 1)
    assert [part["trees"] for part in again] == [(tree,) for tree in first["trees"]]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_says_that_memory_is_too_small(error, expected):
    assert is_out_of_memory(error) is expected


def test_torchs_own_error_on_a_cpu_is_known():
    with pytest.raises(PosttrainError, match="`sft`: memory is too small"), memory_errors("sft"):
        torch.empty(2**60, dtype=torch.uint8)


@contextlib.contextmanager
def room_for(tokens, *, from_call=0):
    """Let memory of training end above a number of tokens; count the calls."""
    seen = SimpleNamespace(calls=0)

    def look(module, args):
        if not isinstance(module, torch.nn.Embedding) or not torch.is_grad_enabled():
            return
        seen.calls += 1
        if seen.calls > from_call and args[0].numel() > tokens:
            raise torch.OutOfMemoryError("a test's")

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def figures(job):
    rows = load_jsonl(job.folder / "metrics.jsonl")
    return drop_times(rows)


def weights(job):
    (file,) = job.final.glob("*.safetensors")
    return load_file(file)


def test_a_step_that_does_not_fit_is_done_again_as_the_same_step(make_job, capsys):
    settings = {"batch_tokens": 512, "accumulate": 2, "log_every_steps": 1, "steps": 4}
    whole, cut = (make_job(name, **settings) for name in ("whole", "cut"))
    train_sft(whole)
    capsys.readouterr()
    # In the middle of the second step: its first batch has gone backward already.
    with room_for(300, from_call=3):
        train_sft(cut)
    said = capsys.readouterr().err
    assert "step 2: a batch of up to 512 tokens does not fit into memory (peak" in said
    assert "from here on batches of up to 256 tokens are added up to the same step" in said
    assert said.count("does not fit") == 1
    for left, right in zip(figures(cut), figures(whole), strict=True):
        assert left == pytest.approx(right, rel=2e-3, abs=1e-3)
    for name, value in weights(whole).items():
        assert torch.allclose(weights(cut)[name], value, atol=2e-4), name
    kept = load_json(cut.folder / "memory.json")
    assert kept == {"batch_tokens": 512, "cuts": [{"step": 2, "tokens": 256}]}


def test_a_budget_is_halved_until_it_fits(make_job, capsys):
    job = make_job(batch_tokens=1024, steps=2)
    with room_for(200):
        train_sft(job)
    assert load_json(job.folder / "memory.json")["cuts"] == [{"step": 1, "tokens": 128}]
    assert capsys.readouterr().err.count("does not fit") == 3


def test_what_was_learned_of_memory_is_taken_up_bit_for_bit(make_job, tmp_path, capsys):
    job = make_job(
        "unbroken", recipe=DROPOUT, batch_tokens=512, log_every_steps=1, save_every_steps=1
    )
    with room_for(300, from_call=3):
        train_sft(job)
    assert "step 4: a batch of up to 512" in capsys.readouterr().err
    for last in (2, 5, 0):  # before the cut, after it, and from the beginning
        copy = replace(job, folder=tmp_path / f"copy-{last}")
        shutil.copytree(job.folder, copy.folder, symlinks=True)
        shutil.rmtree(copy.final)
        for step in range(last + 1, 7):
            shutil.rmtree(copy.checkpoints / f"step-{step:06d}")
        with room_for(300, from_call=max(0, 3 - last)):
            train_sft(copy)
        assert "does not fit" not in capsys.readouterr().err
        assert figures(copy) == figures(job)
        assert all(torch.equal(weights(copy)[n], value) for n, value in weights(job).items())


def test_a_single_row_that_does_not_fit_is_named(make_job, rows_file):
    job = make_job(batch_tokens=512)
    with room_for(40), pytest.raises(PosttrainError, match="does not fit") as caught:
        train_sft(job)
    assert f"step 1: {rows_file}:" in str(caught.value)
    assert "activation_checkpointing" in str(caught.value)
    assert "data.max_tokens" in str(caught.value)
    assert not job.final.exists()


def test_other_errors_pass(make_job):
    def break_it(module, args):
        if isinstance(module, torch.nn.Embedding):
            raise RuntimeError("something else")

    handle = torch.nn.modules.module.register_module_forward_pre_hook(break_it)
    try:
        with pytest.raises(RuntimeError, match="something else"):
            train_sft(make_job())
    finally:
        handle.remove()
