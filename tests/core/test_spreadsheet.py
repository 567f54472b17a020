"""No cell of a CSV is a formula, and numbers are numbers."""

import csv

import pytest

from peft_vision.core.output import csv_of_records, csv_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|'/c calc'!A0", "'+cmd|'/c calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\n'=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("a;=1", "a;'=1"),
        ("a\n=1", "a\n'=1"),
        ('a","=1', 'a","=1'),  # the quotes of CSV keep it one cell
        ("cat=dog - 1", "cat=dog - 1"),
        ("-", "'-"),
        ("", ""),
        ("-0.5", "-0.5"),
        ("+1e-05", "+1e-05"),
        (-0.5, "-0.5"),
        (-3, "-3"),
        (None, ""),
        (True, "True"),
    ],
)
def test_a_text_that_would_run_stands_behind_an_apostrophe(value, text):
    assert list(csv.reader(csv_text([[value, "next"]]).splitlines(keepends=True))) == [[text, "next"]]


def test_records_share_a_heading_which_is_text_too():
    assert csv_of_records([{"=a": 1, "b": None}, {"=a": "@x", "b": 2.5}]) == "'=a,b\n1,\n'@x,2.5\n"
    assert csv_of_records([]) == ""
