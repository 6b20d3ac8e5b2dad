"""Which merges save the most tokens: BPE training that goes on where the tokenizer's ended.

Each text is encoded first. A token of that encoding counts as one letter, and BPE is trained on
words of such letters, so that the first merge joins two tokens that really stand beside each other
in the tokenizer's own output. First the parts of single characters are joined, where a character
has several tokens; then whole characters. No token ends within a character after others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from posttrain.logs import Progress
from posttrain.vocabulary.bpe import ByteBpe, Merge, to_text

# Unicode from here on has room for a million ids, and nothing that a pre-tokenizer cuts at.
_FIRST_LETTER = 0x10000
_MOST_IDS = 0x110000 - _FIRST_LETTER
_BATCH = 512


@dataclass(frozen=True)
class Learned:
    """The extended tokenizer and what its new tokens are good for."""

    bpe: ByteBpe
    uses: dict[str, int]
    """New token -> how often its merge is applied in the texts it was learned from; each time
    saves a token."""
    candidates: int
    """Merges that were found before the best were taken."""


def learn_tokens(
    base: ByteBpe,
    texts: Sequence[str],
    *,
    new_tokens: int,
    min_frequency: int,
    max_characters: int,
) -> Learned:
    """Learn the merges that shorten texts most.

    Args:
        base: The tokenizer to go on from.
        texts: Documents.
        new_tokens: Most merges to add; each makes one token.
        min_frequency: Tokens that each must save in ``texts``.
        max_characters: Longest token.

    Returns:
        The tokenizer with the best merges at its end; none where nothing is frequent enough.
    """
    grown = base
    for inside in (True, False):
        merges = _train(grown, texts, inside=inside, limit=new_tokens, least=min_frequency)
        grown = grown.extend(_choose_clean(grown, merges, max_characters))
    uses = count_uses(grown, texts)
    # A merge is applied at least as often as one that needs its token, and comes before it: the
    # best of this order never need one that is left out.
    best = sorted(grown.new_ids, key=lambda token: -uses[token])[:new_tokens]
    kept = {token for token in best if uses[token] >= min_frequency}
    chosen = base.extend(pair for pair in grown.added if "".join(pair) in kept)
    return Learned(chosen, count_uses(chosen, texts), len(grown.added))


def count_uses(bpe: ByteBpe, texts: Sequence[str]) -> dict[str, int]:
    """Count how often each added merge is applied, also on the way to a longer token."""
    seen: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        for encoding in bpe.encode(texts[start : start + _BATCH]):
            seen.update(id_ for id_ in encoding.ids if id_ >= bpe.first_new_id)
    uses = {token: seen[id_] for token, id_ in bpe.new_ids.items()}
    for pair in reversed(bpe.added):
        for part in pair:
            if part in uses:
                uses[part] += uses["".join(pair)]
    return uses


def _train(
    bpe: ByteBpe, texts: Sequence[str], *, inside: bool, limit: int, least: int
) -> list[tuple[list[str], list[str]]]:
    """Train BPE on encoded texts.

    Returns:
        Merges in order, each side as the tokens of ``bpe`` that it is made of.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = list(_spell_texts(bpe, texts, inside=inside))
    letters = set().union(*lines) - {" "}
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + limit, min_frequency=least, show_progress=False
    )
    trained.train_from_iterator(lines, trainer)
    names = {id_: token for token, id_ in bpe.token_ids.items()}
    found = json.loads(trained.to_str())["model"]["merges"]
    return [
        (
            [names[ord(a) - _FIRST_LETTER] for a in left],
            [names[ord(b) - _FIRST_LETTER] for b in right],
        )
        for left, right in found
    ]


def _choose_clean(
    bpe: ByteBpe, merges: Iterable[tuple[list[str], list[str]]], max_characters: int
) -> list[Merge]:
    """Leave out merges to a token that exists or is too long, and all that need such a token.

    A token that exists already is one that the tokenizer does not reach from these pieces. Another
    way to it would let older merges go on from there, and the encoding would be a new one.
    """
    made: dict[tuple[str, ...], str] = {}
    known = set(bpe.token_ids)
    chosen = []
    for left, right in merges:
        sides = [made.get(tuple(side)) if len(side) > 1 else side[0] for side in (left, right)]
        token = "".join(left + right)
        text = to_text(token)
        if None in sides or token in known or (text is not None and len(text) > max_characters):
            continue
        known.add(token)
        made[*left, *right] = token
        chosen.append((str(sides[0]), str(sides[1])))
    return chosen


def _spell_texts(bpe: ByteBpe, texts: Sequence[str], *, inside: bool) -> Iterator[str]:
    """Write each text's encoding with one letter a token and a space between words.

    Args:
        bpe: Encodes.
        texts: Documents.
        inside: Write the characters that have several tokens; else the stretches of tokens that
            are whole characters.
    """
    tokens = {id_: token for token, id_ in bpe.token_ids.items()}
    assert max(tokens) < _MOST_IDS
    whole = {id_ for id_, token in tokens.items() if to_text(token) is not None}
    spelled: dict[tuple[int, ...], str] = {}
    progress = Progress("reading", len(texts), "documents")
    for start in range(0, len(texts), _BATCH):
        progress.update(start)
        for encoding in bpe.encode(texts[start : start + _BATCH]):
            words = []
            for _, group in groupby(zip(encoding.word_ids, encoding.ids, strict=True), _first):
                word = tuple(id_ for _, id_ in group)
                if word not in spelled:
                    units = _cut_units(word, whole, tokens)
                    spelled[word] = " ".join(_spell_units(units, inside=inside))
                words.append(spelled[word])
            yield " ".join(word for word in words if word)


def _first(pair: tuple[int | None, int]) -> int | None:
    return pair[0]


def _cut_units(word: Iterable[int], whole: set[int], tokens: dict[int, str]) -> list[list[int]]:
    """Cut a word into the shortest series of tokens that are whole characters."""
    units: list[list[int]] = []
    unit: list[int] = []
    for id_ in word:
        unit.append(id_)
        if (len(unit) == 1 and id_ in whole) or to_text("".join(map(tokens.__getitem__, unit))):
            units.append(unit)
            unit = []
    return [*units, unit] if unit else units


def _spell_units(units: list[list[int]], *, inside: bool) -> Iterator[str]:
    if inside:
        stretches = [unit for unit in units if len(unit) > 1]
    else:
        runs = groupby(units, lambda unit: len(unit) == 1)
        stretches = [[id_ for unit in run for id_ in unit] for single, run in runs if single]
    for stretch in stretches:
        if len(stretch) > 1:
            yield "".join(chr(_FIRST_LETTER + id_) for id_ in stretch)
