import json

import pytest

from posttrain.config.model import ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.load import load_tokenizer

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
    ],
)
def test_mistakes_are_one_line(load, content, parts):
    with pytest.raises(ConfigError) as error:
        load(content)
    assert "\n" not in str(error.value)
    assert "template.json" in str(error.value)
    for part in parts:
        assert part in str(error.value)
