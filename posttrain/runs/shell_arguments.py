"""Flags of a shell script that starts a training, read without running any of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

_FLAG = re.compile(r"--([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_END = "\n"
_OPERATORS = "();<>|&" + _END


def read_flags(text: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Read the ``--flag value`` words of a script; strings of flags in a variable are read too.

    Args:
        text: The script.

    Returns:
        Values by flag, with ``_`` for ``-``; of two the later one, as a program would take them. A
        flag without a value is true, one with several is a list. Then the flags whose value only
        the shell knows, each with that value.

    Raises:
        ValueError: A quotation is not closed.
    """
    words = list(_split(text))
    assignments = filter(None, map(_ASSIGNMENT.fullmatch, words))
    variables = {match[1]: match[2] for match in assignments}
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if match := _FLAG.fullmatch(word):
            values = given[match[1].replace("-", "_")] = [] if match[2] is None else [match[2]]
        elif word == _END or (word.startswith("-") and not word[1:2].isdigit()):
            values = []  # what follows belongs to no flag
        else:
            values.append(word)
    known, unknown = {}, []
    for name, found in given.items():
        settled = [_fill_in(value, variables) for value in found]
        if any("$" in value or "`" in value for value in settled):
            unknown.append((name, " ".join(found)))
        else:
            plain = [_read_value(value) for value in settled]
            known[name] = True if not plain else plain[0] if len(plain) == 1 else plain
    return known, unknown


def _split(text: str) -> Iterator[str]:
    """Yield words, taken out of quotes; the end of a command is a line's end."""
    joined = re.sub(r"\\\r?\n", " ", text)
    joined = re.sub(r"(?<=\s)\d+(?=[<>])", "", joined)  # the 2 of 2>&1 is no value
    lexer = shlex.shlex(
        "\n".join(map(_cut_comment, joined.splitlines())),
        posix=True,
        punctuation_chars=_OPERATORS,
    )
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    for word in lexer:
        assignment = _ASSIGNMENT.fullmatch(word)
        inner = assignment[2] if assignment else word
        if set(word) <= set(_OPERATORS):
            yield _END
        elif re.search(r"(^|\s)--[A-Za-z]", inner) and re.search(r"\s", inner):
            yield from _split(inner)
            yield _END
        else:
            yield word


def _cut_comment(line: str) -> str:
    for found in re.finditer(r"(^|\s)#", line):
        before = line[: found.start()]
        if before.count('"') % 2 == 0 and before.count("'") % 2 == 0:
            return before
    return line


def _fill_in(value: str, variables: dict[str, str]) -> str:
    """Put a variable's value in its place where the script itself gives a plain one."""

    def replace(match: re.Match[str]) -> str:
        text = variables.get(match[1] or match[2])
        return match[0] if text is None or "$" in text else text

    return _VARIABLE.sub(replace, value)


def _read_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
