"""Sample conversations in English and Chinese, written for this project.

One row is ``{"messages": [{"role": "system|user|assistant", "content": "..."}, ...]}`` with one to
three exchanges, about half of them after a system turn. Later questions refer back to earlier ones
("Now write it in upper case."), and every answer is computed or comes from a small table of facts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from random import Random

Exchange = tuple[str, str]

_SYSTEMS = {
    "en": (
        "You are a helpful assistant.",
        "You are a polite assistant who gives short, exact answers.",
        "Answer in plain English and keep it brief.",
    ),
    "zh": (
        "你是一个乐于助人的助手。",
        "你是一个有礼貌的助手，回答简短而准确。",
        "请用简洁的中文回答。",
    ),
}
_WORDS = ("apple", "river", "candle", "window", "garden", "pencil", "mountain", "kettle", "orange",
          "ladder", "planet", "violin", "basket", "desert", "island", "feather", "lantern",
          "meadow", "needle", "picture", "saddle", "teapot", "umbrella", "yard")  # fmt: skip
_NAMES = ("Ana", "Boris", "Chen", "Dalia", "Emil", "Farah", "Goran", "Hana", "Iris", "Jonas")
# A sentence takes one part of each tuple, in this order.
_SENTENCE = (
    ("The young baker", "My neighbor", "Our new teacher", "The tall sailor", "Her cousin"),
    ("painted a small boat", "carried three baskets", "repaired an old clock", "saw the moon"),
    ("before noon", "near the lake", "after the long storm", "behind the house"),
)
_CHINESE_WORDS = ("苹果", "河流", "蜡烛", "窗户", "花园", "铅笔", "高山", "水壶", "月亮", "小提琴")
_CHINESE_SENTENCE = (
    ("邻居", "老师", "妹妹", "爷爷", "三个孩子"),
    ("在院子里", "在小河边", "在中午之前", "下雨以后"),
    ("睡着了", "唱了一首歌", "喝了一杯茶", "看了一本书"),
)
_CHINESE_NAMES = ("小明", "小红", "小华", "小丽", "小刚", "小雨")


@dataclass(frozen=True)
class _Country:
    name: str
    capital: str
    continent: str
    chinese: tuple[str, str, str]


_COUNTRIES = (
    _Country("Portugal", "Lisbon", "Europe", ("葡萄牙", "里斯本", "欧洲")),
    _Country("Norway", "Oslo", "Europe", ("挪威", "奥斯陆", "欧洲")),
    _Country("Kenya", "Nairobi", "Africa", ("肯尼亚", "内罗毕", "非洲")),
    _Country("Ghana", "Accra", "Africa", ("加纳", "阿克拉", "非洲")),
    _Country("Peru", "Lima", "South America", ("秘鲁", "利马", "南美洲")),
    _Country("Chile", "Santiago", "South America", ("智利", "圣地亚哥", "南美洲")),
    _Country("Japan", "Tokyo", "Asia", ("日本", "东京", "亚洲")),
    _Country("Vietnam", "Hanoi", "Asia", ("越南", "河内", "亚洲")),
    _Country("Canada", "Ottawa", "North America", ("加拿大", "渥太华", "北美洲")),
)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _talk_reverse(rng: Random) -> list[Exchange]:
    words = rng.sample(_WORDS, rng.randint(3, 5))
    backward = ", ".join(reversed(words))
    return [
        (f"Reverse the order of this list: {', '.join(words)}", backward),
        ("Now write it in upper case.", backward.upper()),
        ("Which item comes first now?", f"The first item is now {words[-1].upper()}."),
    ]


def _talk_sort_names(rng: Random) -> list[Exchange]:
    names = rng.sample(_NAMES, 4)
    ordered = sorted(names)
    extra = rng.choice([name for name in _NAMES if name not in names])
    return [
        (f"Put these names in alphabetical order: {', '.join(names)}", ", ".join(ordered)),
        ("Who comes last?", f"{ordered[-1]} comes last."),
        (f"Add {extra} in the right place.", ", ".join(sorted([*names, extra]))),
    ]


def _talk_sort_numbers(rng: Random) -> list[Exchange]:
    numbers = rng.sample(range(2, 100), rng.randint(4, 6))
    ordered = sorted(numbers)
    low, high = ordered[0], ordered[-1]
    return [
        (f"Sort these numbers from small to large: {', '.join(map(str, numbers))}",
         ", ".join(map(str, ordered))),
        ("What is the difference between the largest and the smallest of them?",
         f"{high} - {low} = {high - low}, so the difference is {high - low}."),
        ("And what is the sum of those two?", f"{high} + {low} = {high + low}."),
    ]  # fmt: skip


def _talk_words(rng: Random) -> list[Exchange]:
    sentence = " ".join(map(rng.choice, _SENTENCE))
    words = sentence.split()
    letter = rng.choice("aeo")
    hits = sentence.lower().count(letter)
    return [
        (f'How many words are in this sentence? "{sentence}."', f"It has {len(words)} words."),
        ("What is its last word?", f'Its last word is "{words[-1]}".'),
        (f'How often does the letter "{letter}" appear in the whole sentence?',
         f'The letter "{letter}" appears {_count(hits, "time")}.'),
    ]  # fmt: skip


def _talk_spelling(rng: Random) -> list[Exchange]:
    word = rng.choice(_WORDS)
    vowels = [letter for letter in word if letter in "aeiou"]
    return [
        (f'Spell the word "{word}" letter by letter.', "-".join(word)),
        ("How many of those letters are vowels?",
         f"{_count(len(vowels), 'letter')}: {', '.join(vowels)}."),
        ("Now spell the word backward, without the hyphens.", word[::-1]),
    ]  # fmt: skip


def _day(rng: Random) -> date:
    return date(2020, 1, 1) + timedelta(days=rng.randrange(3650))


def _talk_date(rng: Random) -> list[Exchange]:
    day = _day(rng)
    later = rng.choice((1, 7, 10, 30))
    after = day + timedelta(days=later)
    return [
        (f"Write the date {day.isoformat()} with the name of the month.",
         f"{day.day} {day:%B} {day.year}"),
        ("Which day of the week is that?", f"It is a {day:%A}."),
        (f"And what is the date {_count(later, 'day')} later?",
         f"{after.day} {after:%B} {after.year}"),
    ]  # fmt: skip


def _talk_clock(rng: Random) -> list[Exchange]:
    start = datetime(2024, 1, 1, rng.randint(6, 19), rng.randrange(0, 60, 5))
    minutes, late = rng.randrange(35, 150, 5), rng.choice((10, 15, 20))
    end = start + timedelta(minutes=minutes)
    delayed = end + timedelta(minutes=late)
    return [
        (f"A train leaves at {start:%H:%M} and the trip takes {minutes} minutes. When does it "
         "arrive?", f"It arrives at {end:%H:%M}."),
        (f"And if it is {late} minutes late?", f"Then it arrives at {delayed:%H:%M}."),
        ("How many minutes is that after it was due to leave?",
         f"{minutes} + {late} = {minutes + late} minutes."),
    ]  # fmt: skip


def _talk_units(rng: Random) -> list[Exchange]:
    meters = rng.randint(2, 40)
    cut = rng.randint(1, meters - 1)
    return [
        (f"How many centimeters are {meters} meters?",
         f"{meters} meters are {meters * 100} centimeters."),
        ("And in millimeters?", f"{meters} meters are {meters * 1000} millimeters."),
        (f"If I cut off {_count(cut, 'meter')}, how many meters are left?",
         f"{meters} - {cut} = {meters - cut}, so {_count(meters - cut, 'meter')} "
         f"{'is' if meters - cut == 1 else 'are'} left."),
    ]  # fmt: skip


def _talk_prices(rng: Random) -> list[Exchange]:
    price, count, paid = rng.randint(2, 9), rng.randint(2, 10), 100
    total = price * count
    return [
        (f"One notebook costs ${price}. How much do {count} notebooks cost?",
         f"{count} × ${price} = ${total}."),
        (f"I pay with a ${paid} bill. How much change do I get?",
         f"${paid} - ${total} = ${paid - total}."),
        ("And if I buy one more for a friend, how many notebooks is that and what do they cost?",
         f"That is {count + 1} notebooks, and they cost ${total + price}."),
    ]  # fmt: skip


def _talk_capital(rng: Random) -> list[Exchange]:
    country, other = rng.sample(_COUNTRIES, 2)
    return [
        (f"What is the capital of {country.name}?",
         f"The capital of {country.name} is {country.capital}."),
        ("Which continent is that country on?", f"{country.name} is in {country.continent}."),
        (f"And {other.name}: what are its capital and continent?",
         f"Its capital is {other.capital}, and it is in {other.continent}."),
    ]  # fmt: skip


def _talk_greeting(rng: Random) -> list[Exchange]:
    name, hobby = rng.choice(_NAMES), rng.choice(("chess", "cooking", "cycling", "drawing"))
    return [
        (f"Hello! My name is {name}, and I enjoy {hobby}.",
         f"Nice to meet you, {name}! How can I help you today?"),
        ("Do you remember my name?", f"Yes, your name is {name}."),
        ("And what do I enjoy?", f"You told me that you enjoy {hobby}."),
    ]  # fmt: skip


def _talk_reverse_chinese(rng: Random) -> list[Exchange]:
    words = rng.sample(_CHINESE_WORDS, rng.randint(3, 5))
    backward = "、".join(reversed(words))
    return [
        (f"请把下面的词倒序排列：{'、'.join(words)}", backward),
        ("一共有几个词？", f"一共有{len(words)}个词。"),
        ("现在排在第一个的是哪个词？", f"现在排在第一个的是“{words[-1]}”。"),
    ]


def _talk_characters_chinese(rng: Random) -> list[Exchange]:
    sentence = "".join(map(rng.choice, _CHINESE_SENTENCE))
    return [
        (f"“{sentence}”这句话有多少个字？", f"这句话有{len(sentence)}个字。"),
        ("最后一个字是什么？", f"最后一个字是“{sentence[-1]}”。"),
        ("请在句末加上句号，再写一遍这句话。", f"{sentence}。"),
    ]


def _talk_date_chinese(rng: Random) -> list[Exchange]:
    day = _day(rng)
    after = day + timedelta(days=1)
    return [
        (f"请把日期{day.isoformat()}写成中文格式。", f"{day.year}年{day.month}月{day.day}日"),
        ("那天是星期几？", f"那天是星期{'一二三四五六日'[day.weekday()]}。"),
        ("第二天是几月几日？", f"第二天是{after.month}月{after.day}日。"),
    ]


def _talk_units_chinese(rng: Random) -> list[Exchange]:
    kilometers, more = rng.randint(2, 50), rng.randint(1, 9)
    return [
        (f"{kilometers}公里等于多少米？", f"{kilometers}公里等于{kilometers * 1000}米。"),
        (f"再加上{more}公里，一共是多少公里？",
         f"{kilometers} + {more} = {kilometers + more}，一共是{kilometers + more}公里。"),
        ("换成米呢？", f"{kilometers + more}公里等于{(kilometers + more) * 1000}米。"),
    ]  # fmt: skip


def _talk_prices_chinese(rng: Random) -> list[Exchange]:
    name, price, count = rng.choice(_CHINESE_NAMES), rng.randint(2, 9), rng.randint(3, 10)
    total = price * count
    return [
        (f"一本笔记本{price}元，{name}买了{count}本，一共多少元？",
         f"{price} × {count} = {total}，一共{total}元。"),
        ("付100元，应找回多少元？", f"100 - {total} = {100 - total}，应找回{100 - total}元。"),
    ]  # fmt: skip


def _talk_capital_chinese(rng: Random) -> list[Exchange]:
    name, capital, continent = rng.choice(_COUNTRIES).chinese
    return [
        (f"{name}的首都是哪里？", f"{name}的首都是{capital}。"),
        ("这个国家在哪个洲？", f"{name}在{continent}。"),
    ]


def _talk_greeting_chinese(rng: Random) -> list[Exchange]:
    name, hobby = rng.choice(_CHINESE_NAMES), rng.choice(("下棋", "画画", "骑车", "做饭"))
    return [
        (f"你好！我叫{name}，我喜欢{hobby}。", f"你好，{name}！很高兴认识你。有什么可以帮你的吗？"),
        ("你还记得我的名字吗？", f"记得，你叫{name}。"),
        ("我喜欢做什么？", f"你说过你喜欢{hobby}。"),
    ]


KINDS: tuple[tuple[str, Callable[[Random], list[Exchange]]], ...] = (
    ("en", _talk_reverse),
    ("en", _talk_sort_names),
    ("en", _talk_sort_numbers),
    ("en", _talk_words),
    ("en", _talk_spelling),
    ("en", _talk_date),
    ("en", _talk_clock),
    ("en", _talk_units),
    ("en", _talk_prices),
    ("en", _talk_capital),
    ("en", _talk_greeting),
    ("zh", _talk_reverse_chinese),
    ("zh", _talk_characters_chinese),
    ("zh", _talk_date_chinese),
    ("zh", _talk_units_chinese),
    ("zh", _talk_prices_chinese),
    ("zh", _talk_capital_chinese),
    ("zh", _talk_greeting_chinese),
)
"""Every kind of conversation, with its language."""


def generate_chat(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Make conversations of every kind in turn, with one to three exchanges each.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on `num`.

    Yields:
        One conversation, in the shape given at the top of this module.
    """
    rng = Random(seed)
    for index in range(num):
        if index % len(KINDS) == 0:
            kinds = rng.sample(KINDS, len(KINDS))
        language, talk = kinds[index % len(KINDS)]
        exchanges = talk(rng)
        messages: list[dict[str, str]] = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": rng.choice(_SYSTEMS[language])})
        for question, answer in exchanges[: rng.randint(1, len(exchanges))]:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        yield {"messages": messages}
