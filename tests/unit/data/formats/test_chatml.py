import pytest

from posttrain.data.formats.chatml import convert_chatml, parse_chatml, parse_prompt, strip_answer

MESSAGES = (
    {"role": "system", "content": "s"},
    {"role": "user", "content": "a\n\nb"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "<|im|> d"},
    {"role": "assistant", "content": "e"},
)


def render(messages):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def test_rendered_text_becomes_the_messages_again():
    chat = convert_chatml({"text": render(MESSAGES), "metadata": {"id": 1}, "id": "x"})

    assert chat.messages == MESSAGES
    assert chat.keys == {"metadata.id": "1", "id": "x"}
    assert parse_chatml(render(MESSAGES).strip()) == MESSAGES


def test_what_a_template_writes_around_an_answer_is_no_part_of_it():
    answer = {"role": "assistant", "content": "<think>\n\n</think>\n\nc"}

    assert parse_chatml(render([MESSAGES[1], answer]))[1]["content"] == "c"
    assert strip_answer("<think>\n\n</think>\n\nc<|im_end|>\n") == "c"
    assert strip_answer("<think>\nwhy\n</think>\n\nc ") == "<think>\nwhy\n</think>\n\nc "


@pytest.mark.parametrize("thinking", ["", "<think>\n\n</think>\n\n"])
def test_a_prompt_ends_with_the_header(thinking):
    text = render(MESSAGES[:2]) + "<|im_start|>assistant\n" + thinking

    assert parse_prompt(text) == MESSAGES[:2]


GOOD = render(MESSAGES[1:3])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no `text`"),
        ("plain", "not ChatML"),
        (GOOD + "<|im_start|>assistant\n", "not ChatML"),
        (GOOD + "<|im_start|>user\ncut", "not ChatML"),
        ("before " + GOOD, "not ChatML"),
        (GOOD + "after", "not ChatML"),
        ("<|im_start|>user\na <|im_start|>user\nb<|im_end|>", "not ChatML"),
        (GOOD.replace("user", "narrator"), "not ChatML"),
        (GOOD.replace("c<", "<tool_call>\n{}\n</tool_call><"), "tool calls inside rendered text"),
        (GOOD.replace("a\n", "<tool_response>1"), "tool calls inside rendered text"),
    ],
)
def test_text_that_could_mean_something_else_is_refused(text, expected, reason):
    assert reason(convert_chatml, {"text": text}) == expected


@pytest.mark.parametrize("text", [GOOD, "q", GOOD + "<|im_start|>assistant\nbegun"])
def test_a_prompt_without_the_header_is_refused(text, reason):
    assert reason(parse_prompt, text) == (
        "the rendered prompt does not end with the assistant's header"
    )
