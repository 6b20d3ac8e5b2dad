"""A JSON of prefixes and suffixes, one pair for each role -> a chat template in Jinja."""

from __future__ import annotations

import json

from posttrain.errors import ConfigError

_ROLES = ("system", "user", "assistant")
_KEYS = tuple(f"{role}_{side}" for role in _ROLES for side in ("prefix", "suffix"))


def compile_prefixes(text: str, place: str) -> str:
    r"""Turn prefixes and suffixes into a chat template.

    A turn is its role's prefix, its content as it stands, and its role's suffix; where an answer
    is to be written, ``assistant_prefix`` stands last. Other roles are refused.

    Args:
        text: The JSON, such as ``{"user_prefix": "<|im_start|>user\n", ...}``.
        place: What to call it in messages.

    Returns:
        The template.

    Raises:
        ConfigError: It is no JSON object with these six texts.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{place}: is no JSON object", hint=f"its keys are {', '.join(_KEYS)}")
    if wrong := [key for key in (*_KEYS, *given) if (key in _KEYS) != (key in given)]:
        problem = "is missing" if wrong[0] in _KEYS else "is no key of such a template"
        raise ConfigError(
            f"{place}: `{wrong[0]}` {problem}", hint=f"its keys are {', '.join(_KEYS)}"
        )
    if wrong := [key for key in _KEYS if not isinstance(given[key], str)]:
        raise ConfigError(f"{place}: `{wrong[0]}` is no text")
    # What Python writes for a text, Jinja reads as that text.
    quoted = {key: repr(given[key]) for key in _KEYS}
    turns = "".join(
        f"{{%- {'elif' if number else 'if'} message['role'] == '{role}' %}}"
        f"{{{{- {quoted[f'{role}_prefix']} + (message['content'] or '')"
        f" + {quoted[f'{role}_suffix']} }}}}"
        for number, role in enumerate(_ROLES)
    )
    return (
        f"{{%- for message in messages %}}{turns}"
        "{%- else %}{{- raise_exception('no prefix for the role ' + message['role']) }}{%- endif %}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {quoted['assistant_prefix']} }}}}{{%- endif %}}"
    )
