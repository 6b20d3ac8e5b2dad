"""Pretraining, masked language modelling, reward models and DPO, each whole, on tiny models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from posttrain.config.load import build_recipe
from posttrain.errors import CheckpointError, ConfigError, VerificationError
from posttrain.models.heads import load_reward_model, score_trees
from posttrain.models.load import find_model
from posttrain.models.lora import quiet_peft
from posttrain.runs.plan import plan_recipe
from posttrain.training.mlm import train_mlm
from posttrain.training.preference import train_dpo
from posttrain.training.pretrain import train_pretrain
from posttrain.training.reward import train_reward
from posttrain.training.sft import train_sft
from tests.encoders import save_encoder
from tests.metrics import drop_times

LORA = {"tuning": "lora", "lora": {"rank": 4, "dropout": 0.2}}
ANIMALS = ("cat", "dog", "hen", "cow", "fox", "owl")
PLACES = ("barn", "house", "field", "wood")


def sentences() -> list[str]:
    return [
        f"The {animal} sleeps in the {place}. In the {place} the {animal} eats number {n}."
        for n in range(4)
        for animal in ANIMALS
        for place in PLACES
    ]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "animals.txt"
    path.write_text("\n\n".join(sentences()))
    return path


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"Where is the {a}?", "chosen": f"In the {p}, {n}.", "rejected": f"{n} who {a}"}
        for n in range(2)
        for a in ANIMALS
        for p in PLACES
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    home = tmp_path_factory.mktemp("encoders")
    return {k: save_encoder(home / k, k, sentences()) for k in ("bert", "modernbert", "roberta")}


@pytest.fixture
def make(make_job, text_file, pairs_file, encoders):
    """Make a job of a method: `pretrain`, `dpo`, `reward`, or `mlm` of a kind of encoder."""

    def build(method, name="run", *, recipe=None, data=None, **stage):
        kind, _, encoder = method.partition("-")
        texts = kind in ("pretrain", "mlm")
        source = {"sources": [{"path": str(text_file if texts else pairs_file)}]}
        values = dict(recipe or {})
        if encoder:
            values.setdefault("model", {"path": str(encoders[encoder])})
        size = {"block_tokens": 64} if texts else {}
        settings = {
            "stage": kind,
            "data": {**source, "split": {"validation": 0.2}, **size, **(data or {})},
            "steps": 4,
            "log_every_steps": 1,
            **stage,
        }
        return make_job(name, recipe=values, **settings)

    return build


TRAIN = {"pretrain": train_pretrain, "mlm": train_mlm, "reward": train_reward, "dpo": train_dpo}


def train(job):
    return TRAIN[job.stage.stage](job)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return drop_times(map(json.loads, lines))


def add_adapter(model, folder: Path):
    """As peft itself does it, no code of ours."""
    with quiet_peft():
        return PeftModel.from_pretrained(model, str(folder))


def start_from(job, model: Path, name: str, tuning: str):
    values = {**job.recipe.model_dump(mode="json"), "tuning": tuning}
    place = job.recipe.model.tokenizer or job.recipe.model.path
    values["model"] = {"path": str(model), "tokenizer": place}
    recipe = build_recipe(values, [], "test")
    return replace(job, recipe=recipe, folder=job.folder.with_name(name))


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("method", ["pretrain", "mlm-bert", "mlm-modernbert", "reward", "dpo"])
def test_resume_continues_bit_for_bit(make, method, tuning, tmp_path, capsys):
    spans = {"mask": {"units": "spans"}} if method == "mlm-modernbert" else {}
    job = make(method, "unbroken", recipe=LORA if tuning == "lora" else {}, **spans)
    summary = train(job)
    copy = replace(job, folder=tmp_path / "copy")
    shutil.copytree(job.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.final)
    shutil.rmtree(copy.checkpoints / "step-000004")
    shutil.rmtree(copy.folder / "reference", ignore_errors=True)
    resumed = train(copy)
    assert "going on from step 2 of 4" in capsys.readouterr().err
    left, right = weights(copy.final), weights(job.final)
    assert left.keys() == right.keys()
    assert [name for name in right if not torch.equal(left[name], right[name])] == []
    assert read_metrics(copy.folder) == read_metrics(job.folder)
    assert resumed.validation == summary.validation
    assert summary.validation["validation_loss"] > 0
    counted = f"{summary.trainable_parameters:,} of {summary.total_parameters:,} trainable"
    assert counted in plan_recipe(job.recipe)


@pytest.mark.parametrize(
    ("method", "rate"),
    [("pretrain", 1e-3), ("mlm-bert", 1e-2), ("mlm-modernbert", 1e-2), ("mlm-roberta", 1e-2)],
)
def test_held_out_perplexity_falls(make, method, rate):
    job = make(method, steps=16, learning_rate=rate, save_every_steps=4, batch_tokens=512)
    summary = train(job)
    measured = [row for row in read_metrics(job.folder) if "validation_loss" in row]
    assert measured[-1]["validation_loss"] < measured[0]["validation_loss"] - 0.1
    for row in measured:
        assert row["validation_perplexity"] == pytest.approx(np.exp(row["validation_loss"]))
    assert summary.validation["validation_perplexity"] == measured[-1]["validation_perplexity"]


@pytest.mark.parametrize(("method", "rate"), [("dpo", 1e-3), ("reward", 1e-3)])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_held_out_pair_accuracy_rises(make, method, rate, tuning):
    recipe = {"tuning": tuning, "lora": {"rank": 8}}
    rate = rate if tuning == "full" else 3 * rate
    job = make(method, recipe=recipe, steps=16, learning_rate=rate, save_every_steps=16)
    summary = train(job)
    assert summary.validation["validation_pair_accuracy"] == 1.0
    assert summary.validation["validation_margin"] > 0
    assert summary.validation["validation_loss"] < np.log(2) - 0.1


def test_a_reference_that_is_not_the_starting_model_is_refused(make):
    job = make("dpo", steps=1)
    train_dpo(job)
    shutil.rmtree(job.final)
    path = job.folder / "reference" / "train.npy"
    np.save(path, np.load(path) - 5)
    with pytest.raises(VerificationError, match=r"model and reference differ by .* nats"):
        train_dpo(job)


def test_dpo_starts_where_policy_and_reference_agree(make):
    job = make("dpo", recipe=LORA, learning_rate=1e-9, steps=1)
    train(job)
    (first,) = (row for row in read_metrics(job.folder) if "loss" in row)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(first["chosen_log_ratio"]) < 1e-4


def test_reference_is_kept_for_the_same_model_and_data_and_no_other(make, capsys):
    job = make("dpo", steps=2)
    train(job)
    assert "pairs scored with the starting model" in capsys.readouterr().err
    shutil.rmtree(job.checkpoints)
    shutil.rmtree(job.final)
    kept = np.load(job.folder / "reference" / "train.npy")
    assert kept.shape[1] == 2
    assert kept.max() < 0
    train(job)
    assert "pairs scored" not in capsys.readouterr().err
    # Another starting model in the same folder, as after moving things by hand.
    shutil.rmtree(job.checkpoints)
    other = start_from(job, job.final, "other", "full")
    shutil.copytree(job.folder / "reference", other.folder / "reference")
    train(other)
    assert "pairs scored" in capsys.readouterr().err
    changed = np.load(other.folder / "reference" / "train.npy")
    assert not np.allclose(changed, kept)


def test_the_reference_is_the_starting_model_with_its_adapter(make):
    sft = make("pretrain", "first", recipe={"tuning": "lora"}, learning_rate=1e-1)
    train(sft)
    job = start_from(make("dpo", steps=1, learning_rate=1e-9), sft.final, "dpo", "lora")
    train(job)
    first = read_metrics(job.folder)[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    plain = make("dpo", "plain", steps=1, learning_rate=1e-9)
    train(plain)
    ours, other = (np.load(j.folder / "reference" / "train.npy") for j in (job, plain))
    assert not np.allclose(ours, other)


TREES = [
    ([5, 9, 23, 40, 7], [[8, 30, 4], [61, 2]]),
    ([17, 3], [[9, 9, 9, 12], [33], [21, 6, 2]]),
]


def score_plainly(model, trees=TREES):
    """Every prompt with every answer through transformers' own forward, one at a time."""
    with torch.no_grad():
        return [
            [float(model(torch.tensor([prompt + answer])).logits[0, 0]) for answer in answers]
            for prompt, answers in trees
        ]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reward_model_loads_with_transformers_and_scores_the_same(make, tuning):
    job = make("reward", recipe={"tuning": tuning, "lora": {"rank": 4}}, learning_rate=1e-2)
    train(job)
    base = str(job.final) if tuning == "full" else find_model("tiny")
    theirs = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    if tuning == "lora":
        theirs = add_adapter(theirs, job.final)
    else:
        assert theirs.config.pad_token_id == 0
        assert theirs.config.num_labels == 1
    theirs.eval()
    ours = load_reward_model(str(job.final), "cpu")
    expected = score_plainly(theirs)
    for tokens in (4096, 12):
        found = score_trees(ours, TREES, batch_tokens=tokens)
        for values, wanted in zip(found, expected, strict=True):
            assert values == pytest.approx(wanted, abs=1e-5)
    assert max(map(max, expected)) - min(map(min, expected)) > 1e-3
    assert not any(p.requires_grad for p in ours.parameters())


