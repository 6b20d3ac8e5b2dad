"""Training rewards are the evaluation's graders."""

import pytest

from posttrain.grading.rewards import grade_answer

GRADED = [
    # completion, reference, right, in form
    ("6 × 7 = 42\n#### 42", "42", True, True),
    ("6 × 7 = 42\n#### 42.0", "42", True, True),
    ("The sum is 1,000.", "1000", True, False),
    (r"so \boxed{42}", "42", True, True),
    ("#### 41", "42", False, True),
    ("#### 42 and then 7", "42", True, True),
    ("#### I do not know", "42", False, False),
    ("", "42", False, False),
    ("no number at all", "42", False, False),
    ("42 is wrong, it is 43", "42", False, False),
    (r"\boxed{\frac{1}{2}}", r"\frac12", True, True),
    (r"The answer is $\frac{1}{2}$.", r"\frac12", True, True),
    (r"Hence $x$ is half of it, $\frac{1}{2}$, as it was.", r"\frac12", True, False),
    ("42", "42", True, True),
    ("0.5", r"\frac12", True, True),
    ("<think>#### 41</think>#### 42", "42", True, True),
    (r"\boxed{\frac{1}{3}}", r"\frac12", False, True),
    ("", r"\frac12", False, False),
]


@pytest.mark.parametrize(("completion", "reference", "right", "in_form"), GRADED)
def test_graded_as_in_an_evaluation(completion, reference, right, in_form):
    assert grade_answer(completion, reference) == (right, in_form)


@pytest.mark.parametrize("completion", ["", "#### 42", "words", r"\boxed{}"])
def test_nothing_equals_a_reference_that_is_not_there(completion):
    assert not grade_answer(completion, "")[0]
