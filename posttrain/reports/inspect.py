"""Encoded training examples, token by token: what the model sees and what it is trained on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.text import Text

from posttrain.data.store import ExampleStore
from posttrain.errors import DataError
from posttrain.reports.formatting import make_visible
from posttrain.reports.pages import write_page

_PARTIAL = "·"
_UNKNOWN = "\ufffd"
_TRAINED_STYLE = "underline bold green"
_SPECIAL_STYLE = "magenta"
# A character has at most 4 bytes in UTF-8; whoever waits longer waits for bytes of no character.
_MOST_PENDING = 4


@dataclass(frozen=True)
class TokenView:
    """One token of an example."""

    index: int
    token_id: int
    piece: str
    """The token as the vocabulary writes it."""
    text: str
    """Text that it completes; empty where the following token completes the character."""
    trained: bool
    special: bool

    @property
    def visible(self) -> str:
        """Text with visible whitespace; ``·`` for a part of a character."""
        return make_visible(self.text) if self.text else _PARTIAL

    @property
    def title(self) -> str:
        """All that is known of the token, on one line."""
        state = "trained" if self.trained else "not trained"
        return f"#{self.index}  id {self.token_id}  {make_visible(self.piece)}  {state}"


@dataclass(frozen=True)
class InspectedExample:
    """One encoded example with its tokens made readable."""

    index: int
    """Position in the store."""
    origin: str
    """``file:line`` of the row."""
    tokens: tuple[TokenView, ...]

    @property
    def text(self) -> str:
        """The whole example as plain text."""
        return "".join(token.text for token in self.tokens)

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that carry loss."""
        return sum(token.trained for token in self.tokens)

    @property
    def header(self) -> str:
        """Where it comes from and its counts, on one line."""
        total, trained = len(self.tokens), self.trained_tokens
        share = f"{100 * trained / total:.0f} %" if total else "–"
        return f"{self.origin}: {total} tokens, {trained} trained ({share})"


def collect_examples(
    store: ExampleStore, tokenizer: Any, indices: Iterable[int]
) -> list[InspectedExample]:
    """Decode examples token by token.

    Args:
        store: Encoded examples.
        tokenizer: The one they were encoded with.
        indices: Positions in the store, from 0; negative ones count from the end.

    Returns:
        One per index, in their order.

    Raises:
        DataError: There is no such example.
    """
    special = _find_special_ids(tokenizer)
    found = []
    for wanted in indices:
        index = wanted + len(store) if wanted < 0 else wanted
        if not 0 <= index < len(store):
            raise DataError(
                f"no example {wanted}: the data has {len(store)}",
                hint=f"choose 0 to {len(store) - 1}" if len(store) else "",
            )
        token_ids, trained = (array.tolist() for array in store.example(index))
        texts = list(_decode_each(token_ids, tokenizer, special))
        pieces = tokenizer.convert_ids_to_tokens(token_ids)
        tokens = tuple(
            TokenView(i, token_id, str(piece), text, bool(mark), token_id in special)
            for i, (token_id, piece, text, mark) in enumerate(
                zip(token_ids, pieces, texts, trained, strict=True)
            )
        )
        found.append(InspectedExample(index, str(store.origin(index)), tokens))
    return found


def _find_special_ids(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    listed = getattr(tokenizer, "all_special_ids", None) or []
    return {i for i, token in added.items() if getattr(token, "special", False)} | set(listed)


def _decode_each(token_ids: Sequence[int], tokenizer: Any, special: set[int]) -> Iterator[str]:
    """Yield the text that each token completes; all of them together are the whole text.

    The tokens of one character are decoded together, and behind the ones before them, because
    some tokenizers drop the space of a first token.
    """
    before: list[int] = []
    for is_special, run in groupby(token_ids, key=lambda token_id: token_id in special):
        if is_special:
            before = []
            yield from (tokenizer.decode([token_id]) for token_id in run)
            continue
        pending: list[int] = []
        shown = waiting = 0
        ids = list(run)
        for position, token_id in enumerate(ids):
            pending.append(token_id)
            text = _decode_behind(before, pending, tokenizer)
            whole = text.rstrip(_UNKNOWN)
            waiting = 0 if len(whole) > shown else waiting + 1
            if text == whole or waiting >= _MOST_PENDING or position == len(ids) - 1:
                yield text[shown:]
                before, pending = pending, []
                shown = waiting = 0
            else:
                yield whole[shown:]
                shown = max(shown, len(whole))


def _decode_behind(before: list[int], pending: list[int], tokenizer: Any) -> str:
    known = tokenizer.decode(before) if before else ""
    whole = tokenizer.decode(before + pending)
    return whole[len(known) :] if whole.startswith(known) else tokenizer.decode(pending)


def render_example(tokens: Sequence[TokenView], *, markers: bool | None = None) -> Text:
    """Make an example readable in a terminal or a pipe.

    Args:
        tokens: Of one example.
        markers: Whether ``⟦ ⟧`` stand around what is trained, for where styles do not show;
            if not given, where standard output is no terminal.

    Returns:
        The tokens, trained ones underlined and coloured, and a legend on the last line.
    """
    if markers is None:
        markers = not sys.stdout.isatty()
    shown = Text()
    for trained, run in groupby(tokens, key=lambda token: token.trained):
        if trained and markers:
            shown.append("⟦")
        for token in run:
            special = _SPECIAL_STYLE if token.special else ""
            shown.append(token.visible, f"{_TRAINED_STYLE if trained else ''} {special}".strip())
        if trained and markers:
            shown.append("⟧")
    if tokens and not shown.plain.endswith("\n"):
        shown.append("\n")
    shown.append("trained: ", "dim")
    shown.append("⟦ ⟧" if markers else "underlined", "" if markers else _TRAINED_STYLE)
    shown.append("   ⏎ newline, ␣ space, · part of the next character", "dim")
    return shown


def build_inspect_page(examples: Sequence[InspectedExample], out: Path) -> Path:
    """Write examples as one self-contained HTML page with a search box.

    Args:
        examples: To show, from top to bottom.
        out: File to write.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    values = {
        "examples": examples,
        "tokens": sum(len(example.tokens) for example in examples),
        "trained": sum(example.trained_tokens for example in examples),
    }
    return write_page(out, "inspect.html.jinja", values, script="inspect.js.jinja")
