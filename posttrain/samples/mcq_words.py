"""Multiple-choice questions about words and reading, each with the table it draws from.

Prefixes, plurals, words often mixed up, synonyms, antonyms, figures of speech and main ideas.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from posttrain.samples.mcq_questions import NAMES, Question, blank

_PREFIXES = (
    ("re", ("write", "build", "fill", "heat", "paint", "read", "tell"), "again"),
    ("pre", ("heat", "pay", "cook", "order", "wash"), "ahead of time"),
    ("mis", ("spell", "read", "count", "judge", "place", "use"), "in a wrong way"),
    ("over", ("cook", "pay", "fill", "heat", "use"), "too much"),
)


def ask_prefix(rng: Random) -> Question:
    """Asks for the meaning of a verb with a prefix, or for the verb with that meaning."""
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


def ask_plural(rng: Random) -> Question:
    """Asks for the spelling of a plural."""
    singular, plural, wrong, rule = rng.choice(_PLURALS)
    count = rng.choice(("two", "three", "four", "five", "six", "many"))
    scene = rng.choice(("in the picture", "in the story", "in the old film"))
    why = f'The noun "{singular}" {rule} in the plural.'
    return Question(blank(f"There were {count} ___ {scene}."), plural, wrong, why)


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


def ask_main_idea(rng: Random) -> Question:
    """Asks what a passage of two sentences is about."""
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


def ask_confused(rng: Random) -> Question:
    """Asks for one of several words that sound or look alike."""
    words, right, sentence, why = rng.choice(_CONFUSED)
    return Question(
        blank(sentence.format(rng.choice(_THINGS))),
        right,
        tuple(word for word in words if word != right),
        f'The word "{right}" {why}, which is what the sentence needs.',
    )


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


def ask_synonym(rng: Random) -> Question:
    """Asks for a word with almost the same meaning."""
    return _ask_word(rng, opposite=False)


def ask_antonym(rng: Random) -> Question:
    """Asks for a word with the opposite meaning."""
    return _ask_word(rng, opposite=True)


_SIMILES = ("is as busy as a bee", "swims like a fish", "is as quiet as a mouse",
            "slept like a log", "runs like the wind", "is as brave as a lion")  # fmt: skip
_METAPHORS = ("is a walking encyclopedia", "is the sunshine of the family", "is a night owl",
              "was a statue during the game", "is a bundle of energy",
              "has a heart of gold")  # fmt: skip
_LITERAL = ("likes to read about bees", "swims faster than the others", "fed the fish in the pond",
            "looked at the statue in the park", "is the tallest in the family",
            "watched the wind move the leaves")  # fmt: skip


def ask_figure(rng: Random) -> Question:
    """Asks for the sentence with a simile or with a metaphor."""
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
