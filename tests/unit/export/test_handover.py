import json
import shutil

import pytest
import torch

from posttrain.config.model import ModelConfig
from posttrain.errors import VerificationError
from posttrain.export.handover import check_served_by, serve_command
from posttrain.export.publish import write_model
from posttrain.files import sync_folder
from posttrain.models.load import load_model, load_tokenizer


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover") / "model"
    config = ModelConfig(path="tiny")
    model = load_model(config, attention="sdpa", dtype="float32")
    write_model(model.to(torch.bfloat16), load_tokenizer(config), folder, max_shard_gib=0.001)
    sync_folder(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "model")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_whole_folder_passes_and_its_command_names_the_number_format(folder):
    assert len(check_served_by(folder)) == 5
    assert serve_command(folder, "mine").endswith("--served-model-name mine --dtype bfloat16")


def damage_weights(folder):
    path = next(folder.glob("model-00001*"))
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(folder):
    next(folder.glob("model-00001*")).write_bytes(b"\xff" * 40)


DAMAGES = {
    "architecture": lambda f: change(f / "config.json", architectures=[]),
    "does not know": lambda f: change(f / "config.json", architectures=["NoSuchForCausalLM"]),
    "names no dtype": lambda f: change(f / "config.json", dtype=None),
    "says float32": lambda f: change(f / "config.json", dtype="float32"),
    "is damaged": damage_weights,
    "model-00001-of-0000. is damaged|safetensors is damaged": damage_header,
    "not where it says": lambda f: next(f.glob("model-00002*")).unlink(),
    "no index": lambda f: (f / "model.safetensors.index.json").unlink(),
    "no safetensors": lambda f: [path.unlink() for path in f.glob("model*")],
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "no chat template": lambda f: (f / "chat_template.jinja").unlink(),
    "no generation_config": lambda f: (f / "generation_config.json").unlink(),
    "no eos_token_id": lambda f: change(f / "generation_config.json", eos_token_id=None),
    "beyond the vocabulary": lambda f: change(f / "generation_config.json", eos_token_id=10**6),
    "1536 tokens and the model 1000": lambda f: change(f / "config.json", vocab_size=1000),
    "not readable": lambda f: next(f.glob("model-00001*")).chmod(0o600),
    "local path": lambda f: change(f / "config.json", _name_or_path=str(f)),
}


@pytest.mark.parametrize("complaint", DAMAGES)
def test_what_is_wrong_is_named_in_one_line(folder, complaint):
    DAMAGES[complaint](folder)
    with pytest.raises(VerificationError, match=complaint) as raised:
        check_served_by(folder)
    assert "\n" not in str(raised.value)
