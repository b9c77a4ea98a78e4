"""API keys: shape, checksum, hash."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_runner import credentials
from pytest_remote_ci.wire import KEY_PATTERN

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY = credentials.generate().text


@pytest.mark.case(56)
def test_a_key_has_the_documented_shape() -> None:
    # Longer than the reference's 43 characters on purpose: ours carries an id and a checksum.
    text = credentials.generate().text
    assert re.fullmatch(r"ci_[A-Za-z0-9_-]{40,}", text)
    assert KEY_PATTERN.fullmatch(text)
    assert len(text) == credentials.KEY_LENGTH == 49


@pytest.mark.case(57)
def test_a_hundred_keys_are_a_hundred_different_keys() -> None:
    assert len({credentials.generate().text for _ in range(100)}) == 100


@pytest.mark.case(58)
def test_the_hash_is_the_sha256_of_the_whole_key_in_hexadecimal() -> None:
    key = credentials.generate()
    assert key.hash == hashlib.sha256(key.text.encode()).hexdigest() == credentials.hash_key(key.text)
    assert credentials.hash_key(key.text) == credentials.hash_key(key.text)


@pytest.mark.case(59)
def test_keys_use_the_whole_alphabet() -> None:
    assert len(set("".join(credentials.generate().text for _ in range(1000)))) >= 50


def test_a_key_is_named_by_the_characters_after_its_prefix() -> None:
    assert credentials.generate().id != credentials.generate().id
    assert credentials.parse(KEY) is not None
    assert credentials.Key(KEY).id == KEY[3:11]


def test_the_representation_does_not_show_the_key() -> None:
    shown = repr(credentials.Key(KEY))
    assert not [start for start in range(11, len(KEY) - 4) if KEY[start : start + 4] in shown]


def test_a_key_matches_its_own_hash_only() -> None:
    assert credentials.matches(KEY, credentials.hash_key(KEY))
    assert not credentials.matches(KEY, credentials.hash_key(credentials.generate().text))


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_every_replaced_character_is_noticed(position: int, character: str) -> None:
    edited = KEY[:position] + character + KEY[position + 1 :]
    assert (credentials.parse(edited) is None) == (edited != KEY)


@pytest.mark.parametrize("position", range(3, len(KEY)))
def test_every_replacement_out_of_the_alphabet_is_noticed(position: int) -> None:
    others = [letter for letter in ALPHABET if letter != KEY[position]]
    assert not [
        letter for letter in others if credentials.parse(KEY[:position] + letter + KEY[position + 1 :])
    ]


@given(st.integers(0, len(KEY)), st.sampled_from(ALPHABET))
def test_every_inserted_character_is_noticed(position: int, character: str) -> None:
    assert credentials.parse(KEY[:position] + character + KEY[position:]) is None


@given(st.integers(0, len(KEY) - 1))
def test_every_missing_character_is_noticed(position: int) -> None:
    assert credentials.parse(KEY[:position] + KEY[position + 1 :]) is None


@given(st.text())
def test_any_text_is_judged_without_an_error(text: str) -> None:
    assert credentials.parse(text) is None
    assert len(credentials.hash_key(text)) == 64
    assert not credentials.matches(text, credentials.hash_key(KEY))


@pytest.mark.parametrize("edit", [" {}", "{} ", "{}\n", "Bearer {}"])
def test_nothing_is_trimmed(edit: str) -> None:
    assert credentials.parse(edit.format(KEY)) is None


def test_lone_surrogates_are_hashed_like_any_text() -> None:
    assert credentials.parse("ci_\ud800") is None
    assert len(credentials.hash_key("ci_\ud800")) == 64
