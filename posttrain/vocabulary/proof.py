"""What must hold of an extended tokenizer and its model, and how much shorter texts become.

Shapes: T tokens, V rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.errors import VerificationError
from posttrain.vocabulary.bpe import ByteBpe

LOGIT_TOLERANCE = 1e-5
"""Largest difference of a logit, as a share of the largest logit (at least 1)."""
_LOGIT_TEXTS, _LOGIT_TOKENS = 4, 64
_SHOWN = 60

HOSTILE = (
    "", " ", "   ", "\n", "\n\n \n", "\t\tx", "a  b   c    d", " leading", "trailing ", "\r\n\r\n",
    "😀", "👩‍👩‍👧‍👦 and 🇨🇳🇫🇷", "e\u0301 is not é", "ﬁ ligature, ① circled, ｆｕｌｌ width",
    "中文English混合ไทยالعربيةहिन्दीעברית日本語한국어", "𠮷野家 𓀀 𝒳", "zero\u200bwidth\u200d\ufeff",
    "\u2028\u2029\u00a0\u3000", "\x00\x01\x1b[31m", "don't DON'T we'll I'M", "12345 3.14 1,000",
    "<|im_end", "<|im_end|", "im_end|>", "< |im_end|>", "<|not_special|>", "<s></s><pad>[CLS]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "的的的的的的的的的的的的", "\ufffd", "😀的😀的",
)  # fmt: skip
"""Strings on which tokenizers break."""


def check_tokenizer(old: Any, new: Any, bpe: ByteBpe, texts: Sequence[str]) -> dict[str, Any]:
    """Prove that a saved tokenizer is the old one, but for fixed series of tokens that it joins.

    Args:
        old: The tokenizer before.
        new: The extended one, loaded from its folder.
        bpe: What it was built from.
        texts: Everything read; hostile strings and the tokenizer's own special tokens are added.

    Returns:
        Counts: ``texts``, ``exact`` (decoded to themselves by both).

    Raises:
        VerificationError: An id, a special token, the chat template or a text differs.
    """
    _check_entries(old, new, bpe)
    special = [str(token.content) for token in old.added_tokens_decoder.values()]
    hostile = [*HOSTILE, *special, *(f"x{token} y" for token in special), *_render_chat(old)]
    expansion = bpe.expand()
    literal = bool(bpe.definition["model"].get("ignore_merges"))
    exact = 0
    everything = [*texts, *hostile]
    for text in everything:
        before, after = _encode(old, text), _encode(new, text)
        pieces = [piece for id_ in after for piece in expansion.get(id_, (id_,))]
        # Tokenizers that look up whole words first may find a new token where the old one had
        # other pieces of the same bytes.
        same = _spell(new, after) == _spell(old, before) if literal else pieces == before
        if not same:
            raise VerificationError(
                f"the new tokens change how {text[:_SHOWN]!r} is encoded beyond joining old tokens",
                hint="nothing was published; report the tokenizer's name with this line",
            )
        decoded = old.decode(before, clean_up_tokenization_spaces=False)
        if new.decode(after, clean_up_tokenization_spaces=False) != decoded:
            raise VerificationError(
                f"{text[:_SHOWN]!r} is decoded differently by the extended tokenizer",
                hint="nothing was published; report the tokenizer's name with this line",
            )
        exact += decoded == text
    return {"texts": len(everything), "exact": exact}


def _check_entries(old: Any, new: Any, bpe: ByteBpe) -> None:
    before, after = old.get_vocab(), new.get_vocab()
    moved = [token for token, id_ in before.items() if after.get(token) != id_]
    missing = [token for token, id_ in bpe.new_ids.items() if after.get(token) != id_]
    if moved or missing or len(after) != len(before) + len(bpe.added):
        first = (moved or missing or ["?"])[0]
        raise VerificationError(f"the saved tokenizer has another id for {first!r}, or lost it")
    settings = ("special_tokens_map", "chat_template", "eos_token_id", "pad_token_id")
    for name in settings:
        if getattr(old, name) != getattr(new, name):
            raise VerificationError(f"the saved tokenizer has another `{name}`")


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _spell(tokenizer: Any, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def _render_chat(tokenizer: Any) -> list[str]:
    """A conversation in the tokenizer's template, as one more hostile text."""
    if not tokenizer.chat_template:
        return []
    messages = [
        {"role": "user", "content": "What is 2 plus 3? 二加三？"},
        {"role": "assistant", "content": "It is 5. 等于五。"},
    ]
    return [tokenizer.apply_chat_template(messages, tokenize=False)]


def measure_text(old: Any, new: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Count tokens before and after.

    Returns:
        ``documents``, ``characters``, ``words`` (parted by white space), ``bytes``, ``tokens``
        before and after, and ``changed``: lines whose encoding is another one, of ``lines``.
    """
    counts = [sum(len(_encode(tokenizer, text)) for text in texts) for tokenizer in (old, new)]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    return {
        "documents": len(texts),
        "characters": sum(map(len, texts)),
        "words": sum(len(text.split()) for text in texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "tokens_before": counts[0],
        "tokens_after": counts[1],
        "lines": len(lines),
        "changed": sum(_encode(old, line) != _encode(new, line) for line in lines),
    }


def compute_logits(model: Any, examples: Sequence[list[int]]) -> list[Any]:
    """Logits of some encoded texts, each [T, V], one text at a time."""
    import torch

    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in examples]


def choose_examples(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode some texts, cut short, to compare logits on."""
    encoded = (_encode(tokenizer, text)[:_LOGIT_TOKENS] for text in [*texts, *HOSTILE])
    return [ids for ids in encoded if len(ids) > 1][:_LOGIT_TEXTS]


def check_logits(before_TV: Sequence[Any], after_TV: Sequence[Any], bpe: ByteBpe) -> float:
    """Prove that the grown model gives old tokens the logits they had, on old ids.

    Args:
        before_TV: Of the model before, for each text.
        after_TV: Of the published model.
        bpe: Says which tokens are old.

    Returns:
        Largest difference, as a share of the largest logit (at least 1).

    Raises:
        VerificationError: It is larger than ``LOGIT_TOLERANCE``, or not a number.
    """
    old_ids = sorted(bpe.base_ids.values())
    worst = 0.0
    for before, after in zip(before_TV, after_TV, strict=True):
        scale = max(1.0, float(before[:, old_ids].abs().max()))
        gap = float((before[:, old_ids] - after[:, old_ids]).abs().max()) / scale
        if not gap <= LOGIT_TOLERANCE:
            raise VerificationError(
                f"logits of old tokens differ by {gap:.1e} from the model before; at most "
                f"{LOGIT_TOLERANCE:.0e} is allowed",
                hint="nothing was published",
            )
        worst = max(worst, gap)
    return worst
