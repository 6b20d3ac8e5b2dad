"""The word-problem templates behind the built-in math sample data.

A template is one row of data. Its ``ranges`` give the smallest and the largest value of each
number. Its ``question`` names the numbers and the words of the scene in braces. Its ``answer``
does the same and writes every step of the calculation in brackets: ``[x = a × b]`` becomes
``6 × 7 = 42`` and lets the later steps say ``x``; the last step's result is the final answer.
"""

from __future__ import annotations

from dataclasses import dataclass

Ranges = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Template:
    """One kind of word problem.

    Attributes:
        name: The name that problems of this kind carry, unique among all templates.
        language: ``en`` or ``zh``.
        ranges: Smallest and largest value of each number that the question states.
        question: The question, with numbers and words of the scene in braces.
        answer: The solution, with its steps in brackets.
    """

    name: str
    language: str
    ranges: Ranges
    question: str
    answer: str

    @property
    def steps(self) -> int:
        """How many calculations the solution takes."""
        return self.answer.count("[")


# The words that vary: people with their pronoun, Chinese things with their measure word.
ENGLISH_PEOPLE = (
    ("Tom", "he"), ("Ben", "he"), ("Sam", "he"), ("Max", "he"), ("Leo", "he"), ("Jack", "he"),
    ("Anna", "she"), ("Mia", "she"), ("Lily", "she"), ("Emma", "she"), ("Lucy", "she"),
    ("Rosa", "she"),
)  # fmt: skip
ENGLISH_THINGS = (
    "apples", "pears", "oranges", "marbles", "stickers", "cards", "cookies", "candies",
    "shells", "stamps", "buttons", "beads",
)  # fmt: skip
CHINESE_PEOPLE = (
    "小明", "小红", "小华", "小丽", "小刚", "小芳", "小军", "小美", "小强", "小雨",
)  # fmt: skip
CHINESE_THINGS = (
    ("个", "苹果"), ("个", "橘子"), ("个", "鸡蛋"), ("个", "气球"), ("支", "铅笔"),
    ("支", "彩笔"), ("张", "卡片"), ("张", "贴纸"), ("颗", "糖"), ("颗", "珠子"),
    ("块", "饼干"), ("块", "橡皮"),
)  # fmt: skip

SMALL = (2, 9)
"""Factors and divisors stay within the multiplication table."""

