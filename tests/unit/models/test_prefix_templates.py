import json
from pathlib import Path

import pytest

from posttrain.config.load import build_settings
from posttrain.config.model import ModelConfig
from posttrain.data.records import Chat
from posttrain.data.templates import ChatRenderer
from posttrain.errors import ConfigError
from posttrain.models.load import load_tokenizer
from posttrain.models.prefix_templates import read_template, shipped_templates

CHATML = {
    f"{role}_{side}": f"<|im_start|>{role}\n" if side == "prefix" else "<|im_end|>\n"
    for role in ("system", "user", "assistant")
    for side in ("prefix", "suffix")
}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": " 1\n"},
]


@pytest.fixture
def load(cache_dir, tmp_path):
    """Load the tiny tokenizer with a template file."""

    def read(content, name="template.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_tokenizer(ModelConfig(path="tiny", chat_template=path))

    return read


def render(tokenizer, turns, prompt=False):
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)


def test_chatml_as_prefixes_renders_what_chatml_renders(load):
    tokenizer = load(CHATML)
    own = load_tokenizer(ModelConfig(path="tiny"))
    for prompt, turns in ((True, TURNS[:2]), (True, TURNS[1:2]), (False, TURNS)):
        assert render(tokenizer, turns, prompt) == render(own, turns, prompt)


@pytest.mark.parametrize(
    "odd", ["{{ x }}", "%}{# y", 'it\'s "so"', "a\\n", "【用户】\n", "😀", "\t \n", ""]
)
def test_every_text_comes_out_as_it_stands(load, odd):
    tokenizer = load({key: f"{odd}<{key}>{odd}" for key in CHATML})
    turns = [{"role": "user", "content": odd}]
    prefix, suffix, begin = (
        f"{odd}<{key}>{odd}" for key in ("user_prefix", "user_suffix", "assistant_prefix")
    )
    assert render(tokenizer, turns, True) == f"{prefix}{odd}{suffix}{begin}"


def test_another_role_is_refused(load):
    with pytest.raises(Exception, match="no prefix for the role tool"):
        render(load(CHATML), [{"role": "tool", "content": "7"}])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ("not valid JSON",)),
        ("[]", ("no JSON object", "user_prefix")),
        ({k: v for k, v in CHATML.items() if k != "user_suffix"}, ("`user_suffix` is missing",)),
        ({**CHATML, "tool_prefix": ""}, ("`tool_prefix` is no key", "assistant_suffix")),
        ({**CHATML, "user_prefix": None}, ("`user_prefix` is no text",)),
        ({**CHATML, "generation_prompt": "<|im"}, None),
        ({**CHATML, "generation_prompt": "x"}, ("`generation_prompt` is no start",)),
    ],
)
def test_mistakes_are_one_line(load, content, parts):
    if parts is None:
        load(content)
        return
    with pytest.raises(ConfigError) as error:
        load(content)
    assert "\n" not in str(error.value)
    assert "template.json" in str(error.value)
    for part in parts:
        assert part in str(error.value)


NAMES = ["baichuan2_chat", "chatglm3", "deepseek_chat", "llama3_instruct", "qwen2_chatml"]
TALK = [*TURNS, {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}]


def test_templates_that_come_with_the_package():
    assert shipped_templates() == NAMES


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        (
            "qwen2_chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
            "<|im_start|>assistant\n 1\n<|im_end|>\n|<|im_start|>assistant\n",
        ),
        (
            "llama3_instruct",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n 1\n<|eot_id|>"
            "|<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "chatglm3",
            "[gMASK]sop<|system|>\n Be brief.<|user|>\n One?<|assistant|>\n  1\n</s>|<|assistant|>",
        ),
        ("baichuan2_chat", "Be brief.<reserved_106>One?<reserved_107> 1\n</s>|<reserved_107>"),
        (
            "deepseek_chat",
            "<｜begin▁of▁sentence｜>Be brief.\n\nUser: One?\n\nAssistant:  1\n"
            "<｜end▁of▁sentence｜>|Assistant:",
        ),
    ],
)
def test_shipped_templates_by_name(cache_dir, name, rendered):
    tokenizer = load_tokenizer(ModelConfig(path="tiny", chat_template=Path(name)))
    prompt = render(tokenizer, TURNS[:2], prompt=True)
    opened = prompt.removeprefix(render(tokenizer, TURNS[:2]))

    assert f"{render(tokenizer, TURNS)}|{opened}" == rendered


def test_a_file_of_the_same_name_goes_before_a_shipped_template(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = build_settings(ModelConfig, {"path": "tiny"}, ["chat_template=chatglm3"])
    assert named.chat_template == Path("chatglm3")
    (tmp_path / "chatglm3").write_text("{{ 1 }}")
    filed = build_settings(ModelConfig, {"path": "tiny"}, ["chat_template=chatglm3"])

    assert filed.chat_template == tmp_path / "chatglm3"
    assert read_template(filed.chat_template) == "{{ 1 }}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("train_on", ["all_assistant", "completion"])
def test_masks_are_those_of_the_generation_marks(cache_dir, name, train_on):
    tokenizer = load_tokenizer(ModelConfig(path="tiny", chat_template=Path(name)))
    suffix = {"baichuan2_chat": "</s>", "chatglm3": "</s>", "llama3_instruct": "<|eot_id|>"}
    end = suffix.get(name, "<｜end▁of▁sentence｜>" if name == "deepseek_chat" else "<|im_end|>")
    tokenizer.add_special_tokens({"eos_token": end})
    turns = TALK if train_on == "all_assistant" else TALK[:3]
    marked = tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    pieces = ChatRenderer(tokenizer).split_trained(Chat(tuple(turns)), train_on)

    ids = [tokenizer(p.text, add_special_tokens=False)["input_ids"] for p in pieces]
    assert marked["input_ids"] == [token for part in ids for token in part]
    assert marked["assistant_masks"] == [
        int(bool(p.weight)) for p, part in zip(pieces, ids, strict=True) for _ in part
    ]


@pytest.mark.parametrize(
    ("name", "real", "gone"),
    [
        ("qwen2_chatml", "from_tokenizer_config/qwen2-instruct", ""),
        ("chatglm3", "llamacpp_chatglm3", "</s>"),
        ("deepseek_chat", "deepseek-llm-chat_and_v2", ""),
    ],
)
def test_shipped_templates_are_those_of_the_models(cache_dir, shared_data, name, real, gone):
    tokenizer = load_tokenizer(ModelConfig(path="tiny", chat_template=Path(name)))
    tokenizer.add_special_tokens(
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    )
    own = [render(tokenizer, TALK), render(tokenizer, TALK[:4], prompt=True)]
    tokenizer.chat_template = read_template(shared_data / f"chat_templates/{real}.jinja")

    assert [text.replace(gone, "") if gone else text for text in own] == [
        render(tokenizer, TALK),
        render(tokenizer, TALK[:4], prompt=True),
    ]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("qwen_chatml", ("qwen_chatml", "did you mean qwen2_chatml")),
        ("nothing_like_it", ("nothing_like_it", "there are baichuan2_chat, chatglm3")),
        ("none/here.json", ("none/here.json", "no such file")),
    ],
)
def test_names_and_files_that_are_not_there(given, parts):
    with pytest.raises(ConfigError) as error:
        read_template(Path(given))
    for part in parts:
        assert part in f"{error.value} {error.value.hint}"
