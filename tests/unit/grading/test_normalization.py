import pytest

from posttrain.grading.normalization import (
    has_percent,
    join_thousands,
    normalize_formula,
    split_unit,
)


@pytest.mark.parametrize(
    ("text", "formula", "unit"),
    [
        ("5 cm", "5", "cm"),
        (r"5\text{ centimeters}", "5", "cm"),
        (r"12\mbox{ inches}^2", "12", "in"),
        ("65 cubic units", "65", ""),
        (r"0.06 \text{ yuan}", "0.06", ""),
        ("7 feet", "7", "ft"),
        ("5m", "5m", ""),
        (r"\text{meters}", r"\text{meters}", ""),
        (r"3\text{A}", r"3\text{A}", ""),
        (r"1 \text{ or}", r"1 \text{ or}", ""),
        (r"\sin x", r"\sin x", ""),
        (r"2\min", r"2\min", ""),
    ],
)
def test_a_unit_is_parted_from_its_number(text, formula, unit):
    assert split_unit(text) == (formula, unit)


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("1,234,567", "1234567"),
        (r"32,\! 349", "32349"),
        ("1{,}000", "1000"),
        ("32, 349", "32, 349"),
        ("(1,234)", "(1,234)"),
        (r"\{100,200\}", r"\{100,200\}"),
        ("1,2,3", "1,2,3"),
        ("0,111", "0,111"),
    ],
)
def test_commas_group_thousands_outside_of_brackets(text, joined):
    assert join_thousands(text) == joined


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"\sin x", r"\sin x"),
        (r"\alpha + 1", r"\alpha+1"),
        (r"\left.\frac12\right|", r"\frac{1}{2}|"),
        (r"\bigcup", r"\bigcup"),
        ("3 4", "3~4"),
        (r"\text{Even}", "even"),
        ("X", "X"),
        ("(X)", "X"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_one_writing_is_made(text, written):
    assert normalize_formula(text) == written


def test_percent_is_a_sign_or_a_word():
    assert all(map(has_percent, [r"5\%", "5%", "5 percent", "5 pct"]))
    assert not any(map(has_percent, ["5", r"\text{percentile}"]))


def test_too_long_a_text_stays_as_it_is():
    assert normalize_formula(r" \dfrac12" * 100) == (r" \dfrac12" * 100).strip()
