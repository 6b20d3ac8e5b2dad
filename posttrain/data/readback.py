"""Token ids read back as text: what a finished example says, asked through the tokenizer alone.

Nothing here knows how the masks were made. Spaces are left out of every comparison, since
templates and tokenizers may change these around a text and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from posttrain.data.encode import Example
from posttrain.data.records import Chat, Message, texts_in

Array = np.ndarray[Any, Any]
PromptIds = Callable[[Any], Sequence[int]]
_WORD = re.compile(r"\w+")
_HEAD_TOKENS = 32
_HEAD_CHARACTERS = 40


class Marks:
    """What a tokenizer takes for more than text.

    Args:
        tokenizer: The model's.
        size: Its number of tokens.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        added = tokenizer.added_tokens_decoder
        ids = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self.size = size
        self.lookup: Array = np.zeros(size, dtype=bool)
        """[vocabulary]: whether the token is special."""
        self.lookup[[i for i in ids if 0 <= i < size]] = True
        texts = {added[i].content for i in ids if i in added} | set(tokenizer.all_special_tokens)
        self.special = sorted(texts, key=lambda text: (-len(text), text))
        everything = texts | {token.content for token in added.values()}
        longest_first = sorted(everything, key=lambda text: (-len(text), text))
        self.added = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def in_texts(self, content: Any) -> bool:
        """Whether a text of a conversation or pair looks like a special token."""
        return any(mark in text for text in texts_in(_parts(content)) for mark in self.special)

    def count(self, ids: Any) -> list[int]:
        """Special tokens among ids, sorted."""
        known: Array = np.asarray(ids, dtype=np.int64)
        return sorted(known[self.lookup[known]].tolist())

    def take_out(self, value: Any) -> Any:
        """Copy nested values with a letter in place of every text of a special token."""
        if isinstance(value, str):
            for mark in self.special:
                value = value.replace(mark, "x")
            return value
        if isinstance(value, dict):
            return {self.take_out(name): self.take_out(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.take_out(item) for item in value]
        return value


def trained_turns(example: Example, train_on: str) -> list[int]:
    """Positions of the assistant turns that carry loss under a recipe's ``train_on``."""
    content: Any = example.record.content
    messages: Sequence[Message] = content.messages
    turns = [
        place
        for place, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("loss_weight", 1)
    ]
    if train_on == "last_assistant":
        return turns[-1:] if turns[-1:] == [len(messages) - 1] else []
    if train_on == "completion":
        asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        return [turn for turn in turns if turn > asked]
    return turns


def turns_match(example: Example, tokenizer: Any, marks: Marks, train_on: str) -> bool:
    """Whether the trained text is the text of the trained turns, each with its own weight."""
    content: Any = example.record.content
    turns = [content.messages[place] for place in trained_turns(example, train_on)]
    runs = list(_runs(example.trained))
    ids = example.token_ids
    texts = [_decode(ids[run], tokenizer) for run in runs]
    if len(runs) != len(turns):  # turns in a row without a header between them
        return _is_answer("".join(texts), turns, tokenizer, marks)
    heads = [_decode(ids[max(0, run.start - _HEAD_TOKENS) : run.start], tokenizer) for run in runs]
    return all(
        np.unique(example.weights[run]).tolist() == [np.float32(turn.get("loss_weight", 1))]
        and _is_answer(text, [_go_on(turn, head, text)], tokenizer, marks)
        for run, text, head, turn in zip(runs, texts, heads, turns, strict=True)
    )


def _go_on(turn: Message, head: str, text: str) -> Message:
    """Take off a turn what the prompt has written of it already, such as an opened thinking part.

    Args:
        turn: The turn.
        head: The end of the prompt, without spaces.
        text: What is trained, without spaces.
    """
    parts = {}
    for name in ("reasoning_content", "content"):
        part = _squeeze(str(turn.get(name) or ""))
        # What the answer writes itself, though the prompt ends with the same, is all its own.
        most = 0 if part in text else min(len(part), _HEAD_CHARACTERS)
        known = next((n for n in range(most, 0, -1) if head.endswith(part[:n])), 0)
        parts[name] = part[known:]
    return {**turn, **parts}


def answers_match(example: Example, tokenizer: Any, marks: Marks) -> bool:
    """Whether the two last segments are the better and the worse answer."""
    pair: Any = example.record.content
    ends = np.cumsum(example.lengths)
    texts = [_decode(example.token_ids[a:b], tokenizer) for a, b in pairwise(ends)]
    answers = (pair.chosen, pair.rejected)
    head = _decode(example.token_ids[max(0, ends[0] - _HEAD_TOKENS) : ends[0]], tokenizer)
    return all(
        _is_answer(text, [_go_on(answer, head, text)], tokenizer, marks)
        for text, answer in zip(texts, answers, strict=True)
    )


def _is_answer(text: str, turns: Sequence[Message], tokenizer: Any, marks: Marks) -> bool:
    """Whether a text is some turns: their reasoning, content and calls, and markup around these.

    Markup is added tokens, and words that stand in the template itself.
    """
    for turn in turns:
        parts = (str(turn.get("reasoning_content") or ""), str(turn.get("content") or ""))
        reasoning, content = (_squeeze(part) for part in parts)
        if reasoning not in text or content not in text:
            # A tokenizer may fold case or width; then so must what it is compared with.
            reasoning, content = (_squeeze(_pass_through(part, tokenizer)) for part in parts)
        if reasoning not in text or content not in text:
            return False
        text = text.replace(reasoning, " ", 1) if reasoning else text
        before, _, behind = text.rpartition(content) if content else (text, "", "")
        text = f"{before} {behind}"
        if any(call["function"]["name"] not in text for call in turn.get("tool_calls") or ()):
            return False
    if any(turn.get("tool_calls") for turn in turns):
        return True  # a template may write the calls in any way
    words = _WORD.findall(marks.added.sub(" ", text))
    return all(word in tokenizer.chat_template for word in words)


def text_leaks(example: Example, tokenizer: Any) -> bool:
    """Whether some text of a user, system or tool turn is trained.

    A text that the template itself leaves out or rewrites is nowhere, and one that an answer
    repeats may be anywhere; of these nothing can be said.
    """
    content: Any = example.record.content
    messages: Sequence[Message] = content.messages
    answers = _squeeze("\n".join(map(str, texts_in([m for m in messages if _is_assistant(m)]))))
    others = {_squeeze(str(m.get("content") or "")) for m in messages if not _is_assistant(m)}
    asked = [text for text in others if text and text not in answers]
    if not asked:
        return False
    untrained = "\n".join(
        _decode(example.token_ids[run], tokenizer) for run in _runs(~example.trained)
    )
    missing = [text for text in asked if text not in untrained]
    whole = _decode(example.token_ids, tokenizer) if missing else ""
    return any(text in whole for text in missing)


def prompt_matches(example: Example, prompt_ids: PromptIds, train_on: str) -> bool:
    """Whether the ids before the last turn are those of inference, and training starts there."""
    content: Any = example.record.content
    if train_on == "everything":
        prompt = [] if example.retokenized else list(prompt_ids(content))
        return example.token_ids[: len(prompt)].tolist() == prompt
    if trained_turns(example, train_on)[-1:] != [len(content.messages) - 1]:
        return True  # the last turn carries no loss; earlier ones may follow another prompt
    runs = list(_runs(example.trained))
    return bool(runs) and example.token_ids[: runs[-1].start].tolist() == list(prompt_ids(content))


def whole_matches(example: Example, tokenizer: Any) -> bool:
    """Whether the ids are those that the tokenizer gives for the whole conversation.

    A template that leaves out what was thought, for it writes prompts only, gives others.
    """
    content: Any = example.record.content
    ids = _with_end(_apply(tokenizer, content.messages, content.tools), example, tokenizer)
    if example.token_ids.tolist() == ids:
        return True
    text, own = (_decode(np.asarray(found), tokenizer) for found in (ids, example.token_ids))
    written = [
        _squeeze(_pass_through(str(message.get(name) or ""), tokenizer))
        for message in content.messages
        if _is_assistant(message)
        for name in ("reasoning_content", "content")
    ]
    return text != own and any(text.count(part) < own.count(part) for part in written if part)


def specials_match(example: Example, tokenizer: Any, marks: Marks) -> bool:
    """Whether the special tokens are those of the same conversation without special texts."""
    content: Any = example.record.content
    messages, tools = marks.take_out(content.messages), marks.take_out(content.tools)
    ids = _with_end(_apply(tokenizer, messages, tools), example, tokenizer)
    return marks.count(example.token_ids) == marks.count(ids)


def _with_end(ids: list[int], example: Example, tokenizer: Any) -> list[int]:
    """Add the end token where a template writes it only when the conversation goes on."""
    end = tokenizer.eos_token_id
    lacks = end is not None and ids[-1:] != [end] and example.token_ids[-1:].tolist() == [end]
    return [*ids, end] if lacks else ids


def marks_match(example: Example, tokenizer: Any) -> bool:
    """Whether the mask lies within the template's own generation marks."""
    chat: Any = example.record.content
    marked = tokenizer.apply_chat_template(
        list(chat.messages),
        tools=list(chat.tools) or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    mask: Array = np.asarray(marked["assistant_masks"], dtype=bool)
    trained = example.trained
    if len(mask) != len(trained) or not mask[trained].all():
        return False
    # Each marked run holds a trained one; it may be longer, as by the line break after a turn.
    # Where only later turns are trained, the marks of earlier ones have no counterpart.
    runs = [run.start for run in _runs(mask)]
    ends = [*runs[1:], len(mask)]
    matched = [bool(trained[a:b].any()) for a, b in zip(runs, ends, strict=True)]
    return all(matched[matched.index(True) :]) if any(matched) else False


def stock_prompt(tokenizer: Any) -> PromptIds:
    """A way to get the ids of a content's prompt as the tokenizer itself gives them."""
    return lambda content: _apply(tokenizer, content.prompt, content.tools, prompt=True)


def _apply(
    tokenizer: Any, messages: Iterable[Message], tools: Any, *, prompt: bool = False
) -> list[int]:
    ids = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) or None,
        add_generation_prompt=prompt,
        tokenize=True,
        return_dict=False,
    )
    return list(ids)


def _runs(marked: Array) -> Iterator[slice]:
    """Spans of neighbouring True values."""
    padded: Array = np.concatenate([[False], marked, [False]])
    starts = np.flatnonzero(~padded[:-1] & padded[1:])
    ends = np.flatnonzero(padded[:-1] & ~padded[1:])
    return (slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True))


def _decode(ids: Array, tokenizer: Any) -> str:
    """Text of ids without any space."""
    text = tokenizer.decode(
        ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return _squeeze(text)


def _pass_through(text: str, tokenizer: Any) -> str:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _is_assistant(message: Message) -> bool:
    return bool(message["role"] == "assistant")


def _parts(content: Any) -> list[Any]:
    if isinstance(content, Chat):
        return [content.messages, content.tools]
    return [content.prompt, content.chosen, content.rejected, content.tools]


def _squeeze(text: str) -> str:
    return "".join(text.split())
