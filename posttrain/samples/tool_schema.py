"""What the sample tools are made of: a parameter, a tool as it is declared, and a step.

A step is one call with everything around it: the question, the arguments, the result and the
sentence that reports the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Arguments = dict[str, object]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool; ``kind`` is a JSON Schema type, with the item type for an array."""

    name: str
    kind: str
    description: str
    choices: tuple[str, ...] = ()
    required: bool = True

    def schema(self) -> dict[str, object]:
        """The JSON Schema of a value."""
        kind, _, items = self.kind.partition(" of ")
        schema: dict[str, object] = {"type": kind, "description": self.description}
        if items:
            schema["items"] = {"type": items}
        if self.choices:
            schema["enum"] = list(self.choices)
        return schema


@dataclass(frozen=True)
class Step:
    """One call with its question, result and the sentence that reports the result.

    ``again`` asks the question in short, right after the same tool has answered another one.
    """

    tool: str
    arguments: Arguments
    question: str
    result: dict[str, object]
    answer: str
    again: str = ""


@dataclass(frozen=True)
class Tool:
    """A declared function; its domain is the part of the name before the dot."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    ask: Callable[[Random], Step]

    @property
    def domain(self) -> str:
        """What the tool is about."""
        return self.name.partition(".")[0]

    def declaration(self) -> dict[str, object]:
        """The function as the model is told about it."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": {
                "type": "object",
                "properties": {each.name: each.schema() for each in self.parameters},
                "required": [each.name for each in self.parameters if each.required],
            },
        }
