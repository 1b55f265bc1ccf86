"""Figures and sliders without a browser: what is drawn, what is said, what is refused."""

import base64
import io
import json
import re
import zlib

import pytest
import torch
from explorers import EXPLORERS, adapted_digits, digit_runs, digit_tasks, everything, tiny
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from lora_lab import lora_layers, lora_state
from lora_lab.material import create_planted_task
from lora_lab.pictures import sliders
from lora_lab.pictures.charts import (
    bars,
    costs,
    curves,
    frontier,
    marks,
    plane,
    predictors,
    seed_dots,
    small_curves,
    twin_curves,
    valleys,
)
from lora_lab.pictures.explorer import Explorer
from lora_lab.pictures.figures import COLOURS, figure
from lora_lab.pictures.matrices import (
    block_picture,
    cosine_maps,
    digit_rows,
    first_steps,
    lora_picture,
    mosaic,
    product_picture,
    ruler,
    two_ways,
)
from lora_lab.pictures.sliders import (
    digits_explorer,
    rank_explorer,
    strength_explorer,
    surprise_explorer,
    training_explorer,
    writing_explorer,
)


def image(png):
    return Image.open(io.BytesIO(png))


def test_every_explorer_is_tried():
    ours = {name.removesuffix("_explorer") for name in vars(sliders) if name.endswith("_explorer")}
    assert ours < set(EXPLORERS), "EXPLORERS in tests/explorers.py lacks one"


@pytest.fixture(params=EXPLORERS)
def explorer(request):
    return EXPLORERS[request.param]()


def test_every_position_can_be_drawn_and_is_described_in_words(explorer):
    seen = set()
    for i, slider in enumerate(explorer.sliders):
        for index in range(len(slider["options"])):
            position = list(explorer.position)
            position[i] = index
            frame = explorer._frame(position)
            assert len(frame["alt"]) > 20
            seen.add(json.dumps(frame["artists"]))
    assert len(seen) > len(explorer.sliders)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rank_explorer({f"picture {i}": torch.randn(3, 3) for i in range(2)}),
        lambda: training_explorer(create_planted_task(32, 8, 8), ranks=range(2, 4), steps=2),
        lambda: writing_explorer(
            {("tales", 0): "a", ("tales", 0.5): "b"}, {("tales", 0): (1, 2), ("tales", 0.5): (2, 1)}
        ),
    ],
    ids=["small", "no rank 1", "no full strength"],
)
def test_an_explorer_starts_where_there_is_a_position(make):
    assert make().values


def test_the_digits_still_misread_are_counted_and_shown():
    explorer = digits_explorer(digit_runs(), digit_tasks())
    frames = [explorer._frame([0, rank]) for rank in range(3)]
    assert "93 percent of the mirrored digits are right, 51 percent of the upright" in frames[0]["alt"]
    assert "30 are wrong" in frames[0]["alt"] and "0 are wrong" in frames[2]["alt"]


def test_the_strength_slider_sets_the_model_itself():
    model, states = adapted_digits()
    explorer = strength_explorer(model, states, digit_tasks())
    explorer._frame([1, 0])
    assert {layer.lora.strength for layer in lora_layers(model).values()} == {0.0}
    assert torch.equal(lora_state(model)["fc1.B"], states["upright"]["fc1.B"])
    assert "98 % upright" in explorer._frame([0, 0])["alt"]  # at strength 0 it is the old model


def words(explorer):
    """The texts that move, as they are now."""
    return [artist.get_text() for artist in explorer._moving if isinstance(artist, Text)]


def test_a_line_of_surprises_ends_where_a_word_does():
    text = "so it goes\non and indescribably on"
    explorer = surprise_explorer({("it", 0): (text, list(range(len(text)))), ("x", 0): ("x", [9])}, columns=8, rows=7)
    lines = ["so it ", "goes⏎on ", "and ", "indescri", "bably on", "", ""]
    assert words(explorer)[:7] == lines
    cells = explorer._moving[0].get_array()
    assert cells[1].tolist() == [6, 7, 8, 9, 10, 11, 12, 13] and cells[2].tolist() == [14, 15, 16, 17, 0, 0, 0, 0]
    explorer._frame([1])
    assert words(explorer)[:3] == ["x", "", ""]


