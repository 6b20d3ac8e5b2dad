"""Sample plain text of four crafts, in English and Chinese, written for this project.

One row is one document::

    {"text": "...", "topic": "tea|bees|pottery|paper", "language": "en|zh"}

A document is a page of a workshop's diary: who worked where, what was done in which order, and with
how much of what. The crafts have words of their own that come again and again, as in the text of a
real field, and as in real text some pages are there twice: about one in ten repeats an earlier one,
word for word or under another date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

_REPEATED_SHARE = 0.1


@dataclass(frozen=True)
class _Craft:
    """Sentences of one craft in one language; braces are filled with names and numbers."""

    topic: str
    language: str
    openings: tuple[str, ...]
    steps: tuple[str, ...]
    """A page takes some of them, in this order."""
    endings: tuple[str, ...]


_CRAFTS = (
    _Craft(
        "tea", "en",
        ("{person} began plucking on the {side} terrace before the dew had dried.",
         "The first flush on the {side} terrace was ready, and {person} called the pluckers."),
        ("Only the bud and two young leaves went into the basket, {small} kilograms by noon.",
         "The leaves withered on bamboo trays for {hours} hours and were turned every half hour.",
         "Pan-firing in the iron wok stopped the oxidation; the wok was kept at {heat} degrees.",
         "Rolling twisted the leaves, and the juice gave the hands a smell of cut grass.",
         "The rolled leaves were dried in {small} rounds until a stalk broke with a snap."),
        ("{person} sealed {small} tins of green tea and wrote the terrace on each label.",
         "Of {large} kilograms of fresh leaves, {small} kilograms of tea were left."),
    ),
    _Craft(
        "tea", "zh",
        ("{person}在{side}坡茶园采茶，露水还没有干。",
         "{side}坡茶园的头春茶可以采了，{person}叫来了采茶的人。"),
        ("只采一芽两叶，到中午采了{small}公斤鲜叶。",
         "鲜叶摊在竹匾里萎凋{hours}个小时，每半小时翻动一次。",
         "铁锅杀青，锅温保持在{heat}度，防止茶叶氧化。", "揉捻让茶叶成条，手上留下青草的气味。",
         "揉好的茶叶烘干{small}遍，直到茶梗一折就断。"),
        ("{person}封好{small}罐绿茶，每一罐都写上茶园的名字。",
         "{large}公斤鲜叶，最后制成{small}公斤干茶。"),
    ),
    _Craft(
        "bees", "en",
        ("{person} opened hive number {small} beside the {side} meadow at midday.",
         "A swarm hung in the pear tree, so {person} carried an empty hive to the {side} meadow."),
        ("A little smoke at the entrance kept the bees calm while the frames were lifted.",
         "The queen was on frame {small}, and the brood pattern was even.",
         "{small} combs of capped honey were taken, and the nurse bees were brushed off gently.",
         "The uncapping knife opened the cells, and the extractor spun for {hours} minutes.",
         "The honey settled for {hours} hours in the steel tank before it was strained."),
        ("{person} left {small} full combs in the hive for the winter.",
         "The harvest was {large} jars of honey and {small} blocks of beeswax."),
    ),
    _Craft(
        "bees", "zh",
        ("{person}中午打开{side}边草地旁的第{small}号蜂箱。",
         "梨树上挂着一个分蜂群，{person}把空蜂箱搬到{side}边草地。"),
        ("在巢门喷一点烟，蜜蜂就安静下来，再提起巢脾。", "蜂王在第{small}张巢脾上，子脾很整齐。",
         "取出{small}张封盖蜜脾，轻轻扫下哺育蜂。", "割蜜刀打开蜡盖，摇蜜机转了{hours}分钟。",
         "蜂蜜在钢桶里沉淀{hours}个小时，然后过滤。"),
        ("{person}在蜂箱里留下{small}张蜜脾过冬。", "这次收了{large}瓶蜂蜜和{small}块蜂蜡。"),
    ),
    _Craft(
        "pottery", "en",
        ("{person} wedged {large} kilograms of stoneware clay in the {side} workshop.",
         "The clay from the {side} pit had rested long enough, so {person} set up the wheel."),
        ("Each ball of clay was centered on the wheel and opened with both thumbs.",
         "The walls were pulled up in {small} passes, wet with as little water as possible.",
         "The bowls dried to leather hardness for {hours} hours; then the foot rings were trimmed.",
         "The bisque firing rose slowly to {heat} degrees on the kiln's old gauge.",
         "The ash glaze was stirred, sieved, and poured in one even coat."),
        ("{person} opened the kiln on the next day: {small} bowls had cracked.",
         "On the shelf now stand {large} glazed bowls and {small} jugs."),
    ),
    _Craft(
        "pottery", "zh",
        ("{person}在{side}边作坊揉了{large}公斤陶泥。",
         "{side}边泥坑的陶泥陈腐够了，{person}摆好了拉坯机。"),
        ("每一团陶泥都在转盘上定中心，再用两个拇指开口。", "坯壁分{small}次提拉，尽量少用水。",
         "碗坯晾{hours}个小时到半干，然后修圈足。", "素烧慢慢升温，窑上的旧表指到{heat}度。",
         "草木灰釉搅匀过筛，一次淋成均匀的一层。"),
        ("{person}第二天开窑，有{small}只碗裂了。",
         "架子上现在有{large}只上釉的碗和{small}把陶壶。"),
    ),
    _Craft(
        "paper", "en",
        ("{person} soaked {large} bundles of mulberry bark in the {side} stream.",
         "The mulberry bark from the {side} hill was peeled, and {person} lit the fire."),
        ("The bark was boiled with wood ash for {hours} hours until the fibers came apart.",
         "Dark specks were picked out by hand in cold water.",
         "The fibers were beaten with wooden mallets, {small} rounds for every bundle.",
         "The mould was dipped into the vat and shaken to each side, so that the fibers crossed.",
         "The wet sheets were pressed overnight under {heat} kilograms of stone."),
        ("{person} brushed {large} sheets of paper onto the drying boards.",
         "Of {large} sheets of paper {small} were torn and went back into the vat."),
    ),
    _Craft(
        "paper", "zh",
        ("{person}在{side}边小溪里浸泡{large}捆桑皮。", "{side}坡的桑皮剥好了，{person}点起了火。"),
        ("桑皮加草木灰煮{hours}个小时，直到纤维散开。", "在冷水里用手挑出黑点。",
         "用木槌打浆，每捆桑皮打{small}遍。", "抄纸帘浸入纸槽，向两边各荡一次，让纤维交错。",
         "湿纸用{heat}公斤的石头压一夜。"),
        ("{person}把{large}张纸刷到焙墙上。", "{large}张纸里破了{small}张，又放回纸槽。"),
    ),
)  # fmt: skip
_PEOPLE = {
    "en": ("Ada", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo"),
    "zh": ("阿梅", "老周", "春生", "秀兰", "大山", "小满", "立秋", "玉珍"),
}
_SIDES = {"en": ("north", "south", "east", "west"), "zh": ("北", "南", "东", "西")}
_MONTHS = ("March", "April", "May", "June", "July", "August", "September", "October")


def _date(language: str, rng: Random) -> str:
    month, day = rng.randrange(len(_MONTHS)), rng.randint(1, 30)
    return f"{_MONTHS[month]} {day}." if language == "en" else f"{month + 3}月{day}日，晴。"


def _page(craft: _Craft, rng: Random) -> str:
    words = {
        "person": rng.choice(_PEOPLE[craft.language]),
        "side": rng.choice(_SIDES[craft.language]),
        "small": rng.randint(2, 9),
        "large": rng.randint(12, 60),
        "hours": rng.randint(3, 18),
        "heat": rng.randrange(120, 300, 10),
    }
    chosen = sorted(rng.sample(range(len(craft.steps)), rng.randint(3, len(craft.steps))))
    sentences = [rng.choice(craft.openings), *(craft.steps[i] for i in chosen)]
    sentences.append(rng.choice(craft.endings))
    space = " " if craft.language == "en" else ""
    return space.join(sentence.format(**words) for sentence in sentences)


def generate_text(num: int, seed: int) -> Iterator[dict[str, str]]:
    """Make documents, half of them English and half Chinese.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on `num`.

    Yields:
        One document, in the shape given at the top of this module.
    """
    rng = Random(seed)
    pages: list[tuple[_Craft, str, str]] = []
    for index in range(num):
        if pages and rng.random() < _REPEATED_SHARE:
            craft, date, body = rng.choice(pages)
            if rng.random() < 0.5:
                date = _date(craft.language, rng)
        else:
            craft = rng.choice(_CRAFTS[index % 2 :: 2])
            date, body = _date(craft.language, rng), _page(craft, rng)
            pages.append((craft, date, body))
        text = f"{date} {body}" if craft.language == "en" else date + body
        yield {"text": text, "topic": craft.topic, "language": craft.language}
