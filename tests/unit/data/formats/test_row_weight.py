"""A row's own loss weight reaches its tokens."""

import numpy as np
import pytest

from posttrain.config.data import ChatDataConfig, PreferenceDataConfig
from posttrain.data.prepare import prepare_data


@pytest.fixture
def prepare(write, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))

    def run(rows, config=ChatDataConfig, **source):
        path = write("rows.jsonl", rows)
        settings = {"sources": [{"path": path, **source}], "max_reject_fraction": 1.0}
        return prepare_data(config.model_validate(settings), tiny_tokenizer)

    return run


def chat(*weights, **row):
    turns = []
    for number, weight in enumerate(weights):
        answer = {"role": "assistant", "content": f"Answer {number}."}
        turns += [{"role": "user", "content": f"Question {number}?"}]
        turns += [answer if weight is None else {**answer, "weight": weight}]
    return {"messages": turns, **row}


def weights_of(data, number=0):
    found = np.unique(data.train.example(number)[1])
    return found[found > 0].tolist()


def test_it_weighs_every_trained_token(prepare):
    data = prepare([chat(None, loss_weight=0.25), chat(None, None, loss_weight=2), chat(None)])
    assert [weights_of(data, i) for i in range(3)] == [[0.25], [2.0], [1.0]]


def test_it_multiplies_the_weights_of_turns(prepare):
    assert weights_of(prepare([chat(0.5, None, 0, loss_weight=0.5)])) == [0.25, 0.5]


def test_a_column_can_be_named_and_may_be_missing_or_text(prepare):
    rows = [
        {"instruction": "a?", "output": "b", "quality": "0.5"},
        {"instruction": "c?", "output": "d"},
    ]
    data = prepare(rows, columns={"loss_weight": "quality"})
    assert [weights_of(data, i) for i in range(2)] == [[0.5], [1.0]]


@pytest.mark.parametrize("weight", [-1, "much", [1], "inf"])
def test_what_is_no_weight_is_a_reject(prepare, weight):
    data = prepare([chat(None, loss_weight=weight), chat(None)])
    assert data.report["rejects"] == {"a row's loss weight is no number from 0 up": 1}
    assert len(data.train) == 1


def test_a_row_of_weight_0_is_a_reject(prepare):
    data = prepare([chat(None, loss_weight=0), chat(None)])
    assert data.report["rejects"] == {"no turn to train": 1}


def test_a_pair_has_no_weight(prepare):
    row = {"prompt": "a?", "chosen": "b", "rejected": "c"}
    data = prepare([{**row, "loss_weight": 0.5}, row], PreferenceDataConfig)
    assert data.report["rejects"] == {"a loss weight on a pair": 1}
