"""Proof, before the first step, that what is trained is what was meant.

The masks were made by construction; the audit looks at the finished token ids and asks other
questions than the construction did, partly through the tokenizer's own untouched code path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posttrain.data.encode import Example
from posttrain.errors import DataError

_SAMPLE = 200


@dataclass
class AuditCheck:
    """One question and what came of it."""

    name: str
    checked: int = 0
    failures: int = 0
    examples: list[str] = field(default_factory=list)
    """Origins of the first failing rows."""


def audit_examples(examples: Sequence[Example], tokenizer: Any) -> list[AuditCheck]:
    """Check every encoded example, and a sample of them against the tokenizer itself.

    Args:
        examples: Encoded records; at least one.
        tokenizer: The model's tokenizer.

    Returns:
        One entry per check, failures counted.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    size = len(tokenizer)
    questions: list[tuple[str, Callable[[Example], bool]]] = [
        ("at least one trained token", lambda e: bool(e.trained.any())),
        ("first token untrained (nothing predicts it)", lambda e: not e.trained[0]),
        ("each trained turn ends with its end token", lambda e: _ends_special(e, special)),
        ("no end or begin token twice in a row", lambda e: not _repeats(e, special)),
        (
            "every id is in the vocabulary",
            lambda e: 0 <= e.token_ids.min() <= e.token_ids.max() < size,
        ),
    ]
    checks = [_ask(name, examples, question) for name, question in questions]
    step = max(1, len(examples) // _SAMPLE)
    sample = examples[::step]
    checks.append(
        _ask(
            "training prompt = tokenizer's inference prompt (sample)",
            sample,
            lambda e: _prompt_matches(e, tokenizer),
        )
    )
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        checks.append(
            _ask(
                "mask = template's own generation marks (sample)",
                [e for e in sample if not e.retokenized],
                lambda e: _marks_match(e, tokenizer),
            )
        )
    return checks


def audit_pairs(examples: Sequence[Example], tokenizer: Any) -> list[AuditCheck]:
    """Check encoded preference pairs; a sample of their prompts against the tokenizer itself.

    Args:
        examples: Trees of prompt, chosen and rejected; at least one.
        tokenizer: The model's tokenizer.

    Returns:
        One entry per check, failures counted.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    step = max(1, len(examples) // _SAMPLE)
    return [
        _ask(
            "prompt untrained, both answers trained",
            examples,
            lambda e: not e.trained[: e.lengths[0]].any() and bool(e.trained[e.lengths[0] :].all()),
        ),
        _ask(
            "each answer ends with its end token",
            examples,
            lambda e: all(int(e.token_ids[i - 1]) in special for i in np.cumsum(e.lengths)[1:]),
        ),
        _ask(
            "training prompt = tokenizer's inference prompt (sample)",
            examples[::step],
            lambda e: (
                e.token_ids[: e.lengths[0]].tolist()
                == _inference_prompt(e.record.content, tokenizer)
            ),
        ),
    ]


def audit_prompts(examples: Sequence[Example], tokenizer: Any) -> list[AuditCheck]:
    """Check a sample of prompts against the tokenizer's own.

    Args:
        examples: Prompts; at least one.
        tokenizer: The model's tokenizer.

    Returns:
        One entry per check, failures counted.
    """
    step = max(1, len(examples) // _SAMPLE)
    return [
        _ask(
            "training prompt = tokenizer's inference prompt (sample)",
            examples[::step],
            lambda e: e.token_ids.tolist() == _inference_prompt(e.record.content, tokenizer),
        )
    ]


def audit_text(examples: Sequence[Example], tokenizer: Any) -> list[AuditCheck]:
    """Check blocks of plain text.

    Args:
        examples: Blocks; at least one.
        tokenizer: The model's tokenizer.

    Returns:
        One entry per check, failures counted.
    """
    size = len(tokenizer)
    return [
        _ask(
            "every token but a block's first is trained",
            examples,
            lambda e: bool(e.trained[1:].all()) and not e.trained[0],
        ),
        _ask(
            "every id is in the vocabulary",
            examples,
            lambda e: 0 <= e.token_ids.min() <= e.token_ids.max() < size,
        ),
    ]


def check_audit(checks: Sequence[AuditCheck]) -> None:
    """Stop where a check failed.

    Raises:
        DataError: Names the check, the number of rows and the first ones.
    """
    for check in checks:
        if check.failures:
            raise DataError(
                f"mask audit: {check.failures} of {check.checked} rows fail "
                f"“{check.name}”, the first at {', '.join(check.examples)}",
                hint="look at one with `posttrain inspect`",
            )


def _ask(name: str, examples: Sequence[Example], good: Callable[[Example], bool]) -> AuditCheck:
    check = AuditCheck(name)
    for example in examples:
        check.checked += 1
        if not good(example):
            check.failures += 1
            if len(check.examples) < 3:
                check.examples.append(str(example.record.origin))
    return check


def _ends_special(example: Example, special: set[int]) -> bool:
    """Whether each trained run's last token is a special one."""
    padded: np.ndarray[Any, Any] = np.append(example.trained, False)
    last = np.flatnonzero(padded[:-1] & ~padded[1:])
    return all(int(example.token_ids[i]) in special for i in last)


def _repeats(example: Example, special: set[int]) -> bool:
    ids = example.token_ids
    same = np.flatnonzero(ids[1:] == ids[:-1])
    return any(int(ids[i]) in special for i in same)


def _prompt_matches(example: Example, tokenizer: Any) -> bool:
    """Whether the ids before the last trained run are those the tokenizer itself would give."""
    prompt = _inference_prompt(example.record.content, tokenizer)
    starts = _run_starts(example.trained)
    return len(starts) > 0 and example.token_ids[: starts[-1]].tolist() == prompt


def _inference_prompt(content: Any, tokenizer: Any) -> list[int]:
    """Ids of a content's prompt as the tokenizer itself gives them."""
    return list(
        tokenizer.apply_chat_template(
            list(content.prompt),
            tools=list(content.tools) or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    )


def _run_starts(trained: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where each run of trained tokens starts, [runs]."""
    padded: np.ndarray[Any, Any] = np.append(False, trained)
    return np.flatnonzero(~padded[:-1] & padded[1:])


def _marks_match(example: Example, tokenizer: Any) -> bool:
    chat: Any = example.record.content
    marked = tokenizer.apply_chat_template(
        list(chat.messages),
        tools=list(chat.tools) or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    mask = np.asarray(marked["assistant_masks"], dtype=bool)
    trained = example.trained
    if len(mask) != len(trained) or not mask[trained].all():
        return False
    # Each marked run holds a trained one; it may be longer, as by the line break after a turn.
    # Where only the last turn is trained, the marks of earlier turns have no counterpart.
    runs = _run_starts(mask)
    ends = [*runs[1:], len(mask)]
    matched = [bool(trained[a:b].any()) for a, b in zip(runs, ends, strict=True)]
    return all(matched[matched.index(True) :]) if any(matched) else False
