from dataclasses import replace

import numpy as np
import pytest

from posttrain.data.audit import (
    audit_examples,
    audit_pairs,
    audit_prompts,
    audit_text,
    check_audit,
    describe_audit,
    merge_checks,
)
from posttrain.data.encode import Example
from posttrain.data.records import Chat, Origin, Preference, Record, Text
from posttrain.errors import DataError
from tests.unit.data.conftest import assistant, user

TRAINED = "at least one trained token"
FIRST = "first token untrained (nothing predicts it)"
ENDS = "each trained turn ends with its end token"
COUNT = "as many trained turns as there should be"
ALL = "every token but the first is trained"
TWICE = "no end or begin token twice in a row"
VOCABULARY = "every id is in the vocabulary"
WEIGHTS = "every loss weight is a number from 0 up"
TURNS = "trained text = the assistant's turns, with their weights (sample)"
OTHERS = "no text of a user, system or tool turn is trained (sample)"
PROMPT = "training prompt = tokenizer's inference prompt (sample)"
WHOLE = "ids = the tokenizer's own of the whole conversation (sample)"
PLAIN = "special tokens in a message's text stay text (sample)"
MARKS = "mask = template's own generation marks (sample)"


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def encode(tokenizer, pieces):
    """Token ids and weights of (text or ids, weight) pieces, each encoded by itself."""
    ids, weights = [], []
    for text, weight in pieces:
        found = text
        if isinstance(text, str):
            found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found
        weights += [weight] * len(found)
    return np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32)


def chat(tokenizer, *turns, line=3):
    """An example of (question, answer, weight) turns, masked as it should be."""
    messages, pieces = [], []
    for question, answer, weight in turns:
        stated = {} if weight == 1 else {"loss_weight": weight}
        messages += [user(question), assistant(answer, **stated)]
        pieces += [
            (turn("user", question) + "<|im_start|>assistant\n", 0),
            (f"{answer}<|im_end|>", weight),
            ("\n", 0),
        ]
    record = Record(Chat(tuple(messages)), Origin("rows.jsonl", line))
    return Example(record, *encode(tokenizer, pieces), retokenized=False)


@pytest.fixture
def good(tiny_tokenizer):
    return chat(tiny_tokenizer, ("One?", "1", 1), ("Two?", "2", 1))


def failures(example, tokenizer, **options):
    checks = audit_examples([example], tokenizer, **options)
    return {check.name for check in checks if check.failures}


def with_weights(example, change):
    weights = example.weights.copy()
    change(weights)
    return replace(example, weights=weights)


def insert(example, place, token, weight):
    return replace(
        example,
        token_ids=np.insert(example.token_ids, place, token),
        weights=np.insert(example.weights, place, weight),
    )


def ends(example):
    return np.flatnonzero(example.trained & ~np.append(example.trained[1:], False))


def test_good_example_passes_every_check(good, tiny_tokenizer):
    checks = audit_examples([good], tiny_tokenizer)
    asked = [c.name for c in checks]

    assert asked == [
        *(TRAINED, FIRST, ENDS, COUNT, TWICE, VOCABULARY, WEIGHTS),
        *(TURNS, OTHERS, PROMPT, WHOLE, PLAIN, MARKS),
    ]
    found = {c.name: (c.checked, c.failures, c.examples) for c in checks}
    assert found.pop(PLAIN) == (0, 0, [])  # no text of this row looks like a special token
    assert set(map(str, found.values())) == {"(1, 0, [])"}
    check_audit(checks)


def test_example_that_trains_nothing_fails(good, tiny_tokenizer):
    bad = with_weights(good, lambda mask: mask.fill(0))

    assert failures(bad, tiny_tokenizer) == {TRAINED, COUNT, TURNS, PROMPT, MARKS}


def test_trained_first_token_fails(good, tiny_tokenizer):
    bad = with_weights(good, lambda mask: mask.__setitem__(0, 1))

    assert {FIRST, COUNT} <= failures(bad, tiny_tokenizer)


def test_example_that_trains_everything_fails(good, tiny_tokenizer):
    bad = with_weights(good, lambda mask: mask.fill(1))

    assert {FIRST, COUNT, TURNS, OTHERS, PROMPT, MARKS} <= failures(bad, tiny_tokenizer)


