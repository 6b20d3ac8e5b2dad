"""Word problems in the shape of GSM8K that a small model learns to solve line by line.

A story has events, which the answer goes through one by one, and sentences that do not matter, so
that the length of a question says little about that of its answer. Numbers of events are those of
lines in GSM8K's answers (train.jsonl, 7,473 rows).
"""

import random

LINES = {1: 2, 2: 27, 3: 29, 4: 21, 5: 11, 6: 6, 7: 3, 8: 1}
"""Events and how often, in hundredths."""
NAMES = ("Mia", "Tom", "Ben", "Ana", "Lea", "Max", "Zoe", "Sam")
THINGS = ("apples", "books", "coins", "cards", "pens", "shells", "stamps", "beads")
GAINS = ("buys", "finds", "is given", "wins", "picks up")
LOSSES = ("loses", "gives away", "sells", "breaks", "lends out")
PLACES = ("at the market", "in the park", "at school", "on the way home", "by the lake")
IDLE = (
    "The weather is fine that day, and nobody is in a hurry.",
    "{name} likes to sit by the window and look at the street.",
    "A friend of {name} has a red bicycle with a bell that does not ring.",
    "It is the week before the summer holidays, and the town is full of people.",
    "The shop around the corner is closed because its owner is visiting her sister.",
    "{name} has two cats and a very old dog.",
)
LINE_FORMS = (
    "{name} {verb} {count} {things} {place}, so we {do} {count}: "
    "{before} {sign} {count} = {after}.",
    "Then {name} {verb} {count} more of the {things}, which happens {place}. "
    "The {things} before were {before}, and with this change they are "
    "{before} {sign} {count} = {after} {things} in all.",
    "{before} {sign} {count} = {after}.",
)


def make_problem(source: random.Random) -> dict[str, str]:
    """A question and its worked answer, as rows of GSM8K are."""
    name, things = source.choice(NAMES), source.choice(THINGS)
    total = source.randint(10, 20)
    told = [f"{name} has {total} {things}."]
    worked = []
    for _ in range(source.choices(list(LINES), list(LINES.values()))[0]):
        count = source.randint(1, 9)
        gains = total < 10 or (total < 40 and source.random() < 0.6)
        verb, place = source.choice(GAINS if gains else LOSSES), source.choice(PLACES)
        told.append(f"{name} {verb} {count} {things} {place}.")
        before, total = total, total + count if gains else total - count
        # How long a line is follows from the event, so that it can be learned.
        line = LINE_FORMS[(PLACES.index(place) + len(verb)) % len(LINE_FORMS)]
        worked.append(
            line.format(
                name=name,
                verb=verb,
                count=count,
                things=things,
                place=place,
                before=before,
                after=total,
                sign="+" if gains else "-",
                do="add" if gains else "take away",
            )
        )
    for _ in range(source.randint(0, 5)):
        told.insert(source.randint(1, len(told)), source.choice(IDLE).format(name=name))
    question = f"{' '.join(told)} How many {things} does {name} have in the end?"
    return {"question": question, "answer": "\n".join([*worked, f"#### {total}"])}


def make_problems(count: int, seed: int) -> list[dict[str, str]]:
    """Problems; those of two seeds differ."""
    source = random.Random(seed)
    return [make_problem(source) for _ in range(count)]
