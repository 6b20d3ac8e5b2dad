"""Sample multiple-choice items for English language arts, grades 2 to 8, written for this project.

One row is one item::

    {"standard": "CCSS.ELA-LITERACY.L.4.1.A", "standard_description": "...", "grade": "4",
     "skill": "relative pronouns", "difficulty": "easy|medium|hard", "stem": "...",
     "options": [{"key": "A", "text": "..."}, ...], "answer": "B", "explanation": "..."}

Four options, all different, exactly one right. Skills and answer keys come in shuffled blocks, so
both are balanced in any run of rows. The codes are those of the Common Core; the descriptions are
our own short wording.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

_Value = TypeVar("_Value")

KEYS = ("A", "B", "C", "D")

# Draws after which a repeated question is let through, so that any number of rows can be made.
_FRESH_TRIES = 40


@dataclass(frozen=True)
class Question:
    """A question before its options have keys; three of the wrong options are drawn."""

    stem: str
    right: str
    wrong: tuple[str, ...]
    why: str
    difficulty: str = "medium"


@dataclass(frozen=True)
class Skill:
    """What is tested, under which standard (without its common prefix), and how to ask it."""

    name: str
    code: str
    description: str
    ask: Callable[[Random], Question]

    @property
    def standard(self) -> str:
        """The full code, in the upper-case form with a dot before the letter."""
        return f"CCSS.ELA-LITERACY.{self.code}"

    @property
    def grade(self) -> str:
        """The grade, read from the code."""
        return self.code.split(".")[1]


NAMES = ("Mia", "Ben", "Ava", "Leo", "Nora", "Omar", "Ruby", "Sam", "Tara", "Wei")


def _blank(sentence: str, ask: str = "Which choice correctly completes the sentence?") -> str:
    return f"{ask}\n\n{sentence}"


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


def _ask_agreement(rng: Random) -> Question:
    subject, verb = rng.choice(_SUBJECTS), rng.choice(_HABITS)
    right, other = (verb.base, verb.third) if subject.plural else (verb.third, verb.base)
    number, helper = ("plural", "is") if subject.plural else ("singular", "are")
    return Question(
        _blank(f"{subject.text} ___ {verb.tail}."),
        right,
        (other, verb.ing, f"{helper} {verb.ing}"),
        f'The subject "{subject.head}" is {number}, so the verb must be {number} too.',
        subject.difficulty,
    )


def _ask_simple_tense(rng: Random) -> Question:
    name, verb = rng.choice(NAMES), rng.choice(_CHORES)
    has, was = f"has {verb.past}", f"was {verb.ing}"
    if rng.random() < 0.5:
        cue = rng.choice(("Tomorrow", "Next weekend", "Next Tuesday"))
        right, wrong, time = f"will {verb.base}", (verb.past, has, was), "future"
    else:
        cue = rng.choice(("Yesterday", "Last weekend", "Two days ago"))
        right, wrong, time = verb.past, (f"will {verb.base}", verb.third, f"is {verb.ing}"), "past"
    return Question(
        _blank(f"{cue}, {name} ___ {verb.tail}."),
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


def _ask_irregular_verb(rng: Random) -> Question:
    base, past, regular, participle, tail = rng.choice(_IRREGULAR)
    time = rng.choice(("Yesterday", "Last week", "Last night", "Two days ago"))
    return Question(
        _blank(f"{time}, {rng.choice(NAMES)} ___ {tail}."),
        past,
        (regular, participle, base),
        f'The verb "{base}" is irregular: its past tense is "{past}", not "{regular}".',
        "easy",
    )


_PREFIXES = (
    ("re", ("write", "build", "fill", "heat", "paint", "read", "tell"), "again"),
    ("pre", ("heat", "pay", "cook", "order", "wash"), "ahead of time"),
    ("mis", ("spell", "read", "count", "judge", "place", "use"), "in a wrong way"),
    ("over", ("cook", "pay", "fill", "heat", "use"), "too much"),
)


def _ask_prefix(rng: Random) -> Question:
    (prefix, bases, meaning), *others = rng.sample(_PREFIXES, 4)
    base = rng.choice(bases)
    why = f'The prefix "{prefix}-" adds the meaning "{meaning}" to the verb "{base}".'
    if rng.random() < 0.5:
        wrong = tuple(f"{other}{base}" for other, *_ in others)
        return Question(f'Which word means "to {base} {meaning}"?', prefix + base, wrong, why)
    wrong = tuple(f"to {base} {other}" for *_, other in others)
    ask = f'What does the word "{prefix}{base}" mean?'
    return Question(ask, f"to {base} {meaning}", wrong, why, "easy")


# singular, plural, three wrong plurals, the rule
_PLURALS = (
    ("child", "children", ("childs", "childrens", "childes"), "changes to a special form"),
    ("mouse", "mice", ("mouses", "mices", "mousies"), "changes to a special form"),
    ("tooth", "teeth", ("tooths", "teeths", "toothes"), "changes its vowels"),
    ("goose", "geese", ("gooses", "geeses", "goosies"), "changes its vowels"),
    ("woman", "women", ("womans", "womens", "womanes"), "changes its vowel"),
    ("leaf", "leaves", ("leafs", "leafes", "leavs"), "changes -f to -ves"),
    ("wolf", "wolves", ("wolfs", "wolfes", "wolvs"), "changes -f to -ves"),
    ("knife", "knives", ("knifes", "knifs", "knivs"), "changes -fe to -ves"),
    ("baby", "babies", ("babys", "babyes", "babeys"), "changes -y to -ies"),
    ("city", "cities", ("citys", "cityes", "citeys"), "changes -y to -ies"),
    ("fox", "foxes", ("foxs", "foxies", "foxxes"), "adds -es after x"),
    ("bench", "benches", ("benchs", "benchies", "benchess"), "adds -es after ch"),
    ("monkey", "monkeys", ("monkies", "monkeyes", "monkeis"), "adds only -s after a vowel and y"),
    ("sheep", "sheep", ("sheeps", "sheepes", "sheepies"), "keeps the same form"),
)


def _ask_plural(rng: Random) -> Question:
    singular, plural, wrong, rule = rng.choice(_PLURALS)
    count = rng.choice(("two", "three", "four", "five", "six", "many"))
    scene = rng.choice(("in the picture", "in the story", "in the old film"))
    why = f'The noun "{singular}" {rule} in the plural.'
    return Question(_blank(f"There were {count} ___ {scene}."), plural, wrong, why)


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


def _ask_conjunction(rng: Random) -> Question:
    link = rng.choice(_LINKS)
    ask = f"Which conjunction completes the sentence and shows {link.relation}?"
    return Question(
        _blank(rng.choice(link.sentences).format(rng.choice(NAMES)), ask),
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


def _ask_possessive(rng: Random) -> Question:
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
class _Passage:
    main: str
    broad: str
    details: tuple[str, ...]


_PASSAGES = (
    _Passage("Bees are useful in many ways.", "All insects have six legs.", (
        "Bees carry pollen from flower to flower, which helps new seeds grow.",
        "People eat the honey that bees make.",
        "The wax from beehives can be used to make candles.",
        "Farmers place beehives near apple trees to get more fruit.")),
    _Passage("Beavers are skilled builders.", "Many animals live near water.", (
        "Beavers cut down trees with their strong front teeth.",
        "With branches and mud, beavers make dams that hold back a stream.",
        "A beaver home has doors under the water that keep enemies out.",
        "When a dam leaks, beavers quickly repair the hole.")),
    _Passage("Camels are well suited to life in the desert.", "Deserts are found in many lands.", (
        "A camel's long eyelashes keep blowing sand out of its eyes.",
        "The fat in a camel's hump gives it energy when food is hard to find.",
        "Wide feet keep a camel from sinking into soft sand.",
        "A camel can go for days without a drink of water.")),
    _Passage("A library offers more than books.", "Most towns have public buildings.", (
        "At many libraries, visitors can use computers for free.",
        "Some libraries lend out games, tools, and musical instruments.",
        "Many libraries hold classes in art and cooking.",
        "Families come to the library to watch films and puppet shows.")),
    _Passage("Wind can do useful work.", "Weather changes from day to day.", (
        "Wind turns the blades of turbines that make electricity.",
        "Sailors use the wind to push their boats across the sea.",
        "In some places, windmills pump water up from wells.",
        "A steady wind dries the wet clothes on a line.")),
    _Passage("Some dogs do important jobs.", "People keep many kinds of pets.", (
        "Guide dogs help people who cannot see to cross streets safely.",
        "On farms, some dogs keep flocks of sheep together.",
        "Search dogs follow a scent to find hikers who are lost.",
        "Gentle dogs visit hospitals to comfort sick children.")),
    _Passage("Old things can be made into something new.", "Stores sell many kinds of goods.", (
        "Used glass jars can be melted and shaped into new bottles.",
        "Old newspapers can be turned into cardboard boxes.",
        "Some plastic bottles are made into thread for warm jackets.",
        "Kitchen scraps can become rich soil for a garden.")),
)  # fmt: skip


def _ask_main_idea(rng: Random) -> Question:
    passage = rng.choice(_PASSAGES)
    first, second = rng.sample(passage.details, 2)
    other = rng.choice([one.main for one in _PASSAGES if one is not passage])
    return Question(
        f"Read the passage.\n\n{first} {second}\n\nWhat is the main idea of the passage?",
        passage.main,
        (rng.choice((first, second)), passage.broad, other),
        "Both sentences support this idea; the other choices are a single detail or are not "
        "what the passage tells about.",
        "hard",
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


def _ask_relative(rng: Random) -> Question:
    relative = rng.choice(_RELATIVES)
    sentence = relative.frame.format(rng.choice(relative.nouns), rng.choice(relative.clauses))
    why = f'Here "{relative.right}" {relative.why}.'
    return Question(_blank(sentence), relative.right, relative.wrong, why)


_THEIR = ("there", "their", "they're", "theirs")
_TO = ("to", "too", "two", "tow")
_ITS = ("its", "it's", "its'", "it")
_YOUR = ("your", "you're", "yours", "you")
# the set, the right word, the sentence with a slot for a thing, what the right word does
_CONFUSED = (
    (_THEIR, "there", "Please put the {} over ___.", "names a place"),
    (_THEIR, "their", "The twins forgot ___ {} at school.", "shows that something is theirs"),
    (_THEIR, "they're", "I think ___ looking for the {}.", 'is short for "they are"'),
    (_TO, "to", "Carry the {} ___ the front desk.", "shows direction"),
    (_TO, "too", "The {} costs ___ much.", 'means "more than enough"'),
    (_TO, "two", "I need one {}, not ___.", "names the number 2"),
    (_ITS, "its", "The puppy dropped my {} on ___ bed.", 'shows what belongs to "the puppy"'),
    (_ITS, "it's", "My {} is torn, so ___ time for a new one.", 'is short for "it is"'),
    (_YOUR, "your", "Did you leave ___ {} on the bus?", "shows that something is owned by you"),
    (_YOUR, "you're", "Take the {} if ___ going out.", 'is short for "you are"'),
)
_THINGS = ("jacket", "notebook", "umbrella", "scarf", "backpack", "lunch box", "pencil", "map")


def _ask_confused(rng: Random) -> Question:
    words, right, sentence, why = rng.choice(_CONFUSED)
    return Question(
        _blank(sentence.format(rng.choice(_THINGS))),
        right,
        tuple(word for word in words if word != right),
        f'The word "{right}" {why}, which is what the sentence needs.',
    )


_PLACES = ("Lake Huron", "New York", "South Africa", "Mexico City", "Mount Fuji", "Costa Rica")
_MONTHS = ("January", "April", "June", "July", "September", "October", "December")


def _ask_capitals(rng: Random) -> Question:
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


@dataclass(frozen=True)
class _Word:
    word: str
    synonym: str
    antonym: str


_WORDS = (
    _Word("rapid", "fast", "slow"),
    _Word("enormous", "huge", "tiny"),
    _Word("silent", "quiet", "noisy"),
    _Word("brave", "courageous", "cowardly"),
    _Word("difficult", "hard", "easy"),
    _Word("damp", "moist", "dry"),
    _Word("joyful", "cheerful", "gloomy"),
    _Word("polite", "courteous", "rude"),
    _Word("weary", "tired", "rested"),
    _Word("frigid", "freezing", "boiling"),
    _Word("wealthy", "rich", "poor"),
    _Word("honest", "truthful", "deceitful"),
    _Word("vacant", "empty", "occupied"),
    _Word("famous", "well-known", "obscure"),
    _Word("ancient", "very old", "modern"),
)


def _ask_word(rng: Random, opposite: bool) -> Question:
    entry, *others = rng.sample(_WORDS, 3)
    word, synonym = rng.sample((entry.word, entry.synonym), 2)
    far = [rng.choice((other.word, other.antonym)) for other in others]
    if opposite:
        ask = rng.choice(("means the opposite of", "is an antonym of"))
        why = f'Antonyms have opposite meanings, as "{word}" and "{entry.antonym}" do.'
        right, wrong = entry.antonym, synonym
    else:
        ask = rng.choice(("means almost the same as", "is a synonym of"))
        why = f'Synonyms have nearly the same meaning, as "{word}" and "{synonym}" do.'
        right, wrong = synonym, entry.antonym
    return Question(f'Which choice {ask} "{word}"?', right, (wrong, *far), why)


def _ask_synonym(rng: Random) -> Question:
    return _ask_word(rng, opposite=False)


def _ask_antonym(rng: Random) -> Question:
    return _ask_word(rng, opposite=True)


def _ask_series(rng: Random) -> Question:
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


_SIMILES = ("is as busy as a bee", "swims like a fish", "is as quiet as a mouse",
            "slept like a log", "runs like the wind", "is as brave as a lion")  # fmt: skip
_METAPHORS = ("is a walking encyclopedia", "is the sunshine of the family", "is a night owl",
              "was a statue during the game", "is a bundle of energy",
              "has a heart of gold")  # fmt: skip
_LITERAL = ("likes to read about bees", "swims faster than the others", "fed the fish in the pond",
            "looked at the statue in the park", "is the tallest in the family",
            "watched the wind move the leaves")  # fmt: skip


def _ask_figure(rng: Random) -> Question:
    simile, metaphor = rng.choice(_SIMILES), rng.choice(_METAPHORS)
    plain = rng.sample(_LITERAL, 2)
    names = rng.sample(NAMES, 4)
    if rng.random() < 0.5:
        kind, right, other = "simile", simile, metaphor
        why = 'A simile compares two unlike things with "like" or "as".'
    else:
        kind, right, other = "metaphor", metaphor, simile
        why = 'A metaphor compares two unlike things without "like" or "as".'
    texts = [f"{name} {tail}." for name, tail in zip(names, (right, other, *plain), strict=True)]
    return Question(f"Which sentence contains a {kind}?", texts[0], tuple(texts[1:]), why, "hard")


def _ask_pronoun_case(rng: Random) -> Question:
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
    return Question(_blank(sentence), right, (other, *rest), why)


def _ask_coordinate(rng: Random) -> Question:
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


def _ask_voice(rng: Random) -> Question:
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


SKILLS = (
    Skill("irregular past tense", "L.2.1.D", "Past forms of common irregular verbs.",
          _ask_irregular_verb),
    Skill("prefixes", "L.2.4.B", "Working out a word from its prefix and base.", _ask_prefix),
    Skill("plural nouns", "L.3.1.B", "Forming plurals, regular and irregular.", _ask_plural),
    Skill("simple verb tenses", "L.3.1.E", "Past, present, and future in their simple forms.",
          _ask_simple_tense),
    Skill("subject-verb agreement", "L.3.1.F", "Making verbs and pronouns agree.",
          _ask_agreement),
    Skill("conjunctions", "L.3.1.H", "Joining ideas with conjunctions.", _ask_conjunction),
    Skill("possessives", "L.3.2.D", "Showing who owns something.", _ask_possessive),
    Skill("main idea", "RI.3.2", "Finding the main idea and the details behind it.",
          _ask_main_idea),
    Skill("relative pronouns and adverbs", "L.4.1.A", "Linking clauses with words such as who, "
          "whose, which, and where.", _ask_relative),
    Skill("homophones", "L.4.1.G", "Telling apart words that are often mixed up.",
          _ask_confused),
    Skill("capitalization", "L.4.2.A", "Using capital letters.", _ask_capitals),
    Skill("synonyms", "L.4.5.C", "Knowing words through their synonyms and opposites.",
          _ask_synonym),
    Skill("commas in a series", "L.5.2.A", "Punctuating a list of items.", _ask_series),
    Skill("similes and metaphors", "L.5.5.A", "Understanding comparisons in figurative language.",
          _ask_figure),
    Skill("antonyms", "L.5.5.C", "Using word relationships to understand words better.",
          _ask_antonym),
    Skill("pronoun case", "L.6.1.A", "Subject, object, and possessive pronouns.",
          _ask_pronoun_case),
    Skill("coordinate adjectives", "L.7.2.A", "Commas between adjectives of equal rank.",
          _ask_coordinate),
    Skill("active and passive voice", "L.8.1.B", "Forming and recognizing both voices.",
          _ask_voice),
)  # fmt: skip


def _shuffled_blocks(values: tuple[_Value, ...], rng: Random) -> Iterator[_Value]:
    while True:
        yield from rng.sample(values, len(values))


def _row(skill: Skill, question: Question, key: str, rng: Random) -> dict[str, object]:
    texts = rng.sample(question.wrong, 3)
    texts.insert(KEYS.index(key), question.right)
    return {
        "standard": skill.standard,
        "standard_description": skill.description,
        "grade": skill.grade,
        "skill": skill.name,
        "difficulty": question.difficulty,
        "stem": question.stem,
        "options": [{"key": k, "text": text} for k, text in zip(KEYS, texts, strict=True)],
        "answer": key,
        "explanation": f'Option {key} ("{question.right}") is right. {question.why}',
    }


def generate_mcq(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Make multiple-choice items; no question comes twice until its skill runs out of new ones.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on `num`.

    Yields:
        One item, in the shape given at the top of this module.
    """
    rng = Random(seed)
    skills, keys = _shuffled_blocks(SKILLS, rng), _shuffled_blocks(KEYS, rng)
    seen: set[tuple[str, str]] = set()
    for _ in range(num):
        skill = next(skills)
        for _ in range(_FRESH_TRIES):
            question = skill.ask(rng)
            if (question.stem, question.right) not in seen:
                break
        seen.add((question.stem, question.right))
        yield _row(skill, question, next(keys), rng)
