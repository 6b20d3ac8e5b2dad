"""A JSON of prefixes and suffixes, one pair for each role -> a chat template in Jinja."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError

_ROLES = ("system", "user", "assistant")
_KEYS = tuple(f"{role}_{side}" for role in _ROLES for side in ("prefix", "suffix"))
_OPTIONAL = ("begin", "generation_prompt")
_HINT = f"its keys are {', '.join(_KEYS)}; {' and '.join(_OPTIONAL)} may be left away"
_SHIPPED = Path(__file__).with_name("chat_templates")


def shipped_templates() -> list[str]:
    """Names of the templates that come with this package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def find_template(given: Path) -> Path:
    """Find a template's file: the given one, or a shipped one by its name.

    Raises:
        ConfigError: There is no such file, and no such name.
    """
    if given.is_file():
        return given
    if given.name in shipped_templates() and (given == Path(given.name)):
        return _SHIPPED / f"{given.name}.json"
    if given.suffix:
        raise ConfigError(f"model.chat_template {given}: there is no such file")
    near = difflib.get_close_matches(given.name, shipped_templates(), n=2, cutoff=0.4)
    names = f"did you mean {' or '.join(near)}?" if near else f"{', '.join(shipped_templates())}"
    raise ConfigError(
        f"model.chat_template {given.name}: no template of this name comes with posttrain",
        hint=f"{names if near else f'there are {names}'} A file is given by its path",
    )


def read_template(given: Path) -> str:
    """Read a chat template: Jinja, or a `.json` of prefixes and suffixes.

    Args:
        given: A file, or the name of a shipped template.

    Returns:
        The template in Jinja.

    Raises:
        ConfigError: It cannot be read, or is no template.
    """
    path = find_template(given)
    place = f"model.chat_template {given}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: {error}") from error
    return compile_prefixes(text, place) if path.suffix.lower() == ".json" else text


def compile_prefixes(text: str, place: str) -> str:
    r"""Turn prefixes and suffixes into a chat template.

    A conversation opens with ``begin``. A turn is its role's prefix, its content as it stands, and
    its role's suffix; other roles are refused. Where an answer is to be written,
    ``generation_prompt`` stands last: ``assistant_prefix``, or a start of it where the model is to
    write the rest, such as the space before the first word. What the model writes, the suffix
    without the space at its end included, is marked as generated.

    Args:
        text: The JSON, such as ``{"user_prefix": "<|im_start|>user\n", ...}``.
        place: What to call it in messages.

    Returns:
        The template.

    Raises:
        ConfigError: It is no JSON object with these texts.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{place}: not valid JSON: {error}") from error
    _check(given, place)
    prompt = given.get("generation_prompt", given["assistant_prefix"])
    if not given["assistant_prefix"].startswith(prompt):
        raise ConfigError(f"{place}: `generation_prompt` is no start of `assistant_prefix`")
    # What Python writes for a text, Jinja reads as that text.
    system, user = (
        f"{{{{- {given[f'{role}_prefix']!r} + (message['content'] or '')"
        f" + {given[f'{role}_suffix']!r} }}}}"
        for role in ("system", "user")
    )
    end = given["assistant_suffix"].rstrip()
    written = f"{given['assistant_prefix'][len(prompt) :]!r} + (message['content'] or '') + {end!r}"
    return (
        f"{{{{- {given.get('begin', '')!r} }}}}"
        "{%- for message in messages %}"
        f"{{%- if message['role'] == 'system' %}}{system}"
        f"{{%- elif message['role'] == 'user' %}}{user}"
        "{%- elif message['role'] == 'assistant' %}"
        f"{{{{- {prompt!r} }}}}{{% generation %}}{{{{- {written} }}}}{{% endgeneration %}}"
        f"{{{{- {given['assistant_suffix'][len(end) :]!r} }}}}"
        "{%- else %}{{- raise_exception('no prefix for the role ' + message['role']) }}{%- endif %}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {prompt!r} }}}}{{%- endif %}}"
    )


def _check(given: Any, place: str) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"{place}: is no JSON object", hint=_HINT)
    for key in _KEYS:
        if key not in given:
            raise ConfigError(f"{place}: `{key}` is missing", hint=_HINT)
    for key, value in given.items():
        if key not in (*_KEYS, *_OPTIONAL):
            raise ConfigError(f"{place}: `{key}` is no key of such a template", hint=_HINT)
        if not isinstance(value, str):
            raise ConfigError(f"{place}: `{key}` is no text")
