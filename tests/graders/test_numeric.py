"""Numbers: formatting, equality, and texts that are not numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.graders import arithmetic, numeric

NUMBERS = [
    ("31", 31),
    ("31.", 31),
    ("+31", 31),
    ("−31", -31),
    ("-$31", -31),
    ("$-31", -31),
    (r"\$4,250.75", Fraction(17003, 4)),
    ("€31", 31),
    ("4,250", 4250),
    ("4 250 000", 4_250_000),
    (r"4,\!250", 4250),
    ("4{,}250", 4250),
    ("4250,5", Fraction(8501, 2)),
    (".75", Fraction(3, 4)),
    ("2 3/4", Fraction(11, 4)),
    ("2¾", Fraction(11, 4)),
    ("-1 1/2", Fraction(-3, 2)),
    (r"2\frac34", Fraction(11, 4)),
    (r"\dfrac{3}{4}", Fraction(3, 4)),
    (r"-\frac34", Fraction(-3, 4)),
    ("75/3", 25),
    ("10^4", 10_000),
    ("3e4", 30_000),
    (r"4.5 \times 10^{-3}", Fraction(9, 2000)),
    ("4.5 x 10^3", 4500),
    ("2^{10}-1", 1023),
    ("5!", 120),
    (r"\sqrt{144}", 12),
    ("3.5 million", 3_500_000),
    ("2 thousand dollars", 2000),
    ("thirty-one", 31),
    ("two hundred and five marbles", 205),
    ("31 pears (out of 40)", 31),
    ("31 (thirty-one)", 31),
    ("31 pears left over from the 40", 31),
    ("31weeks", 31),
    ("31 m²", 31),
    ("31km/h", 31),
    ("80%", 80),
    ("80 percent", 80),
    (r"80\%", 80),
    (r"31\text{ cm}^2", 31),
    (r"31^{\circ}", 31),
    ("x = 31", 31),
    ("40 - 9 = 31", 31),
    ("<<40-9=31>>31 pears", 31),
    (r"x = 31 \approx 30", 31),
    ("31, not 40", 31),
    ("31?", 31),
    ("31, which is less than 40", 31),
    ("Ann keeps 31 pears", 31),
    ("The price of 3 pears is 31", 31),
    ("(31)", 31),
    ("**31**", 31),
    ("minus 31", -31),
    ("The change is negative 31", -31),
    ("thirty-one quarters", 31),
]

NOT_NUMBERS = [
    "",
    "none",
    "infinity",
    "not 31",
    "no more than 31",
    "31 is wrong",
    "31k",
    "31 hours 30 minutes",
    "30 or 31",
    "30 to 31",
    "30-31",
    "30-31 pears",
    "3:10",
    "5 hours and 30 minutes",
    "3 1",
    "3, 1, 4",
    r"\pm 31",
    "31x",
    "31 x",
    "31i",
    "3+1i",
    "257_8",
    r"4\sqrt{2}",
    r"2\pi",
    "1/0",
    "1.2.3",
    "12,34,567",
    "one half",
    "two thirds",
    "31 and a half",
    "Between 30 and 31 pears",
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_formatting_is_ignored(text: str, number: int | Fraction) -> None:
    assert numeric.parse_number(text) == number


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_texts_without_an_exact_number(text: str) -> None:
    assert numeric.parse_number(text) is None


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("31 or 31.0", "31", True),
        ("31 or 32", "31", False),
        ("-31", "31", False),
        ("31.0000001", "31", False),
        ("0.33", "1/3", False),
        ("0.333333", "1/3", True),
        ("0.666667", "2/3", True),
        ("0.666666", "2/3", True),
        ("0.666668", "2/3", False),
        ("80%", "0.8", False),
        (".0000351", ".0000352", False),
        (r"\frac{1}{2^{89}}", r"\frac{1}{2^{88}}", False),
        ("1.414213", r"\sqrt{2}", True),
        ("1.41", r"\sqrt{2}", False),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        (r"\frac{\sqrt{2}}{2^{200}}", r"\frac{\sqrt{2}}{2^{201}}", False),
    ],
)
def test_equality_is_exact_except_for_long_decimals(answer: str, gold: str, right: bool) -> None:
    assert numeric.equal(answer, gold) is right


@pytest.mark.parametrize(
    ("gold", "number"),
    [("31", True), ("4,250", True), (r"\frac{3}{4}", True), ("-2.5", True), (r"\$18.90", True)]
    + [(text, False) for text in ("80\\%", r"5\text{ cm}", "90^\\circ", "1,2", "x=5", "31 pears")]
    + [(text, False) for text in ("", "A", r"\sqrt{2}", "52_8", "(2,3)")],
)
def test_only_a_bare_exact_number_is_a_numeric_gold(gold: str, number: bool) -> None:
    assert numeric.is_number(gold) is number


@given(st.fractions(), st.sampled_from(["{}", " {} ", "${}$", "{} eggs", "x = {}", "**{}**"]))
def test_every_fraction_survives_any_formatting(number: Fraction, template: str) -> None:
    assert numeric.parse_number(template.format(number)) == number


@given(st.integers(), st.integers(1, 6))
def test_thousands_separators_and_decimals_change_nothing(number: int, places: int) -> None:
    assert numeric.parse_number(f"{number:,}.{'0' * places}") == number


@given(st.text(max_size=600) | st.text("0123456789+-*/^!(){}\\frac.,:e $", max_size=120))
def test_no_text_raises(text: str) -> None:
    value = numeric.read(text)
    assert value is None or arithmetic.same(value, value)