def test_an_answer_without_tokens_is_worth_what_its_prompt_is(make):
    job = make("reward", steps=1)
    train(job)
    model = load_reward_model(str(job.final), "cpu")
    ((empty, other),) = score_trees(model, [([5, 9, 23], [[], [8, 4]])])
    assert [empty, other] == pytest.approx(
        [
            score_trees(model, [([5, 9], [[23]])])[0][0],
            score_trees(model, [([5, 9], [[23, 8, 4]])])[0][0],
        ],
        abs=1e-5,
    )


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_reward_model_starts_from_an_adapter_and_goes_on_with_itself(make, tuning):
    first = make("pretrain", "first", recipe=LORA, learning_rate=1e-1)
    train(first)
    job = start_from(make("reward", steps=2, learning_rate=1e-9), first.final, "reward", tuning)
    train(job)
    # At this rate nothing has moved: the layers are those of the adapted language model.
    base = AutoModelForCausalLM.from_pretrained(find_model("tiny"))
    language = add_adapter(base, first.final).merge_and_unload()
    trained = load_reward_model(str(job.final), "cpu")
    if tuning == "lora":
        trained = trained.merge_and_unload()
    for name, parameter in language.model.named_parameters():
        close = dict(trained.model.named_parameters())[name]
        torch.testing.assert_close(close, parameter, rtol=1e-5, atol=1e-6)
    again = start_from(job, job.final, "again", tuning)
    train(again)
    before, after = (load_reward_model(str(j.final), "cpu") for j in (job, again))
    assert score_trees(after, TREES)[0] == pytest.approx(score_trees(before, TREES)[0], abs=1e-4)


