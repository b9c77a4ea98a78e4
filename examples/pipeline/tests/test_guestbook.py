import os

import pytest
from guestbook import GuestBook


@pytest.fixture
def book(tmp_path):
    with GuestBook(os.environ.get("DATABASE_URL") or str(tmp_path / "book.db")) as opened:
        opened.clear()
        yield opened


def test_an_empty_book_has_no_entries(book):
    assert book.entries() == []


def test_entries_come_by_name(book):
    book.sign("Grace", "Lovely")
    book.sign("Ada", "Nice engine")
    assert book.entries() == [("Ada", "Nice engine"), ("Grace", "Lovely")]


def test_who_signs_again_writes_theirs_anew(book):
    book.sign("Ada", "Nice")
    book.sign("Ada", "Very nice")
    assert book.entries() == [("Ada", "Very nice")]


@pytest.mark.parametrize("name", ["", "  "])
def test_nobody_signs_without_a_name(book, name):
    with pytest.raises(ValueError, match="without a name"):
        book.sign(name, "x")


@pytest.mark.skipif("DATABASE_URL" not in os.environ, reason="SQLite has no server")
def test_the_server_is_a_postgresql(book):
    assert "PostgreSQL" in book._run("SELECT version()")[0][0]
