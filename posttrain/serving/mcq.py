"""``POST /v1/mcq``: one multiple-choice item, valid whatever the model is."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BeforeValidator, Field

from posttrain.generation.items import WrittenItem
from posttrain.items import ItemRequest
from posttrain.serving.schema import StrictModel, Temperature, Text, count_usage

_GRADE = r"^(K|[1-9]|1[0-2])(-([1-9]|1[0-2]))?$"


def _write_number(value: Any) -> Any:
    return str(value) if type(value) is int else value


# A passage is as long as the model's context lets it be; everything else is a line or two.
ShortText = Annotated[str, Field(max_length=2000)]


class McqRequest(StrictModel):
    """What an item shall be about, and how it is written."""

    grade: Annotated[str, BeforeValidator(_write_number), Field(pattern=_GRADE)]
    subject: Annotated[str, Field(min_length=1, max_length=64)] = "ela"
    skill_id: ShortText = ""
    skill_text: ShortText = ""
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    curriculum: Annotated[str, Field(min_length=1, max_length=64)] = "common_core"
    locale: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] = "en-US"
    instructions: ShortText = ""
    type: Literal["mcq"] = "mcq"
    stimulus: Text = ""
    model: Text | None = None
    temperature: Temperature = 0.7
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    def to_item_request(self) -> ItemRequest:
        """The part that the model is told."""
        return ItemRequest(**self.model_dump(exclude={"model", "temperature", "seed"}))


def answer_item(written: WrittenItem, model: str) -> dict[str, Any]:
    """The answer with an item."""
    return {
        "id": f"item-{uuid4().hex}",
        "object": "item",
        "created": int(time.time()),
        "model": model,
        "item": asdict(written.item),
        "usage": count_usage(written.prompt_tokens, written.completion_tokens),
    }