def test_what_is_no_reward_model_is_refused(make):
    with pytest.raises(CheckpointError, match="is no reward model"):
        load_reward_model("tiny", "cpu")
    job = make("pretrain", recipe=LORA, steps=1)
    train(job)
    with pytest.raises(CheckpointError, match="no reward head"):
        load_reward_model(str(job.final), "cpu")


@pytest.mark.parametrize("encoder", ["bert", "modernbert", "roberta"])
def test_the_encoder_loads_with_transformers_and_finds_words(make, encoders, encoder):
    job = make(f"mlm-{encoder}", steps=3, learning_rate=1e-3)
    train(job)
    model = AutoModelForMaskedLM.from_pretrained(job.final)
    source = AutoModelForMaskedLM.from_pretrained(encoders[encoder])
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        found, before = model(ids).logits, source(ids).logits
    assert found.shape == before.shape
    assert not torch.allclose(found, before)


def test_lora_of_an_encoder_loads_with_peft(make, encoders):
    job = make("mlm-bert", recipe=LORA, steps=3, learning_rate=1e-2)
    train(job)
    base = AutoModelForMaskedLM.from_pretrained(encoders["bert"])
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        before = base.eval()(ids).logits
        after = add_adapter(base, job.final).eval()(ids).logits
    assert not torch.allclose(before, after)


def test_masked_language_modelling_goes_on_from_an_adapter(make):
    first = make("mlm-bert", "first", recipe=LORA, learning_rate=2e-2, steps=30)
    done = train(first)
    for tuning in ("lora", "full"):
        again = start_from(first, first.final, tuning, tuning)
        loss = train(again).loss_first
        assert loss == pytest.approx(done.loss_last, abs=0.5)
        # The same batch and the same hidden tokens: a new adapter would start at loss_first.
        assert loss < done.loss_first - 0.1
        assert (again.final / "adapter_config.json").exists() == (tuning == "lora")


def test_validation_hides_the_same_tokens_at_every_measurement(make):
    jobs = [
        make("mlm-bert", f"seed{seed}", recipe={"seed": seed}, learning_rate=1e-9, steps=4)
        for seed in (0, 1)
    ]
    losses = []
    for job in jobs:
        train(job)
        losses += [
            row["validation_loss"] for row in read_metrics(job.folder) if "validation_loss" in row
        ]
    assert len(losses) == 4
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_masked_language_modelling_of_a_causal_model_is_refused(make):
    job = make("mlm", recipe={"model": {"path": "tiny"}})
    with pytest.raises(
        ConfigError, match="qwen3 is no encoder with a masked language head; use `st"
    ):
        train(job)


def test_blocks_longer_than_an_encoder_takes_are_refused(make):
    job = make("mlm-bert", data={"block_tokens": 200}, batch_tokens=512)
    with pytest.raises(ConfigError, match=r"the longest block has 200 tokens, the model takes 130"):
        train(job)


def test_pad_that_also_ends_answers_is_refused_for_a_reward_model(make, tmp_path, tiny_tokenizer):
    folder = tmp_path / "same"
    shutil.copytree(find_model("tiny"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["pad_token"] = settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    job = make("reward", recipe={"model": {"path": str(folder)}})
    with pytest.raises(ConfigError, match="also ends answers"):
        train(job)


def test_sft_of_the_same_recipe_still_runs(make_job):
    """The spine is shared: what the other methods need must leave it as it is."""
    assert train_sft(make_job(steps=2)).validation["validation_perplexity"] > 1
