"""Lists of users with the job's own: made of an image's, which may be anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci_runner.controller.engine import HOME
from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.controller.environments.accounts import Accounts
from ci_runner.errors import EngineUnavailable

ROOT = "root:x:0:0:root:/root:/bin/sh\n"
OWN = f"runner:x:65532:65532:runner:{HOME}:/bin/sh\n"


class ImageEngine(MemoryEngine):
    """An engine whose images have one list of users, or cannot be read."""

    passwd: bytes | None = None
    is_away = False

    def image_file(self, image_id: str, path: str, limit: int) -> bytes | None:
        if self.is_away:
            raise EngineUnavailable("away")
        return self.passwd if path == "/etc/passwd" else None


@pytest.fixture
def engine() -> ImageEngine:
    return ImageEngine()


@pytest.mark.parametrize(
    ("passwd", "expected"),
    [
        (ROOT, ROOT + OWN),
        ("", OWN),
        (f"{ROOT}no entry\n+::::::\nx:y\n", ROOT + OWN),
        (f"{ROOT}two:x:7:7:::\n{ROOT.strip()}", f"{ROOT}two:x:7:7:::\n{ROOT}{OWN}"),
        (f"{ROOT}\r\n\x00", ROOT + OWN),
        ("runner:x:7:7:::\n", f"runner:x:7:7:::\nrunner65532:x:65532:65532:runner65532:{HOME}:/bin/sh\n"),
        (ROOT + OWN, None),
        ("other:x:65532:0:::\n", None),
        (None, None),
    ],
)
def test_the_uid_gets_a_name_unless_it_has_one(
    passwd: str | None, expected: str | None, engine: ImageEngine, tmp_path: Path
) -> None:
    engine.passwd = None if passwd is None else passwd.encode()
    binds = Accounts(tmp_path, engine, 65532).binds("sha256:1")
    assert [(bind.target, bind.source.read_text(), bind.read_only) for bind in binds] == (
        [] if expected is None else [("/etc/passwd", expected, True)]
    )


def test_an_image_that_cannot_be_read_stays_as_it_is(engine: ImageEngine, tmp_path: Path) -> None:
    engine.is_away = True
    assert Accounts(tmp_path, engine, 65532).binds("sha256:1") == ()
