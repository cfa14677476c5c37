import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployment.cli.wrapping import WordWrap


def wrapped(text: str, width: int, piece: int = 1) -> str:
    """`text` as it is shown when it comes in pieces of that length."""
    wrap = WordWrap(width)
    return "".join(wrap.feed(text[at : at + piece]) for at in range(0, len(text), piece)) + wrap.rest()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("one two", "one two"),
        ("a red K4 or", "a red K4\nor"),  # nine wide: a line may be full to the edge
        ("a red K44 or", "a red K44\nor"),
        ("a red K444 or", "a red\nK444 or"),
        ("wide 数学数 x", "wide\n数学数 x"),  # a character of two cells
        ("  two\n\n  four", "  two\n\n  four"),
        ("an overlongword is here", "an\noverlongword is\nhere"),  # the terminal breaks it after nine: `ord is` fits
        ("line one\nline two", "line one\nline two"),
        ("one\n   sevenly", "one\nsevenly"),  # indented it would not fit
    ],
)
def test_words_stay_whole(text: str, shown: str) -> None:
    assert wrapped(text, 9) == shown


@example(["", "aaaaaaa"], 7, 1)
@given(st.lists(st.text("abc", max_size=12), max_size=20), st.integers(1, 30), st.integers(1, 7))
def test_no_word_is_lost_and_no_line_is_too_long(words: list[str], width: int, piece: int) -> None:
    shown = wrapped(" ".join(words), width, piece)
    assert shown.split() == " ".join(words).split()
    for line in shown.split("\n"):
        assert len(line) <= width or any(len(word) > width for word in line.split())


def test_what_is_whole_is_shown_at_once() -> None:
    wrap = WordWrap(20)
    assert [wrap.feed("R(3"), wrap.feed(",3) = "), wrap.feed("6"), wrap.feed(".\n")] == ["", "R(3,3) =", "", " 6.\n"]
