"""Masked language modelling through the command line."""

import json

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from posttrain.files import load_jsonl
from tests.encoders import save_encoder

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {{path: encoder}}
compute: {{threads: 1, precision: fp32, device: cpu}}
stages:
  - stage: mlm
    data: {{sources: [{{path: texts.txt}}], split: {{validation: 0.2}}, block_tokens: 64}}
    steps: 24
    batch_tokens: 512
    learning_rate: 1e-2
    save_every_steps: 3
    mask: {{share: 0.2, units: {units}}}
"""


@pytest.mark.parametrize(("kind", "units"), [("bert", "words"), ("modernbert", "spans")])
def test_an_encoder_learns_and_loads_with_transformers(cli, tmp_path, kind, units):
    animals = ("cat", "dog", "hen", "cow", "fox", "owl")
    texts = [f"The {a} and the {b} live in the barn." for a in animals for b in animals] * 3
    (tmp_path / "texts.txt").write_text("\n\n".join(f"{t} Day {n}." for n, t in enumerate(texts)))
    save_encoder(tmp_path / "encoder", kind, texts)
    (tmp_path / "small.yaml").write_text(RECIPE.format(units=units))
    done = cli("train", "small.yaml")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "small" / "mlm"
    lines = load_jsonl(folder / "metrics.jsonl")
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < losses[0] - 0.1
    summary = json.loads((folder / "stage.json").read_text())["summary"]
    assert summary["validation_perplexity"] > 1
    AutoModelForMaskedLM.from_pretrained(folder / "final")
    assert AutoTokenizer.from_pretrained(folder / "final").mask_token == "[MASK]"


def test_the_old_name_of_the_share_is_an_error_with_the_new_one(cli, tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE.format(units="words"))
    done = cli("check", "small.yaml", "stages.mlm.mask_share=0.3")
    assert done.returncode == 2
    assert "here it is `stages.STAGE.mask.share`" in done.stderr
    assert cli("check", "small.yaml", "stages.mlm.mask=0.3").returncode == 0
