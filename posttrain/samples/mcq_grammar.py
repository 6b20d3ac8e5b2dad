"""Multiple-choice questions about grammar and punctuation, each with the table it draws from.

Verbs, conjunctions, possessives, relative clauses, pronouns, voice, capitals and commas.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from posttrain.samples.mcq_questions import NAMES, Question, blank


@dataclass(frozen=True)
class _Subject:
    text: str
    head: str
    plural: bool
    difficulty: str = "easy"


@dataclass(frozen=True)
class _Verb:
    base: str
    third: str
    past: str
    ing: str
    tail: str


_SUBJECTS = (
    _Subject("The puppy", "puppy", False),
    _Subject("My cousins", "cousins", True),
    _Subject("The teacher", "teacher", False),
    _Subject("Those boys", "boys", True),
    _Subject("Nora and her brother", "Nora and her brother", True, "medium"),
    _Subject("Everyone in our class", "Everyone", False, "medium"),
    _Subject("The girls on the soccer team", "girls", True, "medium"),
    _Subject("The leader of the scouts", "leader", False, "medium"),
    _Subject("Each of the students", "Each", False, "hard"),
    _Subject("One of the players", "One", False, "hard"),
)
_HABITS = (
    _Verb("wait", "waits", "waited", "waiting", "by the gate every morning"),
    _Verb("run", "runs", "ran", "running", "around the field after lunch each day"),
    _Verb("sit", "sits", "sat", "sitting", "in the shade every afternoon"),
    _Verb("look", "looks", "looked", "looking", "for shells at the beach every summer"),
    _Verb("walk", "walks", "walked", "walking", "past the bakery every Monday"),
)
_CHORES = (
    _Verb("water", "waters", "watered", "watering", "the garden"),
    _Verb("paint", "paints", "painted", "painting", "the fence"),
    _Verb("clean", "cleans", "cleaned", "cleaning", "the garage"),
    _Verb("cook", "cooks", "cooked", "cooking", "dinner for the family"),
    _Verb("wash", "washes", "washed", "washing", "the car"),
    _Verb("practice", "practices", "practiced", "practicing", "the piano"),
    _Verb("pack", "packs", "packed", "packing", "the picnic basket"),
    _Verb("rake", "rakes", "raked", "raking", "the leaves"),
)


def ask_agreement(rng: Random) -> Question:
    """Asks for the verb that agrees with its subject."""
    subject, verb = rng.choice(_SUBJECTS), rng.choice(_HABITS)
    right, other = (verb.base, verb.third) if subject.plural else (verb.third, verb.base)
    number, helper = ("plural", "is") if subject.plural else ("singular", "are")
    return Question(
        blank(f"{subject.text} ___ {verb.tail}."),
        right,
        (other, verb.ing, f"{helper} {verb.ing}"),
        f'The subject "{subject.head}" is {number}, so the verb must be {number} too.',
        subject.difficulty,
    )


def ask_simple_tense(rng: Random) -> Question:
    """Asks for the past or the future tense that the time calls for."""
    name, verb = rng.choice(NAMES), rng.choice(_CHORES)
    has, was = f"has {verb.past}", f"was {verb.ing}"
    if rng.random() < 0.5:
        cue = rng.choice(("Tomorrow", "Next weekend", "Next Tuesday"))
        right, wrong, time = f"will {verb.base}", (verb.past, has, was), "future"
    else:
        cue = rng.choice(("Yesterday", "Last weekend", "Two days ago"))
        right, wrong, time = verb.past, (f"will {verb.base}", verb.third, f"is {verb.ing}"), "past"
    return Question(
        blank(f"{cue}, {name} ___ {verb.tail}."),
        right,
        wrong,
        f'"{cue}" points to the {time}, so the verb must be in the {time} tense.',
        "easy",
    )


# base, past, a wrong regular form, past participle or -ing form, what follows the verb
_IRREGULAR = (
    ("go", "went", "goed", "gone", "to the zoo"),
    ("see", "saw", "seed", "seen", "a rainbow"),
    ("eat", "ate", "eated", "eaten", "a ripe peach"),
    ("take", "took", "taked", "taken", "a photo of the pond"),
    ("write", "wrote", "writed", "written", "a letter to Grandma"),
    ("draw", "drew", "drawed", "drawn", "a map of the park"),
    ("give", "gave", "gived", "given", "the dog a bath"),
    ("break", "broke", "breaked", "broken", "a blue cup"),
    ("throw", "threw", "throwed", "thrown", "the ball over the wall"),
    ("fly", "flew", "flied", "flown", "a kite on the hill"),
    ("hide", "hid", "hided", "hidden", "the gift under the bed"),
    ("tell", "told", "telled", "telling", "a funny story"),
)


def ask_irregular_verb(rng: Random) -> Question:
    """Asks for the past tense of an irregular verb."""
    base, past, regular, participle, tail = rng.choice(_IRREGULAR)
    time = rng.choice(("Yesterday", "Last week", "Last night", "Two days ago"))
    return Question(
        blank(f"{time}, {rng.choice(NAMES)} ___ {tail}."),
        past,
        (regular, participle, base),
        f'The verb "{base}" is irregular: its past tense is "{past}", not "{regular}".',
        "easy",
    )


@dataclass(frozen=True)
class _Link:
    word: str
    relation: str
    sentences: tuple[str, ...]


_LINKS = (
    _Link("so", "a result", ("The bus was late, ___ {} walked to school.",
                             "It began to rain, ___ {} opened an umbrella.",
                             "The soup was too hot, ___ {} let it cool.")),
    _Link("because", "a reason", ("{} opened an umbrella ___ it began to rain.",
                                  "{} smiled ___ the team had won.",
                                  "{} whispered ___ the baby was asleep.")),
    _Link("but", "a contrast", ("The hill was steep, ___ {} reached the top.",
                                "{} searched all day, ___ the key did not turn up.",
                                "The puzzle was hard, ___ {} solved it quickly.")),
    _Link("or", "a choice", ("{} can take the bus, ___ Dad can drive.",
                             "We can eat now, ___ we can wait for {}.",
                             "{} may paint a picture, ___ the class may sing a song.")),
    _Link("if", "a condition", ("{} will play outside ___ the rain stops.",
                                "The plant will grow well ___ {} waters it.",
                                "{} will win the prize ___ no one else enters.")),
)  # fmt: skip


def ask_conjunction(rng: Random) -> Question:
    """Asks for the conjunction that shows a result, a reason and so on."""
    link = rng.choice(_LINKS)
    ask = f"Which conjunction completes the sentence and shows {link.relation}?"
    return Question(
        blank(rng.choice(link.sentences).format(rng.choice(NAMES)), ask),
        link.word,
        tuple(other.word for other in _LINKS if other is not link),
        f'The conjunction "{link.word}" joins two ideas and shows {link.relation}.',
    )


_OWNERS = (
    ("dog", "dogs"),
    ("girl", "girls"),
    ("farmer", "farmers"),
    ("teacher", "teachers"),
    ("neighbor", "neighbors"),
    ("child", "children"),
    ("man", "men"),
)


def ask_possessive(rng: Random) -> Question:
    """Asks where the apostrophe goes, for one owner or for several."""
    singular, plural = rng.choice(_OWNERS)
    thing = rng.choice(("pictures", "garden", "house", "blankets", "balloons"))
    if plural.endswith("s"):
        many, wrong = f"{plural}'", (plural, f"{plural}'s")
        rule = "a plural noun ending in s takes only an apostrophe"
    else:
        many, wrong = f"{plural}'s", (f"{singular}s'", f"{plural}s'")
        rule = "a plural noun that does not end in s takes an apostrophe and s"
    number, owner, right, other = rng.choice(("two", "three")), plural, many, f"{singular}'s"
    if rng.random() < 0.5:
        number, owner, right, other = "one", singular, other, right
        rule = "a singular noun takes an apostrophe and s"
    return Question(
        f'Which phrase means "the {thing} belonging to {number} {owner}"?',
        f"the {right} {thing}",
        tuple(f"the {form} {thing}" for form in (other, *wrong)),
        f"Here {number} {owner} must be shown as the owner, and {rule}.",
    )


@dataclass(frozen=True)
class _Relative:
    right: str
    wrong: tuple[str, str, str]
    frame: str
    nouns: tuple[str, ...]
    clauses: tuple[str, ...]
    why: str


_PEOPLE = ("girl", "nurse", "baker", "coach", "farmer")
_RELATIVES = (
    _Relative("who", ("whose", "which", "where"), "The {} ___ {} is waving at us.", _PEOPLE,
              ("lives next door", "won the race", "called last night", "helped me"),
              "stands for a person and is the subject of its clause"),
    _Relative("whose", ("who", "whom", "which"), "The {} ___ {} is waving at us.", _PEOPLE,
              ("bike was stolen", "dog ran away", "painting won a prize", "hat is red"),
              "shows that something belongs to the person"),
    _Relative("which", ("who", "whose", "where"), "The {}, ___ {}, is in the hall.",
              ("kite", "bicycle", "wagon", "sweater"),
              ("is bright green", "my uncle gave me", "cost ten dollars", "was a gift"),
              "stands for a thing"),
    _Relative("where", ("which", "who", "whose"), "The {} ___ {} is closed today.",
              ("park", "library", "bakery", "museum"),
              ("we first met", "I lost my hat", "our class ate lunch", "Ava found a key"),
              "refers to a place"),
    _Relative("when", ("which", "who", "whose"), "I remember the {} ___ {}.",
              ("day", "night", "morning", "summer"),
              ("we moved here", "it hailed", "my cousin visited", "the bridge opened"),
              "refers to a time"),
)  # fmt: skip


def ask_relative(rng: Random) -> Question:
    """Asks for the relative pronoun or adverb that starts a clause."""
    relative = rng.choice(_RELATIVES)
    sentence = relative.frame.format(rng.choice(relative.nouns), rng.choice(relative.clauses))
    why = f'Here "{relative.right}" {relative.why}.'
    return Question(blank(sentence), relative.right, relative.wrong, why)


_PLACES = ("Lake Huron", "New York", "South Africa", "Mexico City", "Mount Fuji", "Costa Rica")
_MONTHS = ("January", "April", "June", "July", "September", "October", "December")


def ask_capitals(rng: Random) -> Question:
    """Asks for the sentence with the right capital letters."""
    name, place, month = rng.choice(NAMES), rng.choice(_PLACES), rng.choice(_MONTHS)
    right = f"{name} and I visited {place} in {month}."
    wrong = (
        right.replace(month, month.lower()),
        right.replace(place, place.lower()),
        right.replace(" I ", " i "),
        right.replace(" visited ", " Visited "),
    )
    why = 'Names of people, places, and months and the word "I" take capitals; "visited" does not.'
    return Question("Which sentence uses capital letters correctly?", right, wrong, why)


def ask_series(rng: Random) -> Question:
    """Asks for the sentence with the right commas between the items of a list."""
    action, things = rng.choice(
        (
            ("packed", ("apples", "bread", "cheese", "grapes", "juice")),
            ("drew", ("a castle", "a dragon", "a bridge", "a river", "a moat")),
            ("bought", ("pencils", "paper", "glue", "tape", "paint")),
            ("saw", ("lions", "zebras", "camels", "seals", "owls")),
        )
    )
    name = rng.choice(NAMES)
    a, b, c = rng.sample(things, 3)
    return Question(
        "Which sentence uses commas correctly?",
        f"{name} {action} {a}, {b}, and {c}.",
        (
            f"{name} {action} {a} {b} and {c}.",
            f"{name} {action}, {a}, {b}, and {c}.",
            f"{name} {action} {a}, {b}, and, {c}.",
            f"{name}, {action} {a} {b}, and {c}.",
        ),
        "Commas separate the items in a series; none goes before the first item or after the "
        '"and".',
    )


def ask_pronoun_case(rng: Random) -> Question:
    """Asks for the form of a pronoun in a pair, as subject or as object."""
    subjective, objective, *rest = rng.choice(
        (
            ("I", "me", "my", "mine"),
            ("he", "him", "his", "he's"),
            ("she", "her", "hers", "she's"),
            ("they", "them", "their", "theirs"),
            ("we", "us", "our", "ours"),
        )
    )
    name = rng.choice(NAMES)
    sentence, role, right, other = rng.choice(
        (
            (f"{name} and ___ walked to school.", "subject", subjective, objective),
            (f"After lunch, {name} and ___ played chess.", "subject", subjective, objective),
            (f"The coach gave {name} and ___ a map.", "object", objective, subjective),
            (f"Grandma sat between {name} and ___.", "object", objective, subjective),
        )
    )
    why = f'The pronoun is part of the {role}, so it must be in the {role}ive case: "{right}".'
    return Question(blank(sentence), right, (other, *rest), why)


def ask_coordinate(rng: Random) -> Question:
    """Asks for the sentence with the right comma between two adjectives."""
    noun, adjectives = rng.choice(
        (
            ("walk", ("long", "tiring", "cold", "muddy")),
            ("puppy", ("playful", "curious", "gentle", "noisy")),
            ("story", ("strange", "funny", "touching", "thrilling")),
            ("room", ("dark", "dusty", "chilly", "quiet")),
            ("speech", ("clear", "honest", "thoughtful", "moving")),
        )
    )
    a, b = rng.sample(adjectives, 2)
    start = rng.choice(("It was a", f"{rng.choice(NAMES)} remembered a"))
    return Question(
        "Which sentence uses commas correctly?",
        f"{start} {a}, {b} {noun}.",
        (
            f"{start} {a} {b} {noun}.",
            f"{start} {a} {b}, {noun}.",
            f"{start}, {a} {b} {noun}.",
            f"{start} {a}, {b}, {noun}.",
        ),
        f'A comma separates "{a}" and "{b}", which describe the noun equally: they could change '
        'places or be joined by "and". No comma follows the last adjective.',
        "hard",
    )


# past, participle, what is acted on
_ACTIONS = (
    ("baked", "baked", ("bread", "pie")),
    ("wrote", "written", ("letter", "poem")),
    ("drew", "drawn", ("map", "portrait")),
    ("broke", "broken", ("lamp", "window")),
    ("built", "built", ("bridge", "cabin")),
    ("chose", "chosen", ("song", "color")),
    ("painted", "painted", ("gate", "mural")),
    ("threw", "thrown", ("ball", "rope")),
)


def ask_voice(rng: Random) -> Question:
    """Asks for the one sentence in the active or in the passive voice."""
    past, participle, things = rng.choice(_ACTIONS)
    agent = rng.choice(("student", "mayor", "artist", "coach", "visitor", "twins"))
    thing = rng.choice(things)
    have = "have" if agent == "twins" else "has"
    verbs = (past, f"{have} {participle}", f"had {participle}")
    active = [f"The {agent} {verb} the {thing}." for verb in verbs]
    helpers = ("was", "has been", "will be")
    passive = [f"The {thing} {helper} {participle} by the {agent}." for helper in helpers]
    if rng.random() < 0.5:
        voice, right, wrong, why = "passive", passive[0], active, "receives"
    else:
        voice, right, wrong, why = "active", active[0], passive, "does"
    return Question(
        f"Which sentence is written in the {voice} voice?",
        right,
        tuple(wrong),
        f"In the {voice} voice the subject {why} the action.",
        "hard",
    )
