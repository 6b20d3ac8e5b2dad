"""Sample preference pairs, written for this project, in the shape of an item-writing system.

One row is one pair::

    {"prompt": [{"role": "user", "content": "..."}],
     "chosen": {"content": "..."}, "rejected": {"content": "..."},
     "metadata": {"chosen_score": 0.95, "rejected_score": 0.3, "flaw": "wrong_key"}}

A prompt asks for a multiple-choice item as JSON, in the words in which every model is asked for one
(``posttrain.items``), or it asks a multiple-choice question after a system turn. The rejected text
has one flaw that the chosen text does not have, and the metadata name it. Scores lie between 0 and
1, lower for a worse flaw, and the chosen score is always the higher one.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

from posttrain.items import build_item_messages, read_item_row
from posttrain.samples.mcq import KEYS, SKILLS, generate_mcq

# A row of the multiple-choice module, or an item as a completion writes it.
Item = dict[str, Any]

_TUTOR = "You are a kind tutor. Name the right option and explain why it is right."


def _other_key(item: Item, rng: Random) -> str:
    return rng.choice([key for key in KEYS if key != item["answer"]])


def _text(item: Item, key: str) -> str:
    return str(item["options"][KEYS.index(key)]["text"])


def _write(item: Item) -> str:
    """The text of ``format_item``, also of items that are none."""
    content = {
        "question": item["stem"],
        "options": {option["key"]: option["text"] for option in item["options"]},
        "answer": item["answer"],
        "explanation": item["explanation"],
    }
    return json.dumps(content, ensure_ascii=False)


def _wrong_key(item: Item, _other: Item, rng: Random) -> str:
    return _write(item | {"answer": _other_key(item, rng)})


def _replace_option(item: Item, key: str, text: str) -> str:
    changed = deepcopy(item)
    changed["options"][KEYS.index(key)]["text"] = text
    return _write(changed)


def _two_right_options(item: Item, _other: Item, rng: Random) -> str:
    # The right words once more, between quotation marks.
    return _replace_option(item, _other_key(item, rng), f'"{_text(item, item["answer"])}"')


def _duplicate_options(item: Item, _other: Item, rng: Random) -> str:
    first, second = rng.sample([key for key in KEYS if key != item["answer"]], 2)
    return _replace_option(item, first, _text(item, second))


def _missing_explanation(item: Item, _other: Item, _rng: Random) -> str:
    return _write(item | {"explanation": ""})


def _missing_option(item: Item, _other: Item, rng: Random) -> str:
    dropped = _other_key(item, rng)
    kept = [option for option in item["options"] if option["key"] != dropped]
    return _write(item | {"options": kept})


def _off_standard(_item: Item, other: Item, _rng: Random) -> str:
    return _write(other)


def _malformed_json(item: Item, _other: Item, rng: Random) -> str:
    text = _write(item)
    return text[: rng.randrange(len(text) // 2, len(text) - 1)]


def _not_json(item: Item, _other: Item, rng: Random) -> str:
    start = rng.choice(("Sure, here is a question.", "Here you go!", "How about this one?"))
    return f"{start}\n\n{item['stem']}"


def _wrong_answer(item: Item, _other: Item, rng: Random) -> str:
    key = _other_key(item, rng)
    return f'Option {key} ("{_text(item, key)}") is right, because it fits best.'


def _bare_answer(item: Item, _other: Item, _rng: Random) -> str:
    return str(item["answer"])


def _rude(item: Item, _other: Item, rng: Random) -> str:
    start = rng.choice(("Everyone knows this.", "Did you even read it?", "What a silly question."))
    return f"{start} {item['explanation']}"


def _no_answer(_item: Item, _other: Item, rng: Random) -> str:
    return rng.choice(("I am not sure.", "It depends.", "Hmm.", "Good question!"))


def _off_topic(_item: Item, other: Item, _rng: Random) -> str:
    return str(other["explanation"])


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a rejected text, and about how much such a text is worth.

    `spoil` makes the text from the item of the prompt and an item of another standard.
    """

    name: str
    score: float
    asks_for_item: bool
    spoil: Callable[[Item, Item, Random], str]


FLAWS = (
    Flaw("wrong_key", 0.3, True, _wrong_key),
    Flaw("two_right_options", 0.4, True, _two_right_options),
    Flaw("duplicate_options", 0.5, True, _duplicate_options),
    Flaw("missing_explanation", 0.7, True, _missing_explanation),
    Flaw("missing_option", 0.55, True, _missing_option),
    Flaw("off_standard", 0.35, True, _off_standard),
    Flaw("malformed_json", 0.1, True, _malformed_json),
    Flaw("not_json", 0.15, True, _not_json),
    Flaw("wrong_answer", 0.2, False, _wrong_answer),
    Flaw("bare_answer", 0.65, False, _bare_answer),
    Flaw("rude", 0.4, False, _rude),
    Flaw("no_answer", 0.05, False, _no_answer),
    Flaw("off_topic", 0.1, False, _off_topic),
)


def _prompt(item: Item, asks_for_item: bool) -> list[dict[str, str]]:
    if asks_for_item:
        return build_item_messages(read_item_row(item)[0])
    options = "\n".join(f"{each['key']}. {each['text']}" for each in item["options"])
    question = {"role": "user", "content": f"{item['stem']}\n\n{options}"}
    return [{"role": "system", "content": _TUTOR}, question]


def generate_preference(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Make preference pairs, each flaw equally often.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on `num`.

    Yields:
        One pair, in the shape given at the top of this module.
    """
    return _generate(num, seed, FLAWS)


def generate_mcq_preference(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Make the pairs alone whose prompt asks for an item; otherwise as ``generate_preference``."""
    return _generate(num, seed, tuple(flaw for flaw in FLAWS if flaw.asks_for_item))


def _generate(num: int, seed: int, known: tuple[Flaw, ...]) -> Iterator[dict[str, object]]:
    rng = Random(seed)
    one_per_skill = list(generate_mcq(len(SKILLS), rng.randrange(2**32)))
    for index, item in enumerate(generate_mcq(num, rng.randrange(2**32))):
        if index % len(known) == 0:
            flaws = rng.sample(known, len(known))
        flaw = flaws[index % len(known)]
        other = rng.choice([one for one in one_per_skill if one["standard"] != item["standard"]])
        chosen = _write(item) if flaw.asks_for_item else str(item["explanation"])
        yield {
            "prompt": _prompt(item, flaw.asks_for_item),
            "chosen": {"content": chosen},
            "rejected": {"content": flaw.spoil(item, other, rng)},
            "metadata": {
                "chosen_score": round(rng.uniform(0.9, 1.0), 2),
                "rejected_score": round(flaw.score + rng.uniform(-0.05, 0.05), 2),
                "flaw": flaw.name,
            },
        }