ENGLISH = (
    Template(
        "en-buy-more", "en", {"a": (5, 60), "b": (3, 30)},
        "{name} has {a} {things} and buys {b} more. How many {things} does {he} have now?",
        "{name} has [a + b] {things}.",
    ),
    Template(
        "en-give-away", "en", {"a": (12, 80), "b": (3, 30)},
        "{name} has {a} {things} and gives {b} of them to {friend}."
        " How many {things} does {name} have left?",
        "{name} has [a - b] {things} left.",
    ),
    Template(
        "en-fewer-than", "en", {"a": (12, 80), "b": (3, 30)},
        "{name} has {a} {things}. {friend} has {b} fewer {things} than {name}."
        " How many {things} does {friend} have?",
        "{friend} has [a - b] {things}.",
    ),
    Template(
        "en-bus-stop", "en", {"a": (12, 50), "b": (2, 12), "c": (2, 12)},
        "There are {a} people on a bus. At the next stop, {b} people get off and {c} people"
        " get on. How many people are on the bus now?",
        "First there are [x = a - b] people left. Now there are [x + c] people.",
    ),
    Template(
        "en-future-age", "en", {"a": (5, 40), "b": (2, 15), "c": (2, 9)},
        "{name} is {a} years old. {friend} is {b} years older than {name}."
        " How old will {friend} be in {c} years?",
        "{friend} is [x = a + b] years old. In {c} years {friend} will be [x + c] years old.",
    ),
    Template(
        "en-boxes-and-more", "en", {"a": SMALL, "b": SMALL, "c": (2, 20)},
        "{name} has {a} boxes of {b} {things} each and {c} more {things}."
        " How many {things} does {he} have in all?",
        "The boxes hold [x = a × b] {things}. In all {he} has [x + c] {things}.",
    ),
    Template(
        "en-boxes-minus", "en", {"a": SMALL, "b": SMALL, "c": (2, 20)},
        "{name} buys {a} boxes of {b} {things} each and gives {c} {things} to {friend}."
        " How many {things} does {name} have left?",
        "The boxes hold [x = a × b] {things}. {name} has [x - c] {things} left.",
    ),
    Template(
        "en-times-as-many", "en", {"a": SMALL, "b": (3, 9), "c": (2, 20)},
        "{name} has {a} {things}. {friend} has {b} times as many and then buys {c} more."
        " How many {things} does {friend} have now?",
        "First {friend} has [x = a × b] {things}. Now {friend} has [x + c] {things}.",
    ),
    Template(
        "en-shopping", "en", {"a": SMALL, "b": SMALL, "c": (10, 90)},
        "{name} has {c} dollars and buys {a} books for {b} dollars each."
        " How many dollars does {he} have left?",
        "The books cost [x = a × b] dollars. {name} has [c - x] dollars left.",
    ),
    Template(
        "en-pages-left", "en", {"a": (20, 90), "b": SMALL, "c": SMALL},
        "A book has {a} pages. {name} reads {b} pages a day for {c} days."
        " How many pages are left?",
        "{name} reads [x = b × c] pages. There are [a - x] pages left.",
    ),
    Template(
        "en-share", "en", {"a": (5, 60), "b": (2, 20), "c": SMALL},
        "{name} has {a} {things} and buys {b} more. {He} shares them equally among {c} friends."
        " How many {things} does each friend get?",
        "{name} has [x = a + b] {things}. Each friend gets [x ÷ c] {things}.",
    ),
    Template(
        "en-teams", "en", {"a": (6, 40), "b": (6, 40), "c": SMALL},
        "A class has {a} boys and {b} girls. They form teams of {c}."
        " How many teams are there?",
        "The class has [x = a + b] students. There are [x ÷ c] teams.",
    ),
    Template(
        "en-sell-and-box", "en", {"a": (10, 90), "b": (2, 30), "c": SMALL},
        "{name} bakes {a} buns and sells {b} of them. {He} packs the rest into boxes of {c}."
        " How many boxes does {he} fill?",
        "There are [x = a - b] buns left. {name} fills [x ÷ c] boxes.",
    ),
    Template(
        "en-wages", "en", {"a": SMALL, "b": (2, 7), "c": (2, 7), "d": (2, 20)},
        "{name} earns {a} dollars an hour. {He} works {b} hours on Monday and {c} hours on"
        " Tuesday, then spends {d} dollars. How many dollars does {he} have left?",
        "{name} works [x = b + c] hours. {He} earns [y = x × a] dollars."
        " {He} has [y - d] dollars left.",
    ),
    Template(
        "en-two-kinds", "en", {"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL},
        "{name} buys {a} red boxes of {b} {things} each and {c} blue boxes of {d} {things} each."
        " How many {things} does {he} have in all?",
        "The red boxes hold [x = a × b] {things}. The blue boxes hold [y = c × d] {things}."
        " In all {he} has [x + y] {things}.",
    ),
    Template(
        "en-trays", "en", {"a": SMALL, "b": SMALL, "c": (2, 20), "d": SMALL},
        "{name} bakes {a} trays of {b} buns each and sells {c} of them. {He} packs the rest into"
        " boxes of {d}. How many boxes does {he} fill?",
        "{name} bakes [x = a × b] buns. There are [y = x - c] buns left."
        " {name} fills [y ÷ d] boxes.",
    ),
)  # fmt: skip

CHINESE = (
    Template(
        "zh-buy-more", "zh", {"a": (5, 60), "b": (3, 30)},
        "{name}有{a}{unit}{thing}，又买了{b}{unit}。现在一共有多少{unit}{thing}？",
        "一共有[a + b]{unit}{thing}。",
    ),
    Template(
        "zh-give-away", "zh", {"a": (12, 80), "b": (3, 30)},
        "{name}有{a}{unit}{thing}，送给{friend}{b}{unit}。还剩多少{unit}{thing}？",
        "还剩[a - b]{unit}{thing}。",
    ),
    Template(
        "zh-bus-stop", "zh", {"a": (12, 50), "b": (2, 12), "c": (2, 12)},
        "公交车上有{a}人，到站后下去{b}人，又上来{c}人。现在车上有多少人？",
        "下车后还剩[x = a - b]人，现在车上有[x + c]人。",
    ),
    Template(
        "zh-more-than", "zh", {"a": (5, 40), "b": (2, 15), "c": (2, 9)},
        "{name}有{a}{unit}{thing}，{friend}比{name}多{b}{unit}，后来又买了{c}{unit}。"
        "{friend}现在有多少{unit}{thing}？",
        "{friend}原来有[x = a + b]{unit}{thing}，现在有[x + c]{unit}{thing}。",
    ),
    Template(
        "zh-boxes-and-more", "zh", {"a": SMALL, "b": SMALL, "c": (2, 20)},
        "{name}有{a}盒{thing}，每盒{b}{unit}，另外还有{c}{unit}。一共有多少{unit}{thing}？",
        "盒里有[x = a × b]{unit}{thing}，一共有[x + c]{unit}{thing}。",
    ),
    Template(
        "zh-boxes-minus", "zh", {"a": SMALL, "b": SMALL, "c": (2, 20)},
        "{name}买了{a}盒{thing}，每盒{b}{unit}，送给{friend}{c}{unit}。还剩多少{unit}{thing}？",
        "盒里有[x = a × b]{unit}{thing}，还剩[x - c]{unit}{thing}。",
    ),
    Template(
        "zh-shopping", "zh", {"a": SMALL, "b": SMALL, "c": (10, 90)},
        "{name}有{c}元，买了{a}本书，每本{b}元。还剩多少元？",
        "买书花了[x = a × b]元，还剩[c - x]元。",
    ),
    Template(
        "zh-pages-left", "zh", {"a": (20, 90), "b": SMALL, "c": SMALL},
        "一本书有{a}页，{name}每天看{b}页，看了{c}天。还剩多少页？",
        "看了[x = b × c]页，还剩[a - x]页。",
    ),
    Template(
        "zh-share", "zh", {"a": (5, 60), "b": (2, 20), "c": SMALL},
        "{name}有{a}{unit}{thing}，又买了{b}{unit}，平均分给{c}个同学。每个同学分到多少{unit}？",
        "一共有[x = a + b]{unit}{thing}，每个同学分到[x ÷ c]{unit}。",
    ),
    Template(
        "zh-trees", "zh", {"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL},
        "同学们种树，杨树种了{a}行，每行{b}棵，柳树种了{c}行，每行{d}棵。一共种了多少棵树？",
        "杨树有[x = a × b]棵，柳树有[y = c × d]棵，一共有[x + y]棵。",
    ),
    Template(
        "zh-dumplings", "zh", {"a": SMALL, "b": SMALL, "c": (2, 20), "d": SMALL},
        "妈妈包了{a}盘饺子，每盘{b}个，吃了{c}个，剩下的每{d}个装一盒。可以装多少盒？",
        "一共有[x = a × b]个饺子，还剩[y = x - c]个，可以装[y ÷ d]盒。",
    ),
)  # fmt: skip

TEMPLATES: tuple[Template, ...] = ENGLISH + CHINESE
