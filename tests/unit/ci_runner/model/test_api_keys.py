"""API keys: shape, checksum, hash."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_runner.model import api_keys
from pytest_remote_ci.wire.protocol import KEY_PATTERN

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY = api_keys.generate().text


@pytest.mark.case(56)
def test_a_key_has_the_documented_shape() -> None:
    # Longer than the reference's 43 characters on purpose: ours carries an id and a checksum.
    text = api_keys.generate().text
    assert re.fullmatch(r"ci_[A-Za-z0-9_-]{40,}", text)
    assert KEY_PATTERN.fullmatch(text)
    assert len(text) == api_keys.KEY_LENGTH == 49


@pytest.mark.case(57)
def test_a_hundred_keys_are_a_hundred_different_keys() -> None:
    assert len({api_keys.generate().text for _ in range(100)}) == 100


@pytest.mark.case(58)
def test_the_hash_is_the_sha256_of_the_whole_key_in_hexadecimal() -> None:
    key = api_keys.generate()
    assert key.hash == hashlib.sha256(key.text.encode()).hexdigest() == api_keys.hash_key(key.text)
    assert api_keys.hash_key(key.text) == api_keys.hash_key(key.text)


@pytest.mark.case(59)
def test_keys_use_the_whole_alphabet() -> None:
    assert len(set("".join(api_keys.generate().text for _ in range(1000)))) >= 50


def test_a_key_is_named_by_the_characters_after_its_prefix() -> None:
    assert api_keys.generate().id != api_keys.generate().id
    assert api_keys.parse(KEY) is not None
    assert api_keys.Key(KEY).id == KEY[3:11]


def test_the_representation_does_not_show_the_key() -> None:
    shown = repr(api_keys.Key(KEY))
    assert not [start for start in range(11, len(KEY) - 4) if KEY[start : start + 4] in shown]


def test_a_key_matches_its_own_hash_only() -> None:
    assert api_keys.matches(KEY, api_keys.hash_key(KEY))
    assert not api_keys.matches(KEY, api_keys.hash_key(api_keys.generate().text))


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_every_replaced_character_is_noticed(position: int, character: str) -> None:
    edited = KEY[:position] + character + KEY[position + 1 :]
    assert (api_keys.parse(edited) is None) == (edited != KEY)


@pytest.mark.parametrize("position", range(3, len(KEY)))
def test_every_replacement_out_of_the_alphabet_is_noticed(position: int) -> None:
    others = [letter for letter in ALPHABET if letter != KEY[position]]
    assert not [letter for letter in others if api_keys.parse(KEY[:position] + letter + KEY[position + 1 :])]


@given(st.integers(0, len(KEY)), st.sampled_from(ALPHABET))
def test_every_inserted_character_is_noticed(position: int, character: str) -> None:
    assert api_keys.parse(KEY[:position] + character + KEY[position:]) is None


@given(st.integers(0, len(KEY) - 1))
def test_every_missing_character_is_noticed(position: int) -> None:
    assert api_keys.parse(KEY[:position] + KEY[position + 1 :]) is None


@given(st.text())
def test_any_text_is_judged_without_an_error(text: str) -> None:
    assert api_keys.parse(text) is None
    assert len(api_keys.hash_key(text)) == 64
    assert not api_keys.matches(text, api_keys.hash_key(KEY))


@pytest.mark.parametrize("edit", [" {}", "{} ", "{}\n", "Bearer {}"])
def test_nothing_is_trimmed(edit: str) -> None:
    assert api_keys.parse(edit.format(KEY)) is None


def test_lone_surrogates_are_hashed_like_any_text() -> None:
    assert api_keys.parse("ci_\ud800") is None
    assert len(api_keys.hash_key("ci_\ud800")) == 64
