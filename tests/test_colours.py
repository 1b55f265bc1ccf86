"""Colours that readers with any kind of colour vision can tell apart, and letters that can be read."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from matplotlib.colors import to_rgb

from lora_lab.pictures.figures import COLOUR_MAPS, COLOURS, INKS, STYLE

VISIONS = ["all cones", "deuteranomaly", "protanomaly"]
CYCLE = matplotlib.rc_params_from_file(STYLE, use_default_template=False)["axes.prop_cycle"].by_key()["color"]


def seen(colour, vision):
    """The colour as it looks to somebody whose red or green cones are missing."""
    rgb = np.array(to_rgb(colour))
    if vision == "all cones":
        return rgb
    return cspace_convert(rgb, {"name": "sRGB1+CVD", "cvd_type": vision, "severity": 100}, "sRGB1").clip(0, 1)


def distance(one, other, vision):
    """How different two colours look, in the units of CAM02-UCS, in which 1 can hardly be seen."""
    return deltaE(seen(one, vision), seen(other, vision), input_space="sRGB1")


def contrast_on_white(colour):
    """The ratio of luminances as WCAG defines it: letters need 4.5."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


@pytest.mark.parametrize("colour", [*INKS.values(), *CYCLE])
def test_letters_of_every_colour_can_be_read_on_white(colour):
    assert contrast_on_white(colour) >= 4.5


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("kind", COLOUR_MAPS)
def test_positive_and_negative_numbers_of_a_matrix_look_different(kind, vision):
    negative, positive = COLOUR_MAPS[kind](0.0), COLOUR_MAPS[kind](1.0)
    assert distance(negative[:3], positive[:3], vision) >= 30


@pytest.mark.parametrize("vision", VISIONS)
def test_w_a_b_and_the_update_have_colours_of_their_own(vision):
    for one, other in combinations(COLOURS.values(), 2):
        assert distance(one, other, vision) >= 15


@pytest.mark.parametrize("vision", VISIONS)
def test_the_first_lines_of_a_chart_can_be_told_apart_by_colour_alone(vision):
    for one, other in combinations(CYCLE[:4], 2):
        assert distance(one, other, vision) >= 10


def test_no_line_of_a_chart_borrows_a_colour_that_means_a_matrix():
    for line in CYCLE:
        assert min(distance(line, role, "all cones") for role in COLOURS.values()) >= 10
