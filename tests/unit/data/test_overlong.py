import numpy as np
import pytest

from posttrain.config.data import PromptDataConfig
from posttrain.data.audit import audit_examples, audit_pairs, check_audit
from posttrain.data.encode import EncodeOptions, Example, encode_records
from posttrain.data.encode_pairs import encode_pairs
from posttrain.data.encoders import PromptEncoder
from posttrain.data.overlong import find_breaks, find_longest, hides_reasoning
from posttrain.data.records import Chat, Origin, Preference, Record, Reject
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import stock_codec
from tests.unit.data.conftest import assistant, user

SYSTEM = {"role": "system", "content": "Be brief."}


def exchanges(*numbers):
    return [m for n in numbers for m in (user(f"question {n}?"), assistant(f"answer {n}."))]


@pytest.fixture
def encode(record, tiny_tokenizer):
    renderer, codec = ChatRenderer(tiny_tokenizer), stock_codec(tiny_tokenizer)

    def run(*messages, **options):
        item = record(*messages)
        items = list(encode_records([item], renderer, codec, EncodeOptions(**options)))
        made = [item for item in items if isinstance(item, Example)]
        train_on = options.get("train_on", "all_assistant")
        check_audit(audit_examples(made, tiny_tokenizer, train_on=train_on) if made else [])
        return items

    return run


@pytest.fixture
def size(encode):
    def measure(*messages):
        (made,) = encode(*messages, max_tokens=10**6)
        return len(made.token_ids)

    return measure


def said(example):
    return [m["content"] for m in example.record.content.messages]


def trained(example, tokenizer):
    return tokenizer.decode(example.token_ids[example.trained].tolist())


def test_what_fits_is_not_touched(encode, size):
    chat = [SYSTEM, *exchanges(1, 2)]
    for overlong in ("reject", "truncate", "split", "error"):
        (made,) = encode(*chat, max_tokens=size(*chat), overlong=overlong)
        assert (made.cut, made.part, len(said(made))) == ("", 0, 5)


@pytest.mark.parametrize("overlong", ["reject", "error"])
def test_too_long_is_a_reason(encode, size, overlong):
    chat = exchanges(1, 2)
    (reject,) = encode(*chat, max_tokens=size(*chat) - 1, overlong=overlong)
    tokens = size(*chat)
    assert (reject.reason, reject.detail) == (
        "too long",
        f"{tokens} tokens, max_tokens is {tokens - 1}",
    )


def test_truncating_takes_whole_exchanges_off_the_end(encode, size, tiny_tokenizer):
    chat = [SYSTEM, *exchanges(1, 2, 3, 4)]
    (made,) = encode(*chat, max_tokens=size(*chat[:7]), overlong="truncate")
    assert (made.cut, said(made)) == ("truncated", [m["content"] for m in chat[:7]])
    assert trained(made, tiny_tokenizer).endswith("answer 3.<|im_end|>")

    (made,) = encode(*chat, max_tokens=size(*chat[:7]) - 1, overlong="truncate")
    assert said(made) == [m["content"] for m in chat[:5]]


def test_truncating_keeps_tool_results_with_their_answers(encode, size):
    calling = [user("q"), assistant("Let me look."), {"role": "tool", "content": "3"}]
    chat = [*exchanges(1), *calling, assistant("It is 3."), *exchanges(2)]
    (made,) = encode(*chat, max_tokens=size(*chat) - 1, overlong="truncate")
    assert said(made)[-1] == "It is 3."
    (made,) = encode(*chat, max_tokens=size(*chat[:6]) - 1, overlong="truncate")
    assert said(made) == ["question 1?", "answer 1."]


def test_truncating_ends_with_a_turn_that_is_trained(encode, size):
    chat = exchanges(1, 2, 3)
    chat[3] = {**chat[3], "loss_weight": 0}
    (made,) = encode(*chat, max_tokens=size(*chat) - 1, overlong="truncate")
    assert said(made) == ["question 1?", "answer 1."]


