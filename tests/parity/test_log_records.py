"""Log records as objects, which pytest-json-report keeps: all of them, wherever the tests run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .environments import Equipped
from .test_plugins import QUIET, plain

LOGS = """
import logging

import pytest

@pytest.fixture
def chatty():
    logging.warning("in setup", extra={"of": {"whom": [1, None], 2: {"a set"}}})
    yield
    logging.getLogger("a.b").error("in teardown")

def test_logs_much(chatty):
    for number in range(1500):
        logging.getLogger("many").warning("number %d", number, extra={"ratio": float("nan")})
    logging.warning("é" * 3_000_000)

def test_logs_little(chatty):
    logging.warning("little")

def test_logs_nothing():
    pass
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("distributed", ["", "-n 1", "-n 2"])
@pytest.mark.parametrize("there", ["tools", "both"])
def test_log_records_are_objects_wherever_the_tests_run(
    equipped: Equipped, full: Path, tmp_path: Path, there: str, distributed: str
) -> None:
    both = equipped.pair("plugins", there, full, tmp_path)
    directly = equipped.pair("plugins", "both", full, tmp_path / "with")
    args = ("test_logs.py", *QUIET, "-p", "no:cacheprovider", *distributed.split(), "--json-report")
    for place in (directly.direct, both.local):
        (place / "test_logs.py").write_text(LOGS)
    direct, remote = directly.directly(*args), both.remotely(*args)
    assert remote.code == direct.code == 0, remote.text
    found = [logs_of(place / ".report.json") for place in (directly.direct, both.local)]
    assert len(found[0]["test_logs.py::test_logs_much call"]) == 1501
    assert found[1].keys() == found[0].keys()
    for name, records in found[0].items():
        assert found[1][name] == records, name


def logs_of(path: Path) -> dict[str, list[str]]:
    """Test and phase → its log records, without what is another one each time; of the longest the length."""
    tests = json.loads(path.read_text())["tests"]
    return {
        f"{test['nodeid']} {when}": [
            json.dumps({**plain(record, {"taskName"}), "msg": record["msg"][:99], "long": len(record["msg"])})
            for record in test[when].get("log", ())
        ]
        for test in tests
        for when in ("setup", "call", "teardown")
    }
