"""Whatever a model writes, it is graded, at once, and equals itself."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.grading.equivalence import compare_formulas
from posttrain.grading.normalization import normalize_formula
from posttrain.grading.verdicts import Grader, Reference

PIECES = [
    *("{", "}", "(", ")", "[", "]", r"\{", r"\}", "|", ",", ";", ":", "=", "<", ">", r"\le"),
    *(r"\in", "square"),
    *("1", "2", "12345", ",000", "9" * 30, "x", "y", "e", "i", "m", "cm", " ", "\n", "~"),
    *("+", "-", "*", "/", "!", "^", "_", r"\pm", r"\cup", r"\frac", r"\sqrt", r"\binom", r"\log_"),
    *(r"\pi", r"\infty", r"\sin", r"\text{", r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\"),
    *("%", r"\%", "$", ".", "°", "≈", "and", "or", "the answer is ", r"\boxed{", "####", "A", "**"),
    *("</think>", "\x00", "\ud800", "个"),
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_formulas_are_compared_whatever_they_are(answer, reference):
    started = time.process_time()
    compare_formulas(answer, reference)
    assert compare_formulas(answer, answer) is (normalize_formula(answer) != "")
    assert time.process_time() - started < 1


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["number", "answer", "letter", "words"]), st.booleans())
def test_every_text_gets_a_verdict(text, reference, name, finished):
    verdict = Grader(name).grade(Reference(reference, "AB"), text, finished)
    assert verdict.error != "grader_error"
    assert (verdict.error is None) == verdict.correct
    assert verdict.correct or not verdict.strict