def test_a_text_that_was_cut_ends_with_a_whole_word():
    explorer = writing_explorer({("tales", 1): "Once there was a fo"}, {("tales", 1): (1, 2)})
    assert "Once there was a …" in words(explorer)
    assert explorer._frame([0, 0])["alt"].endswith("It writes: Once there was a …")


def test_what_is_held_is_a_share_of_what_the_first_method_holds():
    explorer = EXPLORERS["ledger"]()
    assert words(explorer) == ["19 KiB", "11 KiB", "Batch 1: LoRA 58 % of what full holds"]
    ends = [bar.get_x() + bar.get_width() for bar in explorer._moving if isinstance(bar, Rectangle)][-2:]
    assert ends == pytest.approx([100, 1100 / 19])
    said = explorer._frame([2])["alt"]
    assert "LoRA 71 % of what full holds. In KiB full: " in said
    assert "LoRA: weights 5, gradients 1, optimizer 2, activations 12." in said


def test_values_say_where_the_sliders_stand():
    explorer = tiny(start={"x": 3})
    assert explorer.values == {"x": 3}
    explorer.position = [0]
    assert explorer.values == {"x": 1}


def test_what_the_browser_asks_for_is_sent_as_data(monkeypatch):
    explorer, sent = tiny(), []
    monkeypatch.setattr(explorer, "send", sent.append)
    explorer._answer(explorer, {"ask": [4]}, [])
    ((dot,),) = sent[0].pop("artists")
    assert sent == [{"key": "4", "alt": "a dot at 5"}]
    assert dot["style"]["fillStyle"] == "#1f77b4ff" and len(dot["at"]) == 1


def test_an_update_that_raises_is_reported_and_the_next_position_works(monkeypatch):
    explorer, sent = tiny(), []
    move = explorer._update

    def fails_at_five(x):
        if x == 5:
            raise KeyError("five")
        return move(x)

    explorer._update = fails_at_five
    monkeypatch.setattr(explorer, "send", sent.append)
    explorer._answer(explorer, {"ask": [4]}, [])
    explorer._answer(explorer, {"ask": [5]}, [])
    assert sent[0] == {"key": "4", "error": "KeyError: 'five'"}
    assert (sent[1]["key"], sent[1]["alt"]) == ("5", "a dot at 6")


def test_without_a_browser_the_first_picture_and_its_description_remain():
    bundle, _ = tiny()._repr_mimebundle_()
    assert bundle["text/plain"] == "a dot at 1"
    assert re.match(r'<img alt="a dot at 1" style="[^"]+" src="data:image/png;base64,', bundle["text/html"])


def test_the_still_picture_has_what_moves_over_all_axes_too():
    picture = figure("", width=3, height=2)
    title = picture.suptitle("x")
    explorer = Explorer(picture, lambda x: [title.set_text("█" * x), title][1:], "{x}".format, x=[1, 8])
    narrow = image(base64.b64decode(explorer.still()[0]["image/png"])).convert("L")
    explorer.position = [1]
    wide = image(base64.b64decode(explorer.still()[0]["image/png"])).convert("L")
    dark = [sum(pixel < 128 for pixel in drawn.get_flattened_data()) for drawn in (narrow, wide)]
    assert dark[1] > 6 * dark[0] > 0


def test_no_text_can_end_the_script_that_carries_it():
    explorer = tiny()
    explorer._alt = lambda x: "</script><b>"
    assert "</script><b>" not in explorer.standalone().html()


