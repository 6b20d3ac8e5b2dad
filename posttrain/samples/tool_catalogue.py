"""The tools of the sample tool-calling conversations, each with the function that asks for it.

``TOOLS`` lists them as they are declared to the model. The services are invented, but the same
arguments always give the same result, and every answer follows from it. The functions and tables
without an underscore also serve the chains of two steps in ``tools``.
"""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from posttrain.samples.tool_schema import Arguments, Parameter, Step, Tool

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


def create_event(title: str, day: str, start: str, guests: list[str], remind: bool) -> Step:
    """Puts an event into the calendar, perhaps with guests and a reminder."""
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
    return create_event(title, day.isoformat(), start, guests, rng.random() < 0.5)


# from, to, factor: all exact
UNITS = (
    ("kilometers", "meters", 1000.0),
    ("miles", "kilometers", 1.609344),
    ("inches", "centimeters", 2.54),
    ("pounds", "kilograms", 0.45359237),
    ("hours", "minutes", 60.0),
)


def _tidy(value: float) -> float:
    return int(value) if value == int(value) else value


def convert(value: float, source: str, target: str, factor: float) -> Step:
    """Converts a value by its factor."""
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
    return convert(rng.randint(4, 60) / 2, *rng.choice(UNITS))


def calculate(operation: str, numbers: list[int]) -> Step:
    """Adds or multiplies numbers."""
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
    return calculate(operation, [rng.randint(11, 99) for _ in range(rng.randint(2, 4))])


# id, title, author, subject, copies on the shelf; none of these books exists
BOOKS = (
    ("b101", "Rivers of Glass", "I. Marlow", "nature", 2),
    ("b102", "The Patient Gardener", "S. Okoye", "gardening", 0),
    ("b103", "Clay, Bricks and Towers", "T. Lindqvist", "building", 1),
    ("b104", "A Short Walk to the Moon", "P. Tanaka", "space", 3),
    ("b105", "Soup for Seven Days", "R. Duarte", "cooking", 1),
    ("b106", "Night Trains", "E. Novak", "travel", 0),
)


def search_books(book: tuple[str, str, str, str, int], only_available: bool) -> Step:
    """Looks for a book by its subject; with ``only_available``, among those not lent."""
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


def reserve_book(code: str, title: str, branch: str) -> Step:
    """Reserves a book at a branch."""
    number = sum(map(ord, code + branch))
    return Step(
        "library.reserve",
        {"book_id": code, "branch": branch},
        f"Please reserve the book {code} for me at the {branch} branch.",
        {"reservation": f"r-{number}", "title": title, "branch": branch},
        f"'{title}' is reserved for you at the {branch} branch; the reservation is r-{number}.",
    )


def _ask_search(rng: Random) -> Step:
    return search_books(rng.choice(BOOKS), rng.random() < 0.5)


def _ask_reserve(rng: Random) -> Step:
    code, title, *_ = rng.choice([book for book in BOOKS if book[4]])
    return reserve_book(code, title, rng.choice(("north", "central", "harbor")))


def order_status(number: int) -> Step:
    """Tells how far an order has come."""
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
    return order_status(rng.randint(40000, 49999))


def ask_latest(rng: Random) -> Step:
    """Asks for the number of a customer's latest order."""
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


def ask_departure(rng: Random) -> Step:
    """Asks when the next train or bus to a stop leaves."""
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
        Parameter("from_unit", "string", "Unit of the value.", tuple(u[0] for u in UNITS)),
        Parameter("to_unit", "string", "Unit of the result.", tuple(u[1] for u in UNITS)),
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
    ), ask_latest),
    Tool("translation.word", "Translate one English word.", (
        Parameter("word", "string", "The English word."),
        Parameter("language", "string", "Language to translate to.", _LANGUAGES),
    ), _ask_translation),
    Tool("timetable.next_departure", "Next departure to a stop.", (
        Parameter("destination", "string", "Where to go."),
        Parameter("mode", "string", "Means of transport.", ("train", "bus")),
        Parameter("after", "string", "Leave after this time, given as HH:MM."),
    ), ask_departure),
)  # fmt: skip
