"""Write `data/questions.csv`: questions on money with worked answers, written for this project.

Run it in this folder: `python make_samples.py`. The same seed gives the same file.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from random import Random

TERMS = (
    ("What is a dividend?", "A part of a company's profit that is paid out to its shareholders."),
    ("What is liquidity?", "How quickly something can be turned into cash without a loss."),
    ("What does gross margin tell?", "Which share of the sales is left after the cost of goods."),
    ("What is a bond?", "A loan that is cut into tradable pieces; it pays interest and is repaid."),
    ("Why spread savings over many assets?", "A loss in one of them then weighs less in the sum."),
    ("什么是通货膨胀？", "物价总体上涨，同样的钱能买到的东西变少。"),
    ("什么是市盈率？", "股价除以每股收益，表示为一元收益付多少钱。"),
    ("什么是资产负债表？", "某一天的资产、负债和所有者权益的一览表。"),
    ("为什么要分散投资？", "一种资产亏损时，对总资产的影响比较小。"),
    ("什么是现金流？", "一段时间内收到和付出的现金。"),
)


def ask(rng: Random) -> tuple[str, str, str]:
    """One question to calculate: category, question, answer."""
    amount, rate, years = rng.randrange(200, 5000, 100), rng.randint(2, 9), rng.randint(2, 6)
    price, cost = rng.randint(30, 90), rng.randint(10, 29)
    yearly = amount * rate / 100
    kinds = (
        ("interest",
         f"How much simple interest do {amount} euros bring in {years} years at {rate} % a year?",
         f"A year brings {amount} x {rate} % = {yearly:g} euros. {years} years bring "
         f"{yearly * years:g} euros."),
        ("interest", f"本金{amount}元，年利率{rate}%，单利，{years}年的利息是多少？",
         f"每年利息是{amount} × {rate}% = {yearly:g}元，{years}年一共{yearly * years:g}元。"),
        ("margin",
         f"A shop sells a lamp for {price} euros that cost {cost} euros. What is the gross profit "
         f"on {years} lamps?",
         f"One lamp earns {price} - {cost} = {price - cost} euros, {years} lamps earn "
         f"{(price - cost) * years} euros."),
        ("margin", f"一盏灯进价{cost}元，售价{price}元，卖出{years}盏的毛利是多少？",
         f"每盏毛利{price} - {cost} = {price - cost}元，{years}盏一共{(price - cost) * years}元。"),
        ("valuation",
         f"A share costs {price} euros and earns {years} euros a year. What is its price-earnings "
         "ratio?",
         f"{price} / {years} = {price / years:.1f}: a buyer pays {price / years:.1f} euros for one "
         "euro of yearly earnings."),
    )  # fmt: skip
    return rng.choice(kinds)


def make_rows(num: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Every term, then different questions to calculate."""
    rng = Random(seed)
    seen = set()
    for question, answer in TERMS:
        yield "term", question, answer
    while len(seen) < num - len(TERMS):
        row = ask(rng)
        if row not in seen:
            seen.add(row)
            yield row


if __name__ == "__main__":
    path = Path(__file__).parent / "data" / "questions.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("category", "question_text", "answer_text"))
        writer.writerows(make_rows(60, seed=0))
