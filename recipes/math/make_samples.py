r"""Write `data/math/{train,test}.jsonl`: problems in MATH's shape, written for this project.

Run it in this folder: `python make_samples.py`. The same seeds give the same files. A row is
``{"problem", "level", "subject", "solution"}``, and the solution ends in ``\boxed{}``.
"""

import json
from collections.abc import Callable, Iterator
from math import comb, gcd
from pathlib import Path
from random import Random

Problem = tuple[str, str]


def _linear(rng: Random) -> Problem:
    a, x, b = rng.randint(2, 9), rng.randint(-9, 9), rng.randint(1, 20)
    return (
        f"Solve ${a}x + {b} = {a * x + b}$ for $x$.",
        f"Subtracting {b} gives ${a}x = {a * x}$, so $x = \\boxed{{{x}}}$.",
    )


def _quadratic(rng: Random) -> Problem:
    small = rng.randint(1, 6)
    large = small + rng.randint(1, 6)
    return (
        f"What is the larger root of $x^2 - {small + large}x + {small * large} = 0$?",
        f"The left side is $(x - {small})(x - {large})$, so the larger root is "
        f"$\\boxed{{{large}}}$.",
    )


def _fraction(rng: Random) -> Problem:
    a, b = rng.randint(1, 9), rng.randint(2, 9)
    c, d = rng.randint(1, 9), rng.randint(2, 9)
    top, bottom = a * d + c * b, b * d
    shared = gcd(top, bottom)
    top, bottom = top // shared, bottom // shared
    final = str(top) if bottom == 1 else f"\\frac{{{top}}}{{{bottom}}}"
    return (
        f"Write $\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}$ in lowest terms.",
        f"Over {b * d} it is $\\frac{{{a * d + c * b}}}{{{b * d}}} = \\boxed{{{final}}}$.",
    )


def _rectangle(rng: Random) -> Problem:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return (
        f"A rectangle has the sides {a} and {b}. What is the square of its diagonal?",
        f"By Pythagoras it is ${a}^2 + {b}^2 = \\boxed{{{a * a + b * b}}}$.",
    )


def _choose(rng: Random) -> Problem:
    n, k = rng.randint(5, 12), rng.randint(2, 4)
    return (
        f"In how many ways can {k} of {n} books be chosen?",
        f"There are $\\binom{{{n}}}{{{k}}} = \\boxed{{{comb(n, k)}}}$ ways.",
    )


def _remainder(rng: Random) -> Problem:
    base, power, modulus = rng.randint(2, 9), rng.randint(3, 6), rng.randint(5, 11)
    return (
        f"What is the remainder of ${base}^{power}$ divided by {modulus}?",
        f"${base}^{power} = {base**power}$, and the remainder is "
        f"$\\boxed{{{base**power % modulus}}}$.",
    )


KINDS: tuple[tuple[str, int, Callable[[Random], Problem]], ...] = (
    ("Algebra", 1, _linear),
    ("Algebra", 3, _quadratic),
    ("Prealgebra", 2, _fraction),
    ("Geometry", 2, _rectangle),
    ("Counting & Probability", 3, _choose),
    ("Number Theory", 4, _remainder),
)


def make_rows(num: int, seed: int, known: set[str]) -> Iterator[dict[str, str]]:
    """Problems of all kinds by turns, none of which is in `known`; they are added to it."""
    rng = Random(seed)
    for index in range(num):
        subject, level, ask = KINDS[index % len(KINDS)]
        problem, solution = ask(rng)
        while problem in known:
            problem, solution = ask(rng)
        known.add(problem)
        yield {
            "problem": problem,
            "level": f"Level {level}",
            "subject": subject,
            "solution": solution,
        }


if __name__ == "__main__":
    folder = Path(__file__).parent / "data" / "math"
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, num, seed in (("test", 12, 2), ("train", 60, 1)):
        rows = make_rows(num, seed, seen)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
