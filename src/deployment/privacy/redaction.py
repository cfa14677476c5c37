"""Personal data in texts, replaced by what it was. Pure. Every pattern is bounded: no text makes it slow."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_DIGITS = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-])")
_PHONE = re.compile(r"(?<![\w.+/-])(?:\+|00)\d{1,3}[ .()/-]{0,3}(?:\d[ .()/-]{0,2}){5,13}\d\b")
_IPV4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9A-Fa-f:]{3,39}(?![\w:])")


def redacted(text: str) -> str:
    """The text without e-mail addresses, IBANs, card numbers, telephone numbers and IP addresses.

    What only looks like an IBAN or a card number stays: their check digits must fit. Telephone numbers are known
    by their country code, for others look like any number.
    """
    text = _EMAIL.sub("[e-mail]", text)
    text = _IBAN.sub(_if(_is_iban, "[iban]"), text)
    text = _DIGITS.sub(_if(_is_card, "[card]"), text)
    text = _PHONE.sub("[telephone]", text)
    text = _IPV6.sub(_if(_is_ipv6, "[ip]"), text)
    return _IPV4.sub("[ip]", text)


def redacted_all(value: Any) -> Any:
    """Every text within lists and objects."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [redacted_all(each) for each in value]
    if isinstance(value, dict):
        return {name: redacted_all(each) for name, each in value.items()}
    return value


def _if(check: Callable[[str], bool], put: str) -> Callable[[re.Match[str]], str]:
    return lambda match: put if check(match[0]) else match[0]


def _is_iban(text: str) -> bool:
    """ISO 7064, mod 97."""
    code = text.replace(" ", "")
    moved = code[4:] + code[:4]
    return len(code) >= 15 and int("".join(str(int(each, 36)) for each in moved)) % 97 == 1


def _is_card(text: str) -> bool:
    """The check of Luhn."""
    digits = [int(each) for each in text if each.isdigit()][::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * each, 10)) for each in digits[1::2])) % 10 == 0


def _is_ipv6(text: str) -> bool:
    try:
        return text.count(":") > 1 and ipaddress.IPv6Address(text) is not None
    except ValueError:
        return False
