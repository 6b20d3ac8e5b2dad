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

`functions` is a JSON array as a string and `function_calls` is Python call syntax, one call per
line; booleans are written the Python way in some rows and the JSON way in others, and the results
of parallel calls come as one message each or as one message with a JSON array, since both occur in
the real data. The services are invented, but every answer follows from the results before it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

Arguments = dict[str, object]
Message = dict[str, str | None]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool; `kind` is a JSON Schema type, with the item type for an array."""

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

    `again` asks the question in short, right after the same tool has answered another one.
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


_CITIES = ("Lima", "Oslo", "Cairo", "Kyoto", "Dublin", "Quito", "Accra", "Hanoi")
_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy")


def _pick(options: tuple[str, ...], *facts: object) -> str:
    # A stand-in for a service's data; hash() would change from one process to the next.
    return options[sum(map(ord, "".join(map(str, facts)))) % len(options)]


def _ask_forecast(rng: Random) -> Step:
    city, days = rng.choice(_CITIES), rng.randint(1, 3)
    unit = rng.choice(("celsius", "fahrenheit"))
    arguments: Arguments = {"city": city, "days": days, "unit": unit}
    skies, highs = [], []
    for day in range(days):
        celsius = 5 + (sum(map(ord, city)) + 7 * day) % 25
        skies.append(_pick(_SKIES, city, day))
        highs.append(celsius if unit == "celsius" else round(celsius * 9 / 5 + 32))
    sign = "°C" if unit == "celsius" else "°F"
    days_told = zip(skies, highs, strict=True)
    told = [f"day {n}: {sky}, {high} {sign}" for n, (sky, high) in enumerate(days_told, 1)]
    many = "day" if days == 1 else f"{days} days"
    return Step(
        "weather.forecast",
        arguments,
        f"What will the weather be like in {city} over the next {many}, in degrees "
        f"{unit.capitalize()}?",
        {"city": city, "unit": unit, "conditions": skies, "highs": highs},
        f"The forecast for {city} is {'; '.join(told)}.",
    )


def _ask_air(rng: Random) -> Step:
    city = rng.choice(_CITIES)
    index = 20 + sum(map(ord, city)) % 130
    level = "good" if index <= 50 else "moderate" if index <= 100 else "poor"
    return Step(
        "weather.air_quality",
        {"city": city},
        f"How is the air quality in {city} right now?",
        {"city": city, "index": index, "level": level},
        f"The air quality in {city} is {level}, with an index of {index}.",
        f"And in {city}?",
    )


def _ask_weekday(rng: Random) -> Step:
    day = date(2025, 1, 1) + timedelta(days=rng.randrange(730))
    return Step(
        "calendar.weekday",
        {"date": day.isoformat()},
        f"Which day of the week is {day.isoformat()}?",
        {"date": day.isoformat(), "weekday": f"{day:%A}"},
        f"{day.isoformat()} is a {day:%A}.",
        f"And {day.isoformat()}?",
    )


def _create_event(title: str, day: str, start: str, guests: list[str], remind: bool) -> Step:
    asked = f"Please put '{title}' in my calendar on {day} at {start}"
    arguments: Arguments = {"title": title, "date": day, "start": start}
    told = f"'{title}' is in your calendar on {day} at {start}"
    if guests:
        arguments["guests"] = [*guests]
        asked += f" and invite {' and '.join(guests)}"
        told += f", and I have invited {' and '.join(guests)}"
    arguments["reminder"] = remind
    asked += ", with a reminder." if remind else ", without a reminder."
    told += ". A reminder is set." if remind else ". No reminder is set."
    event = f"ev-{sum(map(ord, title + day + start))}"
    return Step(
        "calendar.create_event",
        arguments,
        asked,
        {"event_id": event, "status": "created", "guests": len(guests), "reminder": remind},
        told,
    )


def _ask_event(rng: Random) -> Step:
    title = rng.choice(("Piano lesson", "Book club", "Dentist", "Team lunch", "Chess practice"))
    day = date(2026, 3, 1) + timedelta(days=rng.randrange(200))
    start = f"{rng.randint(8, 18):02d}:{rng.choice(('00', '30'))}"
    guests = rng.sample(("Ana", "Jonas", "Mei", "Pavel"), rng.randint(0, 2))
    return _create_event(title, day.isoformat(), start, guests, rng.random() < 0.5)


# from, to, factor: all exact
_UNITS = (
    ("kilometers", "meters", 1000.0),
    ("miles", "kilometers", 1.609344),
    ("inches", "centimeters", 2.54),
    ("pounds", "kilograms", 0.45359237),
    ("hours", "minutes", 60.0),
)


def _tidy(value: float) -> float:
    return int(value) if value == int(value) else value


def _convert(value: float, source: str, target: str, factor: float) -> Step:
    result = _tidy(round(value * factor, 4))
    value = _tidy(value)
    return Step(
        "units.convert",
        {"value": value, "from_unit": source, "to_unit": target},
        f"How many {target} are {value} {source}?",
        {"value": result, "unit": target},
        f"{value} {source} are {result} {target}.",
    )


def _ask_units(rng: Random) -> Step:
    return _convert(rng.randint(4, 60) / 2, *rng.choice(_UNITS))


def _calculate(operation: str, numbers: list[int]) -> Step:
    result = sum(numbers)
    if operation == "multiply":
        result = 1
        for number in numbers:
            result *= number
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    noun = {"add": "sum", "multiply": "product"}[operation]
    return Step(
        "calculator.apply",
        {"operation": operation, "numbers": [*numbers]},
        f"What is the {noun} of {listed}?",
        {"result": result},
        f"The {noun} of {listed} is {result}.",
    )


def _ask_calculator(rng: Random) -> Step:
    operation = rng.choice(("add", "multiply"))
    return _calculate(operation, [rng.randint(11, 99) for _ in range(rng.randint(2, 4))])


# id, title, author, subject, copies on the shelf; none of these books exists
_BOOKS = (
    ("b101", "Rivers of Glass", "I. Marlow", "nature", 2),
    ("b102", "The Patient Gardener", "S. Okoye", "gardening", 0),
    ("b103", "Clay, Bricks and Towers", "T. Lindqvist", "building", 1),
    ("b104", "A Short Walk to the Moon", "P. Tanaka", "space", 3),
    ("b105", "Soup for Seven Days", "R. Duarte", "cooking", 1),
    ("b106", "Night Trains", "E. Novak", "travel", 0),
)


def _search_books(book: tuple[str, str, str, str, int], only_available: bool) -> Step:
    code, title, author, subject, copies = book
    found = bool(copies) or not only_available
    asked = f"Does the library have a book about {subject}"
    shelf = f"on the shelf ({copies} left)" if copies else "but it is lent out now"
    told = f"Yes: '{title}' by {author}, {shelf}."
    if not found:
        told = f"No, the library has no book about {subject} on the shelf now."
    entry = {"book_id": code, "title": title, "author": author, "copies": copies}
    return Step(
        "library.search",
        {"subject": subject, "only_available": only_available},
        f"{asked} that is on the shelf now?" if only_available else f"{asked}?",
        {"books": [entry] if found else []},
        told,
    )


def _reserve_book(code: str, title: str, branch: str) -> Step:
    number = sum(map(ord, code + branch))
    return Step(
        "library.reserve",
        {"book_id": code, "branch": branch},
        f"Please reserve the book {code} for me at the {branch} branch.",
        {"reservation": f"r-{number}", "title": title, "branch": branch},
        f"'{title}' is reserved for you at the {branch} branch; the reservation is r-{number}.",
    )


def _ask_search(rng: Random) -> Step:
    return _search_books(rng.choice(_BOOKS), rng.random() < 0.5)


def _ask_reserve(rng: Random) -> Step:
    code, title, *_ = rng.choice([book for book in _BOOKS if book[4]])
    return _reserve_book(code, title, rng.choice(("north", "central", "harbor")))


def _order_status(number: int) -> Step:
    state = _pick(("packed", "shipped", "delivered"), number)
    days = {"packed": 4, "shipped": 2, "delivered": 0}[state]
    told = f"Order {number} has been {state} and should arrive in {days} days."
    return Step(
        "orders.status",
        {"order_number": number},
        f"Where is my order {number}?",
        {"order_number": number, "state": state, "days_left": days},
        told if days else f"Order {number} has been delivered.",
        f"And order {number}?",
    )


def _latest_order(email: str) -> Step:
    number = 40000 + sum(map(ord, email)) % 9999
    return Step(
        "orders.latest",
        {"email": email},
        f"What is the number of the latest order of {email}?",
        {"email": email, "order_number": number},
        f"The latest order of {email} is number {number}.",
        f"And the latest one of {email}?",
    )


def _ask_status(rng: Random) -> Step:
    return _order_status(rng.randint(40000, 49999))


def _ask_latest(rng: Random) -> Step:
    user = rng.choice(("ana", "jonas", "mei", "pavel", "zoe"))
    return _latest_order(f"{user}{rng.randint(1, 99)}@example.com")


_LANGUAGES = ("Spanish", "French", "German", "Chinese")
_WORDS = (
    ("water", ("agua", "eau", "Wasser", "水")),
    ("bread", ("pan", "pain", "Brot", "面包")),
    ("book", ("libro", "livre", "Buch", "书")),
    ("friend", ("amigo", "ami", "Freund", "朋友")),
    ("moon", ("luna", "lune", "Mond", "月亮")),
    ("house", ("casa", "maison", "Haus", "房子")),
)


def _ask_translation(rng: Random) -> Step:
    word, forms = rng.choice(_WORDS)
    language, form = rng.choice(list(zip(_LANGUAGES, forms, strict=True)))
    return Step(
        "translation.word",
        {"word": word, "language": language},
        f"What is the {language} word for '{word}'?",
        {"word": word, "language": language, "translation": form},
        f"The {language} word for '{word}' is '{form}'.",
    )


def _next_departure(stop: str, mode: str, hour: int, minute: int) -> Step:
    # Trains leave at every half hour and buses every 20 minutes.
    gap = 30 if mode == "train" else 20
    leaves = ((60 * hour + minute) // gap + 1) * gap
    after, departure = f"{hour:02d}:{minute:02d}", f"{leaves // 60:02d}:{leaves % 60:02d}"
    platform = 1 + len(stop) % 4
    return Step(
        "timetable.next_departure",
        {"destination": stop, "mode": mode, "after": after},
        f"When does the next {mode} to {stop} leave after {after}?",
        {"destination": stop, "mode": mode, "departure": departure, "platform": platform},
        f"The next {mode} to {stop} leaves at {departure} from platform {platform}.",
    )


_STOPS = ("Harbor Square", "Old Mill", "West Park", "Castle Hill")


def _ask_departure(rng: Random) -> Step:
    mode = rng.choice(("train", "bus"))
    return _next_departure(rng.choice(_STOPS), mode, rng.randint(6, 21), rng.randint(1, 59))


_CITY = Parameter("city", "string", "Name of the city.")
_DATE = Parameter("date", "string", "The day, as YYYY-MM-DD.")
TOOLS = (
    Tool("weather.forecast", "Forecast for the coming days.", (
        _CITY,
        Parameter("days", "integer", "Number of days, from 1 to 3."),
        Parameter("unit", "string", "Unit of temperature.", ("celsius", "fahrenheit"), False),
    ), _ask_forecast),
    Tool("weather.air_quality", "Air quality at this moment.", (_CITY,), _ask_air),
    Tool("calendar.weekday", "Day of the week of a date.", (_DATE,), _ask_weekday),
    Tool("calendar.create_event", "Put an event into the user's calendar.", (
        Parameter("title", "string", "Title of the event."),
        _DATE,
        Parameter("start", "string", "Start, as HH:MM."),
        Parameter("guests", "array of string", "Names of those invited.", (), False),
        Parameter("reminder", "boolean", "Whether to set a reminder.", (), False),
    ), _ask_event),
    Tool("units.convert", "Convert a value from one unit to another.", (
        Parameter("value", "number", "The value to convert."),
        Parameter("from_unit", "string", "Unit of the value.", tuple(u[0] for u in _UNITS)),
        Parameter("to_unit", "string", "Unit of the result.", tuple(u[1] for u in _UNITS)),
    ), _ask_units),
    Tool("calculator.apply", "Add or multiply numbers.", (
        Parameter("operation", "string", "What to do.", ("add", "multiply")),
        Parameter("numbers", "array of number", "At least two numbers."),
    ), _ask_calculator),
    Tool("library.search", "Find books in the library by subject.", (
        Parameter("subject", "string", "What the book is about."),
        Parameter("only_available", "boolean", "Leave out books that are lent.", (), False),
    ), _ask_search),
    Tool("library.reserve", "Reserve a book at a branch.", (
        Parameter("book_id", "string", "The book, as found by library.search."),
        Parameter("branch", "string", "Where to collect it.", ("north", "central", "harbor")),
    ), _ask_reserve),
    Tool("orders.status", "State of an order.", (
        Parameter("order_number", "integer", "Number of the order."),
    ), _ask_status),
    Tool("orders.latest", "Number of a customer's latest order.", (
        Parameter("email", "string", "The customer's address."),
    ), _ask_latest),
    Tool("translation.word", "Translate one English word.", (
        Parameter("word", "string", "The English word."),
        Parameter("language", "string", "Language to translate to.", _LANGUAGES),
    ), _ask_translation),
    Tool("timetable.next_departure", "Next departure to a stop.", (
        Parameter("destination", "string", "Where to go."),
        Parameter("mode", "string", "Means of transport.", ("train", "bus")),
        Parameter("after", "string", "Leave after this time, given as HH:MM."),
    ), _ask_departure),
)  # fmt: skip


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
    """Write a call in Python syntax.

    Args:
        tool: Name of the function, dots included.
        arguments: Keyword arguments.
        json_words: Write `true` and `false` the JSON way.

    Returns:
        One line, such as `weather.forecast(city="Lima", days=2)`.
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
    book = rng.choice([book for book in _BOOKS if book[4]])
    branch = rng.choice(("north", "central", "harbor"))
    first, second = _search_books(book, True), _reserve_book(book[0], book[1], branch)
    return first, second, (
        f"Find a book about {book[3]} that is on the shelf and reserve it for me at the {branch} "
        "branch."
    )  # fmt: skip


