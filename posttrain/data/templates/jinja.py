"""A tokenizer's chat template, compiled once and called without detours.

What ``apply_chat_template`` does around the template is done here once per tokenizer instead of
once per call; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.data.records import Message


class ChatTemplate:
    """Renders messages as ``tokenizer.apply_chat_template(..., tokenize=False)`` does.

    Args:
        tokenizer: A transformers tokenizer with a chat template, or with several by name.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = tokenizer.special_tokens_map
        self._compiled: dict[str, Any] = {}

    def source(self, tools: Any) -> str:
        """Return the template's text for conversations with, or without, tools."""
        return str(self._tokenizer.get_chat_template(None, tools))

    def compiled(self, tools: Any) -> Any:
        """Return the compiled template for conversations with, or without, tools."""
        source = self.source(tools)
        if source not in self._compiled:
            from transformers.utils.chat_template_utils import _compile_jinja_template

            self._compiled[source] = _compile_jinja_template(source)
        return self._compiled[source]

    def variables(self, messages: Sequence[Message], tools: Any, *, prompt: bool) -> dict[str, Any]:
        """Return what the template is given."""
        return {
            "messages": [_as_seen(message) for message in messages],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
            **self._special,
        }

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, *, prompt: bool
    ) -> str:
        """Render messages as text; whatever the template raises is passed on."""
        if not messages:
            raise ValueError("the conversation is empty")
        tools = list(tools) if tools else None
        variables = self.variables(messages, tools, prompt=prompt)
        return str(self.compiled(tools).render(variables))


# Names a message's reasoning comes under; the first is the one that templates read.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def _as_seen(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without empty fields and loss weight, its reasoning under each usual name."""
    seen = {k: v for k, v in message.items() if v is not None and k != "loss_weight"}
    for name in _REASONING:
        if name in seen:
            return {"thinking": seen[name], **seen, "reasoning_content": seen[name]}
    return seen