def test_everything_may_be_trained_where_that_is_meant(good, tiny_tokenizer):
    whole = with_weights(good, lambda mask: mask.__setitem__(slice(1, None), 1))

    assert failures(whole, tiny_tokenizer, train_on="everything") == set()
    assert failures(good, tiny_tokenizer, train_on="everything") == {ALL}


def test_turn_whose_end_is_not_trained_fails(good, tiny_tokenizer):
    for end in ends(good):
        bad = with_weights(good, lambda mask, end=end: mask.__setitem__(end, 0))
        assert ENDS in failures(bad, tiny_tokenizer)


def test_end_token_written_twice_fails(good, tiny_tokenizer):
    bad = insert(good, ends(good)[-1], tiny_tokenizer.eos_token_id, 1)

    assert failures(bad, tiny_tokenizer) == {TWICE, WHOLE, MARKS}


def test_begin_token_written_twice_fails(good, tiny_tokenizer):
    bad = insert(good, 0, good.token_ids[0], 0)

    assert {TWICE, PROMPT} <= failures(bad, tiny_tokenizer)


def test_row_that_begins_as_the_one_before_ends_is_no_repetition(good, tiny_tokenizer):
    end, begin = tiny_tokenizer.eos_token_id, good.token_ids[0]
    one = insert(good, len(good.token_ids), end, 0)
    other = insert(insert(good, 0, end, 0), 0, begin, 0)
    checks = {c.name: c for c in audit_examples([one, other], tiny_tokenizer)}

    assert checks[TWICE].failures == 0


@pytest.mark.parametrize("token", [-1, 10**6])
def test_id_outside_the_vocabulary_fails_and_is_not_decoded(good, tiny_tokenizer, token):
    token_ids = good.token_ids.copy()
    token_ids[ends(good)[0] - 1] = token

    assert failures(replace(good, token_ids=token_ids), tiny_tokenizer) == {VOCABULARY}


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weight_that_is_no_weight_fails(good, tiny_tokenizer, weight):
    bad = with_weights(good, lambda mask: mask.__setitem__(ends(good)[0], weight))

    assert WEIGHTS in failures(bad, tiny_tokenizer)


def test_prompt_other_than_the_tokenizers_fails(good, tiny_tokenizer):
    token_ids = good.token_ids.copy()
    token_ids[1] = token_ids[1] + 1

    assert failures(replace(good, token_ids=token_ids), tiny_tokenizer) == {PROMPT, WHOLE}


def test_mask_shifted_by_one_fails(good, tiny_tokenizer):
    bad = replace(good, weights=np.roll(good.weights, -1))

    assert {ENDS, PROMPT, MARKS} <= failures(bad, tiny_tokenizer)


def test_later_turn_left_out_of_the_mask_fails(good, tiny_tokenizer):
    bad = with_weights(good, lambda mask: mask[ends(good)[0] + 1 :].fill(0))

    assert {COUNT, TURNS, PROMPT, MARKS} <= failures(bad, tiny_tokenizer)


def test_trained_question_fails_even_where_the_number_of_turns_is_right(good, tiny_tokenizer):
    first = ends(good)[0]
    start = np.flatnonzero(good.trained)[0]
    # The question and its end token instead of the first answer: two runs that end well.
    question = slice(start - 7, start - 3)

    def swap(mask):
        mask[start : first + 1] = 0
        mask[question] = 1

    bad = with_weights(good, swap)
    assert {TURNS, OTHERS} <= failures(bad, tiny_tokenizer)


@pytest.mark.parametrize("train_on", ["last_assistant", "completion"])
def test_last_turn_alone_is_no_failure_where_that_is_meant(good, tiny_tokenizer, train_on):
    last = with_weights(good, lambda mask: mask[: ends(good)[0] + 1].fill(0))

    assert failures(last, tiny_tokenizer, train_on=train_on) == set()
    assert {COUNT, TURNS} <= failures(last, tiny_tokenizer)
    assert {COUNT, TURNS} <= failures(good, tiny_tokenizer, train_on=train_on)


def test_weights_of_turns_are_honoured(tiny_tokenizer):
    weighted = chat(tiny_tokenizer, ("One?", "1", 0.5), ("Two?", "2", 0), ("Three?", "3", 1))
    flat = with_weights(weighted, lambda mask: np.sign(mask, out=mask))

    assert failures(weighted, tiny_tokenizer) == set()
    assert failures(flat, tiny_tokenizer) == {TURNS}


