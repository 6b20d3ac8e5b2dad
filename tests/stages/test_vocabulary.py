"""`posttrain extend-tokenizer`, and the stage of that name, as a user runs them."""

import json

import pytest

from tests.stages.test_mistakes import complain

TEXT = "\n\n".join(
    f"患者{name}，确诊糖尿病{number}年，口服二甲双胍控制血糖。建议复查糖化血红蛋白。"
    for number, name in enumerate("张王李赵刘陈杨黄周吴徐孙", start=2)
)
RECIPE = """\
name: clinic
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: problems, kind: math, num: 60, seed: 1}
  - stage: extend-tokenizer
    texts: [{path: clinic.txt}]
    new_tokens: 40
    min_frequency: 4
  - stage: sft
    data: {sources: [{from_stage: problems}]}
    steps: 2
    batch_tokens: 1024
  - stage: evaluate
    tasks:
      - {task: gsm8k, data: {from_stage: problems, limit: 4}, max_new_tokens: 4, batch_size: 4}
"""


@pytest.fixture(autouse=True)
def clinic(tmp_path):
    (tmp_path / "clinic.txt").write_text(TEXT)


def test_command(cli, tmp_path):
    settings = ("new_tokens=40", "min_frequency=4", "out=clinic", "held_out=0.25")
    result = cli("extend-tokenizer", "tiny", "texts=clinic.txt", *settings)
    assert result.returncode == 0, result.stderr
    assert "tokens per character" in result.stdout
    assert "血" in result.stdout
    report = json.loads((tmp_path / "clinic" / "vocabulary.json").read_text())
    assert report["new_tokens"] == 40
    again = cli("extend-tokenizer", "tiny", "texts=clinic.txt", *settings)
    assert again.returncode == 0, again.stderr  # its own earlier result is replaced
    assert json.loads((tmp_path / "clinic" / "vocabulary.json").read_text()) == report
    chat = cli("chat", "clinic", "max_new_tokens=2", stdin="糖尿病\n")
    assert chat.returncode == 0, chat.stderr


def test_rows_and_a_list_of_tokens(cli, tmp_path):
    rows = [json.dumps({"body": text}, ensure_ascii=False) for text in TEXT.split("\n\n")]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "terms.txt").write_text("糖尿病\n二甲双胍\n")
    result = cli(
        "extend-tokenizer", "tiny", "tokens_file=terms.txt", "texts=clinic.txt,rows.jsonl",
        "text_fields=[body]",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "models/tiny-extended/vocabulary.json").read_text())
    assert (report["source"], report["wanted"]) == ("list", 2)


def test_stage_gives_its_tokenizer_to_later_ones(cli, tmp_path):
    (tmp_path / "clinic.yaml").write_text(RECIPE)
    result = cli("run", "clinic.yaml")
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "clinic"
    report = json.loads((run / "extend-tokenizer/final/vocabulary.json").read_text())
    trained = json.loads((run / "sft/final/config.json").read_text())
    assert trained["vocab_size"] == report["rows_after"] > 1536
    tokenizer = json.loads((run / "sft/final/tokenizer.json").read_text())
    assert len(tokenizer["model"]["vocab"]) == 1536 + report["new_tokens"]
    again = cli("run", "clinic.yaml")
    assert again.stderr.count("unchanged, not run again") == 4
    (tmp_path / "clinic.txt").write_text(TEXT.replace("糖尿病", "高血压"))
    changed = cli("run", "clinic.yaml")
    assert changed.returncode == 0, changed.stderr
    assert changed.stderr.count("unchanged, not run again") == 1  # the sample data


def test_no_text_at_all(cli):
    complain(cli("extend-tokenizer", "tiny"), 2, "give `texts`", "tokens_file")


def test_missing_text(cli):
    result = cli("extend-tokenizer", "tiny", "texts=gone.txt")
    complain(result, 3, "gone.txt", "no such file")


def test_misspelt_setting(cli):
    result = cli("extend-tokenizer", "tiny", "texts=clinic.txt", "new_token=40")
    complain(result, 2, "new_token", "did you mean `new_tokens`?")


def test_too_little_text(cli):
    result = cli("extend-tokenizer", "tiny", "texts=clinic.txt", "min_frequency=500")
    complain(result, 3, "no new token saves 500 tokens", "lower min_frequency")


def test_place_that_is_taken(cli, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not lose")
    result = cli("extend-tokenizer", "tiny", "texts=clinic.txt", "out=full")
    complain(result, 2, "full", "something else in this place")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "do not lose"


def test_tokenizer_of_another_kind(cli, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(
        tmp_path / "words"
    )
    result = cli("extend-tokenizer", "tiny", "tokenizer=./words", "texts=clinic.txt")
    complain(result, 2, "words", "only byte-level BPE", "it is WordPiece")


def test_source_of_a_stage_without_a_recipe(cli):
    result = cli("extend-tokenizer", "tiny", "texts=[{from_stage: problems}]")
    complain(result, 2, "from_stage: problems", "needs a recipe")
