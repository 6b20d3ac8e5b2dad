import json
from types import SimpleNamespace

import pytest

from posttrain.config.evaluation import NumberTask, PerplexityTask
from posttrain.config.generation import TransformersBackEnd
from posttrain.config.model import ModelConfig
from posttrain.evaluation.tasks import compare_template
from posttrain.models.trained_template import (
    FILE,
    compare_templates,
    digest_template,
    find_trained_template,
    write_trained_template,
)


def tokenizer(template):
    return SimpleNamespace(chat_template=template)


def test_a_digest_is_of_the_templates_text():
    one, other = tokenizer("{{ messages }}"), tokenizer("{{ messages }} ")
    assert digest_template(one) == digest_template(tokenizer("{{ messages }}"))
    assert digest_template(one) != digest_template(other)
    assert digest_template(tokenizer(None)) is None


@pytest.mark.parametrize(("used", "same"), [("a" * 64, True), ("b" * 64, False), (None, False)])
def test_the_template_in_use_is_held_to_the_trained_one(tmp_path, capsys, used, same):
    write_trained_template(tmp_path, "a" * 64)
    found = compare_templates(str(tmp_path), used)
    assert found == {"used": used, "trained": "a" * 64, "same": same}
    said = capsys.readouterr().err
    assert said.count("warning:") == (not same)
    if not same:
        assert ("bbbbbbbbbbbb" if used else "plain text") in said


def test_an_unknown_template_is_no_difference(tmp_path, capsys):
    unknown = {"used": "a" * 64, "trained": None, "same": None}
    assert compare_templates(str(tmp_path), "a" * 64) == unknown
    assert compare_templates("Qwen/Qwen3-0.6B", "a" * 64) == unknown
    write_trained_template(tmp_path, None)
    assert not (tmp_path / FILE).exists()
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"chat_template": 3}), "{}"])
def test_a_file_that_says_nothing_is_unknown(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert find_trained_template(tmp_path) is None


def test_tasks_of_plain_text_are_not_warned_of_a_template(tmp_path, tiny_tokenizer, capsys):
    write_trained_template(tmp_path, "a" * 64)
    model = ModelConfig(path=str(tmp_path))
    text = PerplexityTask(kind="perplexity", data={"path": "x.txt"})
    chats = NumberTask(kind="number", data={"path": "x.jsonl"})
    plain = chats.model_copy(update={"context": "text"})
    here = TransformersBackEnd()
    assert compare_template(model, tiny_tokenizer, here, [text, plain]) is None
    assert "warning" not in capsys.readouterr().err
    assert compare_template(model, tiny_tokenizer, here, [text, chats])["same"] is False
    assert "warning" in capsys.readouterr().err