def _chain_order(rng: Random) -> tuple[Step, Step, str]:
    first = _ask_latest(rng)
    number = first.result["order_number"]
    assert isinstance(number, int)
    email = first.arguments["email"]
    return first, _order_status(number), f"My address is {email}. Where is my latest order?"


def _chain_distance(rng: Random) -> tuple[Step, Step, str]:
    first = _calculate("add", [rng.randint(2, 40) for _ in range(3)])
    total = first.result["result"]
    assert isinstance(total, int)
    source, target, factor = rng.choice((_UNITS[1], _UNITS[3]))
    parts = "walks" if source == "miles" else "boxes"
    numbers = first.question.partition(" of ")[2]
    question = f"I have three {parts} of {numbers.rstrip('?')} {source}. How many {target} in all?"
    return first, _convert(total, source, target, factor), question


def _chain_departure(rng: Random) -> tuple[Step, Step, str]:
    first = _ask_departure(rng)
    day = (date(2026, 3, 1) + timedelta(days=rng.randrange(200))).isoformat()
    mode, stop, after = (first.arguments[name] for name in ("mode", "destination", "after"))
    second = _create_event(f"{mode} to {stop}", day, str(first.result["departure"]), [], True)
    return first, second, (
        f"On {day} I want the first {mode} to {stop} after {after}. Look it up and put it in my "
        "calendar with a reminder."
    )  # fmt: skip


_CHAINS = (_chain_reserve, _chain_order, _chain_distance, _chain_departure)
_TALKS = (_talk_single, _talk_parallel, _talk_sequential, _talk_plain, _talk_follow_up)


def generate_tools(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Make tool-calling conversations; every five rows in a row hold each of the five kinds.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on `num`.

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
