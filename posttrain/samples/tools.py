"""Sample tool-calling conversations in the shape of Dolci-Instruct-SFT, written for this project.

One row is one conversation::

    {"id": "sample-tools-7-0", "source_dataset": "posttrain-sample-tools", "domain": "weather",
     "messages": [
        {"role": "system", "content": "...", "functions": "[{...}]", "function_calls": null},
        {"role": "user", "content": "...", "functions": null, "function_calls": null},
        {"role": "assistant", "content": null, "functions": null,
         "function_calls": "weather.forecast(city='Lima', days=2)"},
        {"role": "environment", "content": "{...}", ...},
        {"role": "assistant", "content": "...", ...}]}

``functions`` is a JSON array as a string and ``function_calls`` is Python call syntax, one call per
line; booleans are written the Python way in some rows and the JSON way in others, and the results
of parallel calls come as one message each or as one message with a JSON array, since both occur in
the real data. The services are invented, but every answer follows from the results before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from posttrain.samples.tool_catalogue import (
    BOOKS,
    TOOLS,
    UNITS,
    ask_departure,
    ask_latest,
    calculate,
    convert,
    create_event,
    order_status,
    reserve_book,
    search_books,
)
from posttrain.samples.tool_schema import Step

Message = dict[str, str | None]

_CAPITALS = (
    ("Portugal", "Lisbon"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
    ("Norway", "Oslo"),
    ("Egypt", "Cairo"),
    ("Japan", "Tokyo"),
    ("Ghana", "Accra"),
    ("Canada", "Ottawa"),
    ("Chile", "Santiago"),
    ("Vietnam", "Hanoi"),
)
_SPELLED = ("apple", "garden", "window", "planet", "bridge", "letter", "mountain", "orange",
            "yellow", "kitchen", "pencil", "summer", "village", "rabbit", "thunder",
            "island")  # fmt: skip


def _ask_plain(rng: Random) -> tuple[str, str]:
    """A question that needs no tool, and its answer."""
    country, city = rng.choice(_CAPITALS)
    word = rng.choice(_SPELLED)
    questions = (
        (f"What is the capital of {country}?", f"The capital of {country} is {city}."),
        (f"How many letters are in the word '{word}'?",
         f"The word '{word}' has {len(word)} letters."),
        (f"How is the word '{word}' spelled backward?",
         f"Spelled backward, '{word}' is '{word[::-1]}'."),
    )  # fmt: skip
    question, answer = rng.choice(questions)
    return rng.choice(("", "Hello! ", "A quick question: ", "Tell me, please: ")) + question, answer


_SYSTEMS = (
    "You are a helpful assistant. Call the functions below when they help; otherwise answer "
    "directly.",
    "Use the functions when a question needs them, and tell the user what they returned.",
    "You can call functions. Never guess a value that a function can give you.",
)


def _message(role: str, content: str | None, **extra: str) -> Message:
    message: Message = {"role": role, "content": content, "functions": None, "function_calls": None}
    return message | extra


def _literal(value: object, json_words: bool) -> str:
    if isinstance(value, bool) and not json_words:
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def write_call(tool: str, arguments: Mapping[str, object], json_words: bool = False) -> str:
    """Writes a call in Python syntax.

    Args:
        tool: Name of the function, dots included.
        arguments: Keyword arguments.
        json_words: Whether to write ``true`` and ``false`` the JSON way.

    Returns:
        One line, such as ``weather.forecast(city="Lima", days=2)``.
    """
    listed = (f"{name}={_literal(value, json_words)}" for name, value in arguments.items())
    return f"{tool}({', '.join(listed)})"


def _call_turns(steps: list[Step], rng: Random) -> list[Message]:
    """The assistant's calls, made at the same time, and their results."""
    json_words, together = rng.random() < 0.5, rng.random() < 0.5
    calls = "\n".join(write_call(step.tool, step.arguments, json_words) for step in steps)
    results: list[object] = [step.result for step in steps]
    if len(steps) > 1 and together:
        results = [results]
    answers = [json.dumps(result, ensure_ascii=False) for result in results]
    return [
        _message("assistant", None, function_calls=calls),
        *(_message("environment", answer) for answer in answers),
    ]


@dataclass(frozen=True)
class _Talk:
    """The turns after the system message, and the tools they use; none for a plain answer."""

    turns: list[Message]
    tools: tuple[str, ...]


def _exchange(steps: list[Step], rng: Random) -> list[Message]:
    return [
        _message("user", " ".join(step.question for step in steps)),
        *_call_turns(steps, rng),
        _message("assistant", " ".join(step.answer for step in steps)),
    ]


def _talk_single(rng: Random) -> _Talk:
    step = rng.choice(TOOLS).ask(rng)
    return _Talk(_exchange([step], rng), (step.tool,))