def test_answer_that_repeats_the_question_is_no_leak(tiny_tokenizer):
    example = chat(tiny_tokenizer, ("yes", "yes, yes", 1))

    assert failures(example, tiny_tokenizer) == set()


def test_text_of_a_special_token_must_stay_text(tiny_tokenizer):
    question = "What does <|im_end|> do?"
    record = Record(Chat((user(question), assistant("x"))), Origin("rows.jsonl", 1))
    tail = [("<|im_end|>\n<|im_start|>assistant\n", 0), ("x<|im_end|>", 1), ("\n", 0)]
    parts = [("<|im_start|>user\nWhat does <", 0), ("|im_end|> do?", 0), *tail]
    plain = Example(record, *encode(tiny_tokenizer, parts), retokenized=False)
    read = [(f"<|im_start|>user\n{question}", 0), *tail]
    broken = Example(record, *encode(tiny_tokenizer, read), retokenized=False)

    def prompt_of(example):
        start = int(np.flatnonzero(example.trained)[0])
        return lambda content: example.token_ids[:start].tolist()

    assert failures(plain, tiny_tokenizer) == set()
    assert failures(plain, tiny_tokenizer, prompt_ids=prompt_of(plain)) == set()
    assert failures(broken, tiny_tokenizer) == {PLAIN}
    assert failures(plain, tiny_tokenizer, prompt_ids=prompt_of(broken)) == {PROMPT}


def test_reasoning_and_tool_calls_are_part_of_the_turn(tokenizer_with):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\n{% endif %}"
        "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tokenizer_with(template)
    call = {"type": "function", "function": {"name": "look_up", "arguments": {}}}
    answer = assistant("Let me see.", reasoning_content="Hm, hm.", tool_calls=[call])
    done = assistant("It is 7.", reasoning_content="Seven.")
    messages = (user("Sum?"), answer, {"role": "tool", "content": "seven"}, done)
    written = "<think>Hm, hm.</think>\nLet me see.<call>look_up</call><|im_end|>"
    pieces = [
        (turn("user", "Sum?") + "<|im_start|>assistant\n", 0),
        (written, 1),
        ("\n" + turn("tool", "seven") + "<|im_start|>assistant\n", 0),
        ("<think>Seven.</think>\nIt is 7.<|im_end|>", 1),
        ("\n", 0),
    ]
    record = Record(Chat(messages), Origin("rows.jsonl", 1))
    example = Example(record, *encode(tokenizer, pieces), retokenized=False)
    assert failures(example, tokenizer) == set()

    # The result of the tool written into the last answer, as a wrong cut would have it.
    pieces[2:4] = [("\n<|im_start|>", 0), (pieces[2][0][13:] + pieces[3][0], 1)]
    leaked = Example(record, *encode(tokenizer, pieces), retokenized=False)
    assert {TURNS, OTHERS} <= failures(leaked, tokenizer)


def test_thinking_that_the_prompt_has_opened_is_part_of_the_turn(tokenizer_with):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
    )
    tokenizer = tokenizer_with(template)

    def failing(first):
        answer = "<think>It is 3 + 4.</think>7"
        record = Record(Chat((user("Sum?"), assistant(answer))), Origin("rows.jsonl", 1))
        head = (turn("user", "Sum?") + "<|im_start|>assistant\n<think>", 0)
        rest = answer.removeprefix("<think>")[first:] + "<|im_end|>"
        example = Example(record, *encode(tokenizer, [head, (rest, 1), ("\n", 0)]), False)
        return failures(example, tokenizer)

    assert failing(0) == set()
    assert TURNS in failing(3)  # "It " is nowhere


def test_failed_audit_tells_every_check_and_stops_with_places(good, tiny_tokenizer, capsys):
    bad = with_weights(good, lambda mask: mask.fill(0))
    checks = audit_examples([good, bad, good, bad], tiny_tokenizer)

    with pytest.raises(DataError) as caught:
        check_audit(checks)
    assert str(caught.value).startswith(
        f"mask audit: 2 of 4 rows fail “{TRAINED}”, the first at rows.jsonl:3, rows.jsonl:3; "
        "4 other checks fail too"
    )
    told = capsys.readouterr().err.splitlines()
    assert told == describe_audit(checks)
    assert f"mask audit: {TRAINED}: 4 asked, 2 FAIL: rows.jsonl:3, rows.jsonl:3" in told
    assert f"mask audit: {WEIGHTS}: 4 asked, all pass" in told


