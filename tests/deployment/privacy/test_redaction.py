"""What is taken for personal data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.privacy import redacted, redacted_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ada.lovelace+x@mail.example.org, please.", "Write to [e-mail], please."),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [iban]."),
        ("GB82WEST12345698765432", "[iban]"),
        ("my card 4111 1111 1111 1111!", "my card [card]!"),
        ("4111-1111-1111-1111", "[card]"),
        ("call +49 (0)30 1234567 now", "call [telephone] now"),
        ("0044 20 7946 0958", "[telephone]"),
        ("from 192.168.1.17 and 2001:db8::8a2e:370:7334", "from [ip] and [ip]"),
    ],
)
def test_personal_data_is_replaced(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "R(4,5) = 25 and 43 <= R(5,5) <= 46.",
        "4111 1111 1111 1112",  # Luhn says no
        "DE89 1704 4234 5532 1130 05",  # mod 97 says no
        "version 1.2.3.4567",
        "at 10:30:45 o'clock",
        "a@b",
        "256.300.1.2",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redacted(text) == text


def test_every_text_of_a_conversation_is_looked_at() -> None:
    given_one = {"messages": [{"role": "user", "content": "I am a@example.org"}], "n": 3, "prompt": "+49 30 1234567"}
    assert redacted_all(given_one) == {
        "messages": [{"role": "user", "content": "I am [e-mail]"}],
        "n": 3,
        "prompt": "[telephone]",
    }


@given(st.text(alphabet="0123456789 -.:+@aAbBzZ()/", max_size=4000))
def test_no_text_makes_it_slow_or_breaks_it(text: str) -> None:
    redacted(text)


@pytest.mark.parametrize("text", ["1 " * 50_000, "a." * 50_000 + "@", "+1" * 50_000, "1:" * 50_000, "A1 " * 50_000])
def test_long_texts_of_one_kind_end(text: str) -> None:
    redacted(text)