@pytest.mark.parametrize("overlong", ["truncate", "split"])
def test_an_exchange_that_is_too_long_alone_is_rejected(encode, overlong):
    (reject,) = encode(*exchanges(1), max_tokens=8, overlong=overlong)
    assert isinstance(reject, Reject)
    assert reject.reason == "too long"


@pytest.mark.parametrize("most", range(1, 6))
def test_splitting_trains_every_answer_once(encode, size, tiny_tokenizer, most):
    numbers = range(10, 17)
    chat = [SYSTEM, *exchanges(*numbers)]
    limit = size(SYSTEM, *exchanges(*numbers[:most]))
    made = encode(*chat, max_tokens=limit, overlong="split")

    assert [example.part for example in made] == list(range(len(made)))
    assert {example.cut for example in made} == {"split"}
    assert all(said(example)[0] == "Be brief." for example in made)
    assert all(len(example.token_ids) <= limit for example in made)
    lengths = [(len(said(example)) - 1) // 2 for example in made]
    assert lengths == [most] * (7 // most) + [7 % most] * bool(7 % most)
    texts = "".join(trained(example, tiny_tokenizer) for example in made)
    assert texts == "".join(f"answer {n}.<|im_end|>" for n in numbers)


def test_splitting_says_which_part_is_lost(encode, size, tiny_tokenizer):
    chat = [SYSTEM, *exchanges(1), user("long " * 80), assistant("no"), *exchanges(3)]
    first, lost, last = encode(*chat, max_tokens=size(*chat[:3]), overlong="split")
    assert (lost.reason, lost.detail) == ("part too long", "turns 4 to 5 by themselves")
    assert trained(first, tiny_tokenizer) == "answer 1.<|im_end|>"
    assert trained(last, tiny_tokenizer) == "answer 3.<|im_end|>"
    assert (first.part, last.part) == (0, 2)


def test_splitting_makes_no_part_without_a_trained_turn(encode, size, tiny_tokenizer):
    chat = exchanges(1, 2, 3)
    for turn in (3, 5):
        chat[turn] = {**chat[turn], "loss_weight": 0}
    (made,) = encode(*chat, max_tokens=size(*exchanges(1)), overlong="split")
    assert trained(made, tiny_tokenizer) == "answer 1.<|im_end|>"


@pytest.mark.parametrize("train_on", ["last_assistant", "completion"])
def test_each_part_is_a_conversation_whose_last_answer_is_trained(
    encode, size, tiny_tokenizer, train_on
):
    chat = exchanges(1, 2, 3, 4)
    limit = size(*exchanges(1, 2))
    made = encode(*chat, max_tokens=limit, overlong="split", train_on=train_on)
    assert [trained(example, tiny_tokenizer) for example in made] == [
        "answer 2.<|im_end|>",
        "answer 4.<|im_end|>",
    ]


def test_everything_is_trained_but_the_first_token(encode):
    (made,) = encode(SYSTEM, *exchanges(1), max_tokens=4096, train_on="everything")
    assert made.weights.tolist() == [0.0, *[1.0] * (len(made.token_ids) - 1)]


def test_loss_weights_reach_their_tokens(encode, tiny_tokenizer):
    chat = exchanges(1, 2, 3)
    chat[1] = {**chat[1], "loss_weight": 0.5}
    chat[3] = {**chat[3], "loss_weight": 0}
    (made,) = encode(*chat, max_tokens=4096)
    half = made.token_ids[made.weights == np.float32(0.5)].tolist()
    assert tiny_tokenizer.decode(half) == "answer 1.<|im_end|>"
    one = made.token_ids[made.weights == 1].tolist()
    assert tiny_tokenizer.decode(one) == "answer 3.<|im_end|>"


def test_breaks_stand_before_users_who_were_answered():
    roles = ["assistant", "user", "user", "assistant", "tool", "user", "assistant", "user"]
    assert find_breaks([{"role": role} for role in roles]) == [7]
    assert find_breaks([]) == find_breaks([{"role": "assistant"}]) == []


@pytest.mark.parametrize("fitting", range(21))
def test_longest_is_found_in_few_tries(fitting):
    tried = []

    def make(number):
        tried.append(number)
        return f"{number}" if number < fitting else None

    assert find_longest(20, make) == ((fitting - 1, str(fitting - 1)) if fitting else (-1, None))
    assert len(tried) == len(set(tried)) <= 9


def test_longest_is_found_where_some_shorter_ones_do_not_fit():
    sizes = [9, 2, 3, 9]
    make = [size if size < 5 else None for size in sizes].__getitem__
    assert find_longest(4, make, rising=False) == (2, 3)
    assert find_longest(4, lambda _: None, rising=False) == (-1, None)


# Reasoning is shown behind the last user turn only, as Qwen3's template does.
LAST_REASONING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n' }}{% if m.reasoning_content and loop.index0 > ns.last %}"
    "{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_longer_start_fits_where_it_hides_the_reasoning(tokenizer_with, record):
    tokenizer = tokenizer_with(LAST_REASONING)
    renderer, codec = ChatRenderer(tokenizer), stock_codec(tokenizer)
    chat = exchanges(1, 2, 3, 4)
    for turn in (1, 7):
        chat[turn]["reasoning_content"] = "hm " * 200

    def encode(overlong):
        options = EncodeOptions(150, "last_assistant", overlong)
        return list(encode_records([record(*chat)], renderer, codec, options))

    (cut,) = encode("truncate")
    assert said(cut)[-1] == "answer 3."
    first, lost = encode("split")
    assert said(first)[-1] == "answer 3."
    assert (lost.reason, lost.detail) == ("part too long", "turns 7 to 8 by themselves")


def test_reasoning_is_seen_in_its_field_and_in_the_text():
    assert hides_reasoning([user("q"), assistant("a", reasoning_content="r")])
    assert hides_reasoning([user("q"), assistant("<think>r</think>a")])
    assert not hides_reasoning([user("q"), assistant("a", reasoning_content=""), assistant(None)])


def test_prompts_lose_their_oldest_exchanges(tiny_tokenizer):
    def encode(messages, **settings):
        config = PromptDataConfig(sources=[{"path": "p.jsonl"}], **settings)
        encoder = PromptEncoder(config, tiny_tokenizer)
        record = Record(Chat(tuple(messages), reference="3"), Origin("p.jsonl", 1))
        (item,) = encoder.encode([record])
        if isinstance(item, Example):
            check_audit(encoder.audit([item]))
        return item

    chat = [SYSTEM, *exchanges(1, 2), user("question 3?")]
    whole = encode(chat)
    shorter = [SYSTEM, *chat[3:]]
    limit = len(encode(shorter).token_ids)
    assert whole.cut == ""
    made = encode(chat, max_tokens=limit, overlong="truncate")
    assert made.cut == "truncated"
    assert made.note == {"reference": "3", "prompt": shorter}
    assert made.token_ids.tolist() == encode(shorter).token_ids.tolist()
    assert encode(chat, max_tokens=limit).reason == "too long"
    assert encode(chat, max_tokens=5, overlong="truncate").reason == "too long"


def test_pairs_lose_the_oldest_exchanges_of_their_prompt(tiny_tokenizer):
    renderer, codec = ChatRenderer(tiny_tokenizer), stock_codec(tiny_tokenizer)

    def encode(prompt, **options):
        pair = Preference(tuple(prompt), assistant("Yes, of course."), assistant("No."))
        settings = EncodeOptions(**options)
        (item,) = encode_pairs([Record(pair, Origin("p", 1))], renderer, codec, settings)
        if isinstance(item, Example):
            check_audit(audit_pairs([item], tiny_tokenizer))
        return item

    prompt = [SYSTEM, *exchanges(1, 2), user("question 3?")]
    shorter = encode([SYSTEM, *prompt[3:]], max_tokens=4096)
    limit = shorter.lengths[0] + max(shorter.lengths[1:])
    made = encode(prompt, max_tokens=limit, overlong="truncate")
    assert made.cut == "truncated"
    assert made.token_ids.tolist() == shorter.token_ids.tolist()
    assert made.lengths == shorter.lengths
    assert encode(prompt, max_tokens=limit).reason == "too long"
    assert encode(prompt, max_tokens=9, overlong="truncate").reason == "too long"