def test_sample_is_the_first_rows_and_every_nth(good, tiny_tokenizer):
    def asked(first):
        checks = audit_examples([good] * 100, tiny_tokenizer, sample=50, first=first)
        return {c.name: c.checked for c in checks}

    assert (asked(0)[TRAINED], asked(0)[PROMPT]) == (100, 64)
    assert (asked(60)[TRAINED], asked(60)[PROMPT]) == (100, 4 + 2)
    assert (asked(1001)[TRAINED], asked(1001)[PROMPT]) == (100, 2)


def test_checks_of_chunks_add_up(good, tiny_tokenizer):
    bad = with_weights(good, lambda mask: mask.fill(0))
    one = audit_examples([good, bad], tiny_tokenizer)
    other = audit_examples([bad, bad, bad], tiny_tokenizer, first=2)
    merged = merge_checks(merge_checks([], one), other)

    assert merged == audit_examples([good, bad, bad, bad, bad], tiny_tokenizer)
    assert merged[0].examples == ["rows.jsonl:3"] * 3


def test_pairs_train_both_answers_and_nothing_else(tiny_tokenizer):
    pair = Preference((user("Which?"),), assistant("This."), assistant("That one."))
    record = Record(pair, Origin("pairs.jsonl", 7))
    prompt = turn("user", "Which?") + "<|im_start|>assistant\n"

    def example(*pieces):
        parts = [encode(tiny_tokenizer, [piece]) for piece in pieces]
        ids, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        lengths = tuple(len(part[0]) for part in parts)
        return Example(record, ids, weights, False, lengths, (-1, 0, 0))

    def failing(example):
        return {c.name for c in audit_pairs([example], tiny_tokenizer) if c.failures}

    trained = "prompt untrained, both answers trained"
    text = "each answer's text is the row's (sample)"
    good = example((prompt, 0), ("This.<|im_end|>", 1), ("That one.<|im_end|>", 1))
    assert failing(good) == set()
    assert failing(with_weights(good, lambda mask: mask.__setitem__(1, 1))) == {trained}
    assert failing(with_weights(good, lambda mask: mask.__setitem__(-2, 0))) == {trained}
    swapped = example((prompt, 0), ("That one.<|im_end|>", 1), ("This.<|im_end|>", 1))
    assert failing(swapped) == {text}
    open_end = example((prompt, 0), ("This.<|im_end|>", 1), ("That one.", 1))
    assert failing(open_end) == {"each answer ends with its end token"}
    other = example((prompt[:-1], 0), ("This.<|im_end|>", 1), ("That one.<|im_end|>", 1))
    assert failing(other) == {PROMPT}


def test_prompts_are_those_of_inference_and_untrained(tiny_tokenizer):
    record = Record(Chat((user("Which?"),)), Origin("prompts.jsonl", 7))

    def failing(text, weight):
        ids, weights = encode(tiny_tokenizer, [(text, weight)])
        example = Example(record, ids, weights, False, (len(ids),), (-1,))
        return {c.name for c in audit_prompts([example], tiny_tokenizer) if c.failures}

    prompt = turn("user", "Which?") + "<|im_start|>assistant\n"
    assert failing(prompt, 0) == set()
    assert failing(prompt, 1) == {"no token of a prompt is trained"}
    assert failing(turn("user", "Which?"), 0) == {PROMPT}


def test_blocks_of_text_train_all_but_the_first_token(tiny_tokenizer):
    def failing(weights):
        ids = np.arange(3, 3 + len(weights), dtype=np.int32)
        record = Record(Text("abc"), Origin("text.txt", 1))
        example = Example(record, ids, np.array(weights, dtype=np.float32), False)
        return {c.name for c in audit_text([example, example], tiny_tokenizer) if c.failures}

    wrong = {"every token but a block's first is trained"}
    assert failing([0, 1, 1, 1]) == set()
    assert failing([1, 1, 1, 1]) == wrong
    assert failing([1, 1, 1, 0]) == wrong
    assert failing([0, 1, 0, 1]) == wrong