def _talk_parallel(rng: Random) -> _Talk:
    # One tool several times, or several tools; equal questions would be equal calls.
    chosen = [rng.choice(TOOLS)] * rng.randint(2, 3)
    if rng.random() < 0.5:
        chosen = rng.sample(TOOLS, 2)
    steps = list({step.question: step for step in (tool.ask(rng) for tool in chosen)}.values())
    if len(steps) == 1:
        return _talk_parallel(rng)
    return _Talk(_exchange(steps, rng), tuple(step.tool for step in steps))


def _talk_sequential(rng: Random) -> _Talk:
    """Two calls, where the second needs the result of the first."""
    first, second, question = rng.choice(_CHAINS)(rng)
    turns = [
        _message("user", question),
        *_call_turns([first], rng),
        *_call_turns([second], rng),
        _message("assistant", f"{first.answer} {second.answer}"),
    ]
    return _Talk(turns, (first.tool, second.tool))


def _talk_plain(rng: Random) -> _Talk:
    question, answer = _ask_plain(rng)
    return _Talk([_message("user", question), _message("assistant", answer)], ())


def _talk_again(rng: Random) -> _Talk:
    """A question, then the same about another city, day or order, in a few words."""
    tool = rng.choice(TOOLS)
    first, second = tool.ask(rng), tool.ask(rng)
    if not second.again or first.question == second.question:
        return _talk_again(rng)
    follow = _exchange([second], rng)
    follow[0] = _message("user", second.again)
    return _Talk([*_exchange([first], rng), *follow], (tool.name,))


def _talk_follow_up(rng: Random) -> _Talk:
    """A first question, perhaps a plain one, then another one that needs a call."""
    if rng.random() < 0.5:
        return _talk_again(rng)
    second = rng.choice(TOOLS).ask(rng)
    start = _talk_plain(rng) if rng.random() < 0.3 else _talk_single(rng)
    thanks = rng.choice(("Thank you.", "Great.", "Good to know."))
    follow = _exchange([second], rng)
    follow[0] = _message("user", f"{thanks} {second.question}")
    return _Talk([*start.turns, *follow], (*start.tools, second.tool))


def _chain_reserve(rng: Random) -> tuple[Step, Step, str]:
    book = rng.choice([book for book in BOOKS if book[4]])
    branch = rng.choice(("north", "central", "harbor"))
    first, second = search_books(book, True), reserve_book(book[0], book[1], branch)
    return first, second, (
        f"Find a book about {book[3]} that is on the shelf and reserve it for me at the {branch} "
        "branch."
    )  # fmt: skip


def _chain_order(rng: Random) -> tuple[Step, Step, str]:
    first = ask_latest(rng)
    number = first.result["order_number"]
    assert isinstance(number, int)
    email = first.arguments["email"]
    return first, order_status(number), f"My address is {email}. Where is my latest order?"


def _chain_distance(rng: Random) -> tuple[Step, Step, str]:
    first = calculate("add", [rng.randint(2, 40) for _ in range(3)])
    total = first.result["result"]
    assert isinstance(total, int)
    source, target, factor = rng.choice((UNITS[1], UNITS[3]))
    parts = "walks" if source == "miles" else "boxes"
    numbers = first.question.partition(" of ")[2]
    question = f"I have three {parts} of {numbers.rstrip('?')} {source}. How many {target} in all?"
    return first, convert(total, source, target, factor), question


def _chain_departure(rng: Random) -> tuple[Step, Step, str]:
    first = ask_departure(rng)
    day = (date(2026, 3, 1) + timedelta(days=rng.randrange(200))).isoformat()
    mode, stop, after = (first.arguments[name] for name in ("mode", "destination", "after"))
    second = create_event(f"{mode} to {stop}", day, str(first.result["departure"]), [], True)
    return first, second, (
        f"On {day} I want the first {mode} to {stop} after {after}. Look it up and put it in my "
        "calendar with a reminder."
    )  # fmt: skip


_CHAINS = (_chain_reserve, _chain_order, _chain_distance, _chain_departure)
_TALKS = (_talk_single, _talk_parallel, _talk_sequential, _talk_plain, _talk_follow_up)


def generate_tools(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Makes tool-calling conversations; every five rows in a row hold each of the five kinds.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on ``num``.

    Yields:
        One conversation, in the shape given at the top of this module.
    """
    rng = Random(seed)
    by_name = {tool.name: tool for tool in TOOLS}
    for index in range(num):
        talk = _TALKS[index % len(_TALKS)](rng)
        used = [by_name[name] for name in dict.fromkeys(talk.tools)]
        others = [tool for tool in TOOLS if tool not in used]
        declared = [*used, *rng.sample(others, rng.randint(2, 4))]
        rng.shuffle(declared)
        functions = json.dumps([tool.declaration() for tool in declared], ensure_ascii=False)
        system = _message("system", rng.choice(_SYSTEMS), functions=functions)
        yield {
            "id": f"sample-tools-{seed}-{index}",
            "messages": [system, *talk.turns],
            "source_dataset": "posttrain-sample-tools",
            "domain": used[0].domain if used else "general",
        }
