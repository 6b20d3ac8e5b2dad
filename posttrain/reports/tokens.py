"""Token ids made readable one by one: text, loss weight, and the segment they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from posttrain.layout import NO_PARENT, Segment
from posttrain.reports.formatting import make_visible

_PARTIAL = "·"
_UNKNOWN = "\ufffd"
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
    weight: float
    """Loss weight as a target; 0 is no loss."""
    special: bool

    @property
    def trained(self) -> bool:
        """Whether it carries loss."""
        return self.weight != 0

    @property
    def visible(self) -> str:
        """Text with visible whitespace; ``·`` for a part of a character."""
        return make_visible(self.text) if self.text else _PARTIAL

    @property
    def title(self) -> str:
        """All that is known of the token, on one line."""
        state = "trained" if self.trained else "not trained"
        weight = f", loss weight {self.weight:g}" if self.weight not in (0, 1) else ""
        special = "  special" if self.special else ""
        return (
            f"#{self.index}  id {self.token_id}  {make_visible(self.piece)}{special}  "
            f"{state}{weight}"
        )

    @property
    def style(self) -> str:
        """Classes of the page: trained, weighted, special, part of a character."""
        trained = ("t" if self.weight == 1 else "w") if self.trained else ""
        parts = [trained, "s" if self.special else "", "" if self.text else "p"]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class SegmentView:
    """A run of tokens of a packed batch, and what its tokens may attend to."""

    number: int
    """In the batch, from 0."""
    parent: int
    """Segment that it continues, or ``layout.NO_PARENT``."""
    ancestors: tuple[int, ...]
    """Segments that all of its tokens see whole, the root first."""
    start: int
    """Place of its first token in the batch."""
    position: int
    """Position of its first token as the model is told."""
    tokens: tuple[TokenView, ...]
    causal: bool = True
    """Whether a token sees only what comes before it."""

    def pick_text(self, trained: bool | None = None) -> str:
        """All of its text, or that which is trained or is not; runs stand on lines of their own."""
        if trained is None:
            return "".join(token.text for token in self.tokens)
        runs = groupby(self.tokens, key=lambda token: token.trained)
        return "\n".join("".join(t.text for t in run) for mark, run in runs if mark == trained)

    @property
    def end(self) -> int:
        """Place after its last token."""
        return self.start + len(self.tokens)

    @property
    def header(self) -> str:
        """Its place, its positions, and where attention may look, on one line."""
        last = self.position + len(self.tokens) - 1
        continues = f", continues segment {self.parent}" if self.parent != NO_PARENT else ""
        own = "sees what is before it" if self.causal else "sees itself both ways"
        sees = " and ".join([own, *(f"all of segment {number}" for number in self.ancestors)])
        return (
            f"segment {self.number}{continues}: tokens {self.start}–{self.end - 1}, "
            f"positions {self.position}–{last}, {sees}"
        )


def view_segments(
    segments: Sequence[Segment], tokenizer: Any, *, causal: bool = True
) -> list[SegmentView]:
    """Make the segments of a batch readable.

    Args:
        segments: Parents before their children, numbered within the batch.
        tokenizer: The one they were encoded with.
        causal: Whether a token sees only what comes before it.

    Returns:
        One view per segment; places and positions are those of ``layout.build_batch``.
    """
    special = find_special_ids(tokenizer)
    views: list[SegmentView] = []
    start = 0
    for number, segment in enumerate(segments):
        parent = views[segment.parent] if segment.parent != NO_PARENT else None
        position = parent.position + len(parent.tokens) if parent else 0
        ancestors = (*parent.ancestors, parent.number) if parent else ()
        tokens = tuple(_view_tokens(segment, start, tokenizer, special))
        views.append(
            SegmentView(number, segment.parent, ancestors, start, position, tokens, causal)
        )
        start += len(tokens)
    return views


def _view_tokens(
    segment: Segment, start: int, tokenizer: Any, special: set[int]
) -> Iterator[TokenView]:
    token_ids, weights = segment.token_ids.tolist(), segment.weights.tolist()
    texts = _decode_each(token_ids, tokenizer, special)
    pieces = tokenizer.convert_ids_to_tokens(token_ids)
    parts = zip(token_ids, pieces, texts, weights, strict=True)
    for index, (token_id, piece, text, weight) in enumerate(parts, start):
        yield TokenView(index, token_id, str(piece), text, float(weight), token_id in special)


def find_special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that are more than text."""
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