@pytest.mark.parametrize("said", ["</script><b>", "</SCRIPT>", "<!--<script>"])
def test_no_word_of_ours_can_end_the_script(said):
    explorer = tiny(labels={"x": said})
    assert said not in explorer.standalone().html().partition("<script>")[2].rpartition("</script>")[0]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda figure: None, "must return a list of the artists it moved; it returned None"),
        (lambda figure: figure.axes[0].title, "must return a list of the artists it moved; it returned Text"),
        (lambda figure: ["dot"], "must return artists of the explorer's figure; among them is 'dot'"),
        (lambda figure: [Figure().text(0, 0, "")], "of the explorer's figure; among them is Text"),
    ],
    ids=["nothing", "one artist", "no artist", "another figure's"],
)
def test_an_update_that_returns_no_list_of_artists_is_refused(returned, reason):
    picture = figure("", width=3, height=2)
    picture.subplots()
    with pytest.raises(TypeError, match=reason):
        Explorer(picture, lambda x: returned(picture), "{x}".format, x=[1])


def test_an_artist_that_is_returned_twice_is_drawn_once():
    picture = figure("", width=3, height=2)
    (dot,) = picture.subplots().plot([0], [0.5], "o")
    explorer = Explorer(picture, lambda x: [dot, dot], "{x}".format, x=[1])
    assert len(explorer._frame([0])["artists"]) == 1


def test_a_hatch_is_refused_when_the_explorer_is_made():
    picture = figure("", width=3, height=2)
    (bar,) = picture.subplots().bar([1], [1], hatch="//")
    with pytest.raises(ValueError, match="the hatch '//' can't move with a slider; give the artist a plain colour"):
        Explorer(picture, lambda x: [bar], "{x}".format, x=[1])


def test_a_photograph_in_full_colour_is_refused_when_the_explorer_is_made():
    picture = figure("", width=3, height=2)
    shown = picture.subplots().imshow(torch.rand(20, 20, 3).numpy())
    with pytest.raises(ValueError, match=r"an image of \d+ colours can't move with a slider; give it a colour map"):
        Explorer(picture, lambda x: [shown], "{x}".format, x=[1])


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"x": []}, "the slider 'x' has no options"),
        ({"x": [1, 2], "start": {"x": 3}}, r"x can't start at 3; its options are \[1, 2\]"),
        ({"x": [1, 2], "start": {"y": 1}}, "start names 'y', but the sliders are 'x'"),
    ],
)
def test_a_slider_that_cannot_be_is_refused_by_name(choices, reason):
    with pytest.raises(ValueError, match=reason):
        tiny(**choices)


