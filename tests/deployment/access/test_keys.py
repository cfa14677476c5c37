import hashlib

import pytest

from deployment.access.keys import generate_key, key_sha256, public_id_of


def test_a_key_has_its_form_and_is_stored_as_its_sha256() -> None:
    new = generate_key()
    prefix, public_id, rest = new.key.split("_")
    assert (prefix, public_id, len(rest)) == ("rk", new.public_id, 38)
    assert new.sha256 == hashlib.sha256(new.key.encode()).hexdigest() == key_sha256(new.key.encode())
    assert public_id_of(new.key) == new.public_id


def test_no_two_keys_share_anything() -> None:
    keys = [generate_key() for _ in range(200)]
    assert len({new.key[14:46] for new in keys}) == len({new.public_id for new in keys}) == 200


def test_the_key_is_not_in_its_repr() -> None:
    new = generate_key()
    assert new.key not in repr(new)


def test_every_single_misspelt_character_is_noticed() -> None:
    key = generate_key().key
    for position in range(len(key)):
        wrong = "a" if key[position] != "a" else "b"
        assert public_id_of(key[:position] + wrong + key[position + 1 :]) is None


@pytest.mark.parametrize("key", ["", "rk_", "sk-123", "rk_ab_cd"])
def test_what_is_no_key_has_no_public_id(key: str) -> None:
    assert public_id_of(key) is None


def test_a_cut_or_lengthened_key_has_no_public_id() -> None:
    key = generate_key().key
    assert public_id_of(key[:-1]) is None
    assert public_id_of(key + "\n") is None
