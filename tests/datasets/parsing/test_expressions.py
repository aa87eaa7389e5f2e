"""Expressions over the groups of a pattern: they give the right numbers and run no code."""

import pytest

from datasets.parsing.expressions import Rule
from tests.datasets.hand_trees import message

GROUPS = {"number": "00010", "person": "007", "side": "L"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(number - 1) // 10", "0"),
        ("number", "00010"),
        ("person, side", "007_L"),
        ("person, (number - 1) // 5", "007_1"),
        ("-number % 7 + 2 * 3", "10"),
    ],
)
def test_values(text, value):
    assert Rule("DATASETS.IDENTITY", text, GROUPS).value(GROUPS, "a.bmp") == value


def test_the_tenth_image_belongs_to_the_first_palm():
    rule = Rule("DATASETS.IDENTITY", "(number - 1) // 10", ["number"])
    palms = [rule.value({"number": f"{n:05d}"}, "") for n in range(1, 6001)]
    assert palms == [str(n // 10) for n in range(6000)] and len(set(palms)) == 600


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "number.real",
        "number ** number",
        "[n for n in number]",
        "lambda: 1",
        "'a'",
        "1.5",
        "True",
        "number if side else 1",
        "f(number)",
        "number < 3",
        "+number",
    ],
)
def test_everything_else_is_refused(text):
    said = message(Rule, "DATASETS.IDENTITY", text, GROUPS)
    assert said.startswith("DATASETS.IDENTITY = ") and "not allowed" in said


@pytest.mark.parametrize("text", ["", "(number", "number //", "1" * 600, "number\0"])
def test_no_rule_at_all(text):
    assert "is not a rule" in message(Rule, "DATASETS.CAMERA", text, GROUPS)


def test_a_missing_group_is_named():
    assert "there is no group 'finger'; the groups are number, person, side" in message(
        Rule, "DATASETS.IDENTITY", "finger // 2", GROUPS
    )
    rule = Rule("DATASETS.IDENTITY", "number // side", GROUPS)
    assert "side of a.bmp is 'L', which is not a number" in message(rule.value, GROUPS, "a.bmp")
    assert "a.bmp has no side" in message(rule.value, {"number": "1"}, "a.bmp")
    assert "divides by zero for a.bmp" in message(rule.value, {"number": "1", "side": "0"}, "a.bmp")
    large = Rule("DATASETS.IDENTITY", "number * 1000000000000 * 1000000000000", GROUPS)
    assert "beyond" in message(large.value, GROUPS, "a.bmp")