def test_every_figure_says_its_point_in_words_and_shows_itself_as_a_picture():
    picture = curves([1, 2], {"first": [1.0, 0.5], "second": [2.0, 1.0]}, "Both fall", "step", "loss", log=["y"])
    bundle, about = picture._repr_mimebundle_()
    assert about["image/png"]["alt"] == bundle["text/plain"]
    assert image(base64.b64decode(bundle["image/png"])).width > 800
    assert bundle["text/plain"] == "Both fall. loss over step: first from 1 to 0.5; second from 2 to 1."
    assert 'alt="Both fall.' in bundle["text/html"]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: digit_rows({"a": torch.rand(3, 64), "b": torch.rand(3, 64)}, "Two"), "digits: a, b"),
        (
            lambda: cosine_maps({"near": torch.eye(4), "far": torch.eye(4) / 3}, "C", 0.5, rows=2),
            "Columns marked, near: none; far: 1, 2, 3, 4.",
        ),
        (
            lambda: frontier({"one": [(0, 98.0, 10.0), (1, 20.0, 95.0)]}, "F", "old", "new", "↗", base=(98, 10)),
            "one from 98 and 10 to 20 and 95",
        ),
        (
            lambda: plane({"few": [(1.0, 2.0), (1.1, 2.1)], "many": [(0.5, 3.0)]}, "S", "new", "old", "↙", (2, 1)),
            "few near 1.0 and 2.0; many near 0.5 and 3.0",
        ),
        (lambda: bars({"fast": 1.0, "slow": 2.0}, "T", "time", "Two bars."), "Two bars."),
        (lambda: valleys({"one": {0.1: 2.0, 0.3: 1.0, 1.0: None}}, "V", "rate", "loss"), "best for one at 0.3"),
        (lambda: valleys({"one": {0.1: 1.0, 0.3: 1.0}}, "V", "rate", "right", max), "best for one at 0.1"),
        (
            lambda: costs({"easy": {1: (10, [90, 92]), 2: (20, [95, 97]), "full": (99, [98])}}, "C", "size", "right"),
            "easy: 1 91, 2 96, full 98",
        ),
        (lambda: seed_dots({"one": [1.0, 1.2], "two": [0.5]}, "D", "loss", ("two",)), "one 1.00 to 1.20; two 0.50 to"),
        (
            lambda: predictors({"far: 0.1": {"a": [(1, 2)]}, "KL: 0.9": {"a": [(3, 2)]}}, "K", "old"),
            "old over: far: 0.1; KL",
        ),
        (lambda: marks({1: [True, False], 2: [False, False]}, ["a", "b"], "M"), "1: a; 2: none"),
        (lambda: twin_curves([float("nan")] * 2, [2.0, 1.0], "P"), "nowhere: it diverged; healthy from 2 to 1"),
        (lambda: product_picture(torch.ones(3, 1), torch.ones(1, 4), "P"), "A, 3 by 1, at the left, B, 1 by 4, above"),
        (lambda: two_ways(6, 2, 3, "T"), "through W to 3 numbers, and beside it through A to 2 and B to 3"),
        (lambda: small_curves({"a": [2.0, 1.0], "b": [float("nan")] * 2}, "S"), "a from 2 to 1; b diverged"),
        (lambda: block_picture({"q": (4, 4), "up": (4, 16)}, "B"), "q 4 by 4, up 4 by 16"),
        (lambda: ruler(0.984375, 1.03125, 1, 0.003, "R"), "Of 9 numbers on a ruler, 1.003 falls to 1."),
        (
            lambda: first_steps({"B zero": [(0.0, 0.5), (0.1, 0.4)]}, (6, 2, 3), "W"),
            "B zero: A 0 and B 0.5, then A 0.1 and B 0.4",
        ),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_a_figure_can_be_drawn_and_says_what_it_shows(draw, said):
    picture = draw()
    assert said in picture.alt and image(picture.png()).width > 300


def test_a_mosaic_puts_images_in_rows_with_a_blank_line_between():
    sheet = mosaic(torch.stack([torch.full((2, 2), float(i)) for i in range(1, 4)]), columns=2)
    assert sheet.tolist() == [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0] * 5, [3, 3, 0, 0, 0], [3, 3, 0, 0, 0]]


def test_a_figure_keeps_the_courses_look_whatever_style_the_notebook_sets():
    import matplotlib

    def draw():
        return lora_picture(torch.eye(8), torch.ones(8, 2), torch.ones(2, 8)).png()

    before = draw()
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "black"}):
        assert draw() == before


def test_a_picture_of_a_matrix_is_to_scale_and_in_its_own_colour():
    (axes,) = lora_picture(torch.eye(8), torch.ones(8, 2), torch.ones(2, 8)).axes
    assert axes.get_aspect() == 1
    placed = [shown.get_extent() for shown in axes.images]
    sizes = [(round(right - left, 6), round(low - high, 6)) for left, right, low, high in placed]
    assert sizes == [(2, 8), (8, 2), (8, 8), (8, 8), (8, 8)]
    edges = [frame.get_edgecolor()[:3] for frame in axes.patches]
    assert edges == [matplotlib_colour(COLOURS[name]) for name in ("A", "B", "ΔW", "W", "W")]


def test_in_a_picture_of_lora_a_lies_left_of_the_product_and_b_above_it():
    (axes,) = lora_picture(torch.eye(8), torch.ones(8, 2), torch.ones(2, 8)).axes
    (_, right_A, *rows_A), (*columns_B, low_B, _), (left, right, low, high), *_ = (i.get_extent() for i in axes.images)
    assert right_A < left and rows_A == [low, high] and low_B < high and columns_B == [left, right]


def matplotlib_colour(name):
    from matplotlib.colors import to_rgb

    return to_rgb(name)


