"""Tables of results: the same numbers for a page and in plain text, in line, the best marked."""

import re

import pytest

from lora_lab.pictures.tables import table


def test_a_table_says_in_plain_text_what_it_shows_numbers_in_line_and_words_at_the_left():
    rows = {"LoRA, rank 2": [1664, 0.25, "87 ± 1", "well"], "full": [85002, 12.5, "97 ± 12", "better"]}
    shown = table(rows, ["method", "numbers", "loss", "right, %", "in a word"], "What came out")
    assert repr(shown).splitlines() == [
        "What came out",
        "method        numbers   loss  right, %  in a word",
        "LoRA, rank 2    1,664   0.25    87 ± 1  well",
        "full           85,002  12.50   97 ± 12  better",
    ]


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ({"lowest": "row"}, ["0.20*  0.20*  0.90", "0.30   0.10*  0.40"]),
        ({"highest": "row"}, ["0.20  0.20  0.90*", "0.30  0.10  0.40*"]),
        ({"lowest": "column"}, ["0.20*  0.20   0.90", "0.30   0.10*  0.40*"]),
        ({"highest": "column"}, ["0.20   0.20*  0.90*", "0.30*  0.10   0.40"]),
        ({}, ["0.20  0.20  0.90", "0.30  0.10  0.40"]),
    ],
    ids=str,
)
def test_the_best_are_marked_and_with_them_all_that_are_written_alike(marked, expected):
    shown = table({"a": [0.201, 0.199, 0.9], "b": [0.3, 0.1, 0.4]}, ["", 1, 2, 3], **marked)
    assert [line[3:] for line in repr(shown).splitlines()[1:]] == expected
    assert len(re.findall(r"\* <b>0\.", shown.html())) == sum(line.count("*") for line in expected)


def test_counts_texts_and_gaps_are_not_compared():
    shown = table({"a": [1, "0.1", None, 2.0], "b": [2, "0.2", 0.5, 1.0]}, ["", *"wxyz"], lowest="column")
    assert repr(shown).splitlines()[1:] == ["a  1  0.1         2.00", "b  2  0.2  0.50*  1.00*"]


def test_a_column_with_a_word_among_its_numbers_is_one_of_numbers():
    assert repr(table({"a": [0.25], "b": ["broke"]}, ["lr", 10])).splitlines() == [
        "lr     10",
        "a    0.25",
        "b   broke",
    ]


def test_a_page_has_headings_that_a_screen_reader_knows_and_no_colours_of_its_own():
    shown = table({"<a>": [0.5]}, ["x < y", 1024], "A & B").html()
    assert "<caption" in shown and "A &amp; B</caption>" in shown
    assert re.findall(r"<th scope=(\w+) [^>]*>(.*?)</th>", shown) == [
        ("col", "x &lt; y"),
        ("col", "1,024"),
        ("row", "&lt;a&gt;"),
    ]
    assert "color" not in shown and "background" not in shown
    assert "<caption" not in table({"a": [1]}, ["", "b"]).html()


def test_a_notebook_gets_both():
    shown = table({"a": [1]}, ["", "b"])
    assert shown._repr_mimebundle_() == {"text/html": shown.html(), "text/plain": repr(shown)}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rows": {"a": [1, 2]}}, r"'a' has 2 values for 1 columns: \['b'\]"),
        ({"lowest": "cell"}, "lowest='cell' is not 'row' or 'column'"),
        ({"highest": True}, "highest=True is not 'row' or 'column'"),
    ],
)
def test_what_makes_no_table_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        table(**{"rows": {"a": [1]}, "columns": ["", "b"]} | options)
