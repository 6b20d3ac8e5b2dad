"""Encoded training examples and packed batches, token by token, as they are trained on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.text import Text

from posttrain.data.store import ExampleStore
from posttrain.errors import DataError
from posttrain.reports.pages import write_page
from posttrain.reports.tokens import SegmentView, TokenView, view_segments

_TRAINED_STYLE = "underline bold green"
_WEIGHTED_STYLE = "underline bold yellow"
_SPECIAL_STYLE = "magenta"
_BORDER = "╎"


@dataclass(frozen=True)
class InspectedExample:
    """One encoded example with its tokens made readable."""

    index: int
    """Position in the store."""
    origin: str
    """``file:line`` of the row."""
    segments: tuple[SegmentView, ...]
    """One, or a prompt and its answers."""

    @property
    def tokens(self) -> tuple[TokenView, ...]:
        """Its tokens, segment after segment."""
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def text(self) -> str:
        """The whole example as plain text."""
        return "".join(token.text for token in self.tokens)

    def pick_text(self, *, trained: bool) -> str:
        """The text that is trained, or the rest; runs are parted by a line break."""
        return "\n".join(segment.pick_text(trained) for segment in self.segments)

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
    found = []
    for wanted in indices:
        index = wanted + len(store) if wanted < 0 else wanted
        if not 0 <= index < len(store):
            raise DataError(
                f"no example {wanted}: the data has {len(store)}",
                hint=f"choose 0 to {len(store) - 1}" if len(store) else "",
            )
        segments = tuple(view_segments(store.tree(index), tokenizer))
        found.append(InspectedExample(index, str(store.origin(index)), segments))
    return found


def collect_batch(
    store: ExampleStore, tokenizer: Any, indices: Sequence[int], *, causal: bool = True
) -> list[InspectedExample]:
    """Decode the examples of one packed batch; places and segments are numbered through it.

    Args:
        store: Encoded examples.
        tokenizer: The one they were encoded with.
        indices: Positions in the store of the examples that share the batch.
        causal: Whether the model sees only what comes before a token.

    Returns:
        One per index, in the order of the batch.
    """
    trees = list(store.forest(indices))
    segments = [segment for tree in trees for segment in tree]
    views = iter(view_segments(segments, tokenizer, causal=causal))
    return [
        InspectedExample(
            int(index), str(store.origin(int(index))), tuple(next(views) for _ in tree)
        )
        for index, tree in zip(indices, trees, strict=True)
    ]


def render_example(tokens: Sequence[TokenView], *, markers: bool | None = None) -> Text:
    """Make an example readable in a terminal or a pipe.

    Args:
        tokens: Of one example or segment.
        markers: Whether ``⟦ ⟧`` stand around what is trained, for where styles do not show;
            if not given, where standard output is no terminal.

    Returns:
        The tokens with a border between them, trained ones underlined and coloured, and a legend
        on the last line.
    """
    if markers is None:
        markers = not sys.stdout.isatty()
    shown = _render_tokens(tokens, markers=markers)
    return shown.append_text(_build_legend(tokens, markers=markers))


def _render_tokens(tokens: Sequence[TokenView], *, markers: bool) -> Text:
    shown = Text()
    bordered = True  # by the start of a line or a marker
    for weight, run in groupby(tokens, key=lambda token: token.weight):
        style = "" if not weight else _TRAINED_STYLE if weight == 1 else _WEIGHTED_STYLE
        if markers and weight:
            shown.append("⟦" if weight == 1 else f"⟦×{weight:g} ")
            bordered = True
        for token in run:
            if not bordered:
                shown.append(_BORDER, "dim")
            special = _SPECIAL_STYLE if token.special else ""
            shown.append(token.visible, f"{style} {special}".strip())
            bordered = token.visible.endswith("\n")
        if markers and weight:
            shown.append("⟧")
            bordered = True
    if tokens and not shown.plain.endswith("\n"):
        shown.append("\n")
    return shown


def _build_legend(tokens: Iterable[TokenView], *, markers: bool) -> Text:
    legend = Text()
    legend.append("trained: ", "dim")
    legend.append("⟦ ⟧" if markers else "underlined", "" if markers else _TRAINED_STYLE)
    weights = sorted({token.weight for token in tokens} - {0.0, 1.0})
    if weights:
        named = ", ".join(f"{weight:g}" for weight in weights[:8])
        legend.append("   with loss weight: ", "dim")
        legend.append(f"⟦×{weights[0]:g} ⟧" if markers else "yellow", _WEIGHTED_STYLE)
        legend.append(f" ({named})", "dim")
    signs = f"   {_BORDER} between tokens, ⏎ newline, ␣ space, · part of the next character"
    return legend.append(signs, "dim")


def render_batch(examples: Sequence[InspectedExample], *, markers: bool | None = None) -> Text:
    """Make a packed batch readable in a terminal or a pipe: a heading per segment."""
    if markers is None:
        markers = not sys.stdout.isatty()
    shown = Text()
    for example in examples:
        for segment in example.segments:
            indent = "  " * len(segment.ancestors)
            shown.append(f"{indent}── {segment.header}\n", "bold cyan")
            shown.append(f"{indent}   {example.origin}, example {example.index}\n", "dim")
            shown.append_text(_render_tokens(segment.tokens, markers=markers))
    tokens = [token for example in examples for token in example.tokens]
    return shown.append_text(_build_legend(tokens, markers=markers))


def build_inspect_page(
    examples: Sequence[InspectedExample], out: Path, *, batch: int | None = None
) -> Path:
    """Write examples as one self-contained HTML page that can be searched.

    The search is also taken from the address: ``page.html#q=word&in=trained``.

    Args:
        examples: To show, from top to bottom.
        out: File to write.
        batch: Number of the planned batch that they are; its segments are then told apart.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    tokens = [token for example in examples for token in example.tokens]
    values = {
        "examples": examples,
        "batch": batch,
        "segments": [s for example in examples for s in example.segments],
        "tokens": len(tokens),
        "trained": sum(token.trained for token in tokens),
        "weights": sorted({token.weight for token in tokens} - {0.0, 1.0}),
    }
    return write_page(out, "inspect.html.jinja", values, script="inspect.js.jinja")