def test_a_slider_changes_no_random_number_of_a_later_cell():
    def draws(x):
        torch.rand(3)
        return []

    state = torch.random.get_rng_state()
    explorer = tiny(draws)
    explorer._frame([1])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sliders_are_called_by_their_label_and_each_position_is_a_frame_of_its_own():
    explorer = Explorer(
        figure("", width=3, height=2), lambda **_: [], lambda **_: "alt", {"b": 0.5}, {"a": "A side"},
        a=[1, 2], b=[0.1, 0.5, 1.0],
    )  # fmt: skip
    assert [slider["label"] for slider in explorer.sliders] == ["A side", "b"]
    assert explorer.sliders[1]["options"] == ["0.1", "0.5", "1"] and explorer.values == {"a": 1, "b": 0.5}
    assert list(explorer.frames) == ["0,1"]


def test_saved_after_a_move_the_notebook_shows_where_the_slider_stands_now():
    explorer = tiny()
    explorer.position = [4]
    assert explorer._repr_mimebundle_()[0]["text/plain"] == "a dot at 5"


def test_a_standalone_explorer_carries_each_look_once_and_every_position():
    explorer = Explorer(*still_dot(), a=[1, 2, 3], b=[0.1, 0.5])
    looks, _ = unpacked(explorer.standalone())
    assert [len(of_an_artist) for of_an_artist in looks["looks"]] == [3]
    assert [row[0] for row in looks["positions"]] == ["0,0", "0,1", "1,0", "1,1", "2,0", "2,1"]
    assert [row[2] for row in looks["positions"]] == [0, 0, 1, 1, 2, 2]


def still_dot():
    """Figure, update and description of a dot that only the first of two sliders moves."""
    picture = figure("", width=3, height=2)
    (dot,) = picture.subplots().plot([0], [0.5], "o")

    def update(a, b):
        dot.set_data([a], [0.5])
        return [dot]

    return picture, update, lambda a, b: f"{a} and {b}"


def unpacked(standalone):
    return json.loads(zlib.decompress(base64.b64decode(standalone._looks))), zlib.decompress(
        base64.b64decode(standalone._cells)
    )


def test_the_cells_of_images_are_carried_as_what_differs_from_the_position_before():
    picture = figure("", width=3, height=2)
    shown = picture.subplots().imshow([[0, 0, 0]], vmin=0, vmax=255, cmap="gray")

    def update(x):
        shown.set_data([[0, x, 255]])
        return [shown]

    looks, cells = unpacked(Explorer(picture, update, "{x}".format, x=[0, 255, 100]).standalone())
    assert list(cells) == [0, 0, 2, 0, 2, 0, 0, 255, 0]
    assert looks["looks"][0][0][0]["colours"] == [0xFF000000, 0xFF646464, 0xFFFFFFFF]


@pytest.mark.parametrize("make", [*EXPLORERS.values(), everything], ids=[*EXPLORERS, "everything"])
def test_a_frame_is_small_and_the_same_whenever_it_is_asked_for(make):
    explorer = make()
    first = json.dumps(explorer._frame(explorer.position))
    explorer._frame([len(slider["options"]) - 1 for slider in explorer.sliders])
    assert json.dumps(explorer._frame(explorer.position)) == first and len(first) < 30_000


def test_markers_of_missing_and_of_very_far_numbers_are_left_out():
    picture = figure("", width=3, height=2)
    axes = picture.subplots()
    (dots,) = axes.plot([0, 1, 2, 3], [0, 1, 2, 3], "o")
    axes.set(xlim=(0, 3), ylim=(0, 1))

    def update(x):
        dots.set_ydata([0.5, float("nan"), x, 0.2])
        return [dots]

    explorer = Explorer(picture, update, "{x}".format, x=[1.0, 1e9, float("inf")])
    counts = [len(command["at"]) for i in range(3) for command in explorer._frame([i])["artists"][0] if "at" in command]
    assert counts == [3, 2, 2]
    assert "NaN" not in json.dumps(explorer._frame([2])) and "Infinity" not in json.dumps(explorer._frame([2]))
