"""What counts as a number."""

import math
from fractions import Fraction

import numpy as np
import pytest

from lora_lab.checks import finite_number, positive_number, whole_number


@pytest.mark.parametrize(("value", "number"), [(3, 3), (np.int64(3), 3), (np.uint8(3), 3)])
def test_a_whole_number_is_one_of_pythons_or_numpys_and_comes_back_as_pythons(value, number):
    assert whole_number("steps", value) == number and type(whole_number("steps", value)) is int


@pytest.mark.parametrize("value", [True, np.float64(3), "3", 3.0, None])
def test_what_only_looks_like_a_whole_number_is_refused(value):
    with pytest.raises(ValueError, match=r"is not a whole number from 1 up; try 3$"):
        whole_number("steps", value, hint="try 3")


def test_the_bounds_of_a_whole_number_belong_to_it():
    assert [whole_number("n", value, 2, 4) for value in (2, 4)] == [2, 4]
    for value in (1, 5):
        with pytest.raises(ValueError, match=rf"n={value} is not a whole number from 2 to 4$"):
            whole_number("n", value, 2, 4)


@pytest.mark.parametrize("check", [finite_number, positive_number])
@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), Fraction(2)])
def test_a_real_number_comes_back_as_pythons_float(check, value):
    assert check("x", value) == 2 and type(check("x", value)) is float


@pytest.mark.parametrize("check", [finite_number, positive_number])
@pytest.mark.parametrize("value", [True, "2", None, 2j, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_real_number_is_refused(check, value):
    with pytest.raises(ValueError, match=r"is not a (finite|positive) number; try 2$"):
        check("x", value, "try 2")


def test_zero_is_finite_and_not_positive():
    assert finite_number("x", 0) == 0
    with pytest.raises(ValueError, match=r"x=0 is not a positive number$"):
        positive_number("x", 0)
