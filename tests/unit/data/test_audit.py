from dataclasses import replace

import numpy as np
import pytest

from posttrain.data.audit import audit_examples, check_audit
from posttrain.data.encode import EncodeOptions, encode_records
from posttrain.data.templates import ChatRenderer
from posttrain.errors import DataError
from tests.unit.data.conftest import assistant, user

OPTIONS = EncodeOptions(max_tokens=4096, last_only=False)
TRAINED = "at least one trained token"
FIRST = "first token untrained (nothing predicts it)"
ENDS = "each trained turn ends with its end token"
TWICE = "no end or begin token twice in a row"
VOCABULARY = "every id is in the vocabulary"
PROMPT = "training prompt = tokenizer's inference prompt (sample)"
MARKS = "mask = template's own generation marks (sample)"


@pytest.fixture
def good(record, tiny_tokenizer):
    chat = record(user("One?"), assistant("1"), user("Two?"), assistant("2"), line=3)
    (example,) = encode_records([chat], ChatRenderer(tiny_tokenizer), OPTIONS)
    return example


def failures(example, tokenizer):
    return {check.name for check in audit_examples([example], tokenizer) if check.failures}


def with_trained(example, change):
    trained = example.trained.copy()
    change(trained)
    return replace(example, weights=trained.astype(np.float32))


def insert(example, place, token, trained):
    return replace(
        example,
        token_ids=np.insert(example.token_ids, place, token),
        weights=np.insert(example.weights, place, trained),
    )


def ends(example):
    return np.flatnonzero(example.trained & ~np.append(example.trained[1:], False))


def test_good_example_passes_every_check(good, tiny_tokenizer):
    checks = audit_examples([good], tiny_tokenizer)

    assert [c.name for c in checks] == [TRAINED, FIRST, ENDS, TWICE, VOCABULARY, PROMPT, MARKS]
    assert [(c.checked, c.failures, c.examples) for c in checks] == [(1, 0, [])] * 7
    check_audit(checks)


def test_example_that_trains_nothing_fails(good, tiny_tokenizer):
    bad = with_trained(good, lambda mask: mask.fill(False))

    assert failures(bad, tiny_tokenizer) == {TRAINED, PROMPT, MARKS}


def test_trained_first_token_fails(good, tiny_tokenizer):
    bad = with_trained(good, lambda mask: mask.__setitem__(0, True))

    assert FIRST in failures(bad, tiny_tokenizer)


def test_example_that_trains_everything_fails(good, tiny_tokenizer):
    bad = with_trained(good, lambda mask: mask.fill(True))

    assert {FIRST, PROMPT, MARKS} <= failures(bad, tiny_tokenizer)


def test_turn_whose_end_is_not_trained_fails(good, tiny_tokenizer):
    for end in ends(good):
        bad = with_trained(good, lambda mask, end=end: mask.__setitem__(end, False))
        assert ENDS in failures(bad, tiny_tokenizer)


def test_end_token_written_twice_fails(good, tiny_tokenizer):
    bad = insert(good, ends(good)[-1], tiny_tokenizer.eos_token_id, True)

    assert failures(bad, tiny_tokenizer) == {TWICE, MARKS}


def test_begin_token_written_twice_fails(good, tiny_tokenizer):
    bad = insert(good, 0, good.token_ids[0], False)

    assert {TWICE, PROMPT} <= failures(bad, tiny_tokenizer)


@pytest.mark.parametrize("token", [-1, 10**6])
def test_id_outside_the_vocabulary_fails(good, tiny_tokenizer, token):
    token_ids = good.token_ids.copy()
    token_ids[ends(good)[0] - 1] = token

    assert VOCABULARY in failures(replace(good, token_ids=token_ids), tiny_tokenizer)


def test_prompt_other_than_the_tokenizers_fails(good, tiny_tokenizer):
    token_ids = good.token_ids.copy()
    token_ids[1] = token_ids[1] + 1

    assert failures(replace(good, token_ids=token_ids), tiny_tokenizer) == {PROMPT}


def test_mask_shifted_by_one_fails(good, tiny_tokenizer):
    bad = replace(good, weights=np.roll(good.weights, -1))

    assert {ENDS, PROMPT, MARKS} <= failures(bad, tiny_tokenizer)


def test_later_turn_left_out_of_the_mask_fails(good, tiny_tokenizer):
    first, second = ends(good)
    bad = with_trained(good, lambda mask: mask[first + 1 :].fill(False))

    assert {PROMPT, MARKS} <= failures(bad, tiny_tokenizer)
    assert second > first


def test_last_turn_alone_is_no_failure(record, tiny_tokenizer):
    chat = record(user("One?"), assistant("1"), user("Two?"), assistant("2"))
    options = EncodeOptions(max_tokens=4096, last_only=True)
    (example,) = encode_records([chat], ChatRenderer(tiny_tokenizer), options)

    assert failures(example, tiny_tokenizer) == set()


def test_failed_audit_stops_with_check_count_and_places(good, tiny_tokenizer):
    bad = with_trained(good, lambda mask: mask.fill(False))
    checks = audit_examples([good, bad, good, bad], tiny_tokenizer)

    with pytest.raises(DataError) as caught:
        check_audit(checks)
    assert str(caught.value).startswith(
        f"mask audit: 2 of 4 rows fail “{TRAINED}”, the first at rows.jsonl:3, rows.jsonl:3"
    )


def test_sample_is_spread_over_all_rows(good, tiny_tokenizer):
    checks = {c.name: c for c in audit_examples([good] * 1000, tiny_tokenizer)}

    assert checks[TRAINED].checked == 1000
    assert 200 <= checks[PROMPT].checked < 400
