"""Which base image and which Python a job gets, on an engine whose images are known."""

from __future__ import annotations

from typing import Any

import pytest

from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.controller.environments.base_image import Base, choose_base
from ci_runner.errors import ImageUnavailable
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire.protocol import SubmitOptions


class Chooser:
    """An engine with these images, each with these Pythons; what the user was told."""

    def __init__(self, images: set[str], pythons: tuple[str, ...]) -> None:
        self.engine = MemoryEngine(pythons=pythons)
        self.engine.images = images
        self.said: list[str] = []

    def choose(self, *, python: str | None = None, image: str | None = None, **settings: Any) -> Base:
        options = SubmitOptions(python=python, image=image)
        settings = {"default_python": "3.12", **settings}
        return choose_base(self.engine, ReconcileSettings(**settings), options, self.said.append)


OFFICIAL = {"python:3.11-slim", "python:3.12-slim"}
MADE_HERE = {"ci-runner-base:bookworm"}


@pytest.mark.parametrize(
    ("images", "pythons", "asked", "settings", "reference", "python", "named"),
    [
        pytest.param(OFFICIAL, (), {}, {}, "python:3.12-slim", "3.12", False, id="the operator's default"),
        pytest.param(
            OFFICIAL, (), {"python": "3.11"}, {}, "python:3.11-slim", "3.11", False, id="the client's Python"
        ),
        pytest.param(
            {"team:3.11"},
            (),
            {"python": "3.11"},
            {"base_image": "team:{python}"},
            "team:3.11",
            "3.11",
            False,
            id="the operator's own",
        ),
        pytest.param({"mine:1"}, (), {"image": "mine:1"}, {}, "mine:1", "3.12", True, id="named by the user"),
        pytest.param(
            {"mine:1"},
            ("3.9", "3.10"),
            {"image": "mine:1"},
            {},
            "mine:1",
            "3.10",
            True,
            id="the newest where the default is not in it",
        ),
        pytest.param(
            {"team/a:1"},
            (),
            {"image": "team/a:1"},
            {"allowed_images": ("team/*",)},
            "team/a:1",
            "3.12",
            True,
            id="allowed by a pattern",
        ),
        pytest.param(
            OFFICIAL,
            (),
            {"image": "python:3.12-slim"},
            {"allowed_images": ("team/*",)},
            "python:3.12-slim",
            "3.12",
            False,
            id="the default needs no permission and is not foreign",
        ),
        pytest.param(
            MADE_HERE,
            ("3.11",),
            {"python": "3.11"},
            {},
            "ci-runner-base:bookworm",
            "3.11",
            False,
            id="one made here where the official one cannot be had",
        ),
        pytest.param(
            MADE_HERE,
            ("3.11",),
            {},
            {},
            "ci-runner-base:bookworm",
            "3.11",
            False,
            id="one made here, with whatever Python it has",
        ),
        pytest.param(
            {"ci-runner-base:3.11", *MADE_HERE},
            ("3.11",),
            {"python": "3.11"},
            {},
            "ci-runner-base:3.11",
            "3.11",
            False,
            id="the one made for this version first",
        ),
    ],
)
def test_the_image_and_the_python_of_a_job(
    images: set[str],
    pythons: tuple[str, ...],
    asked: dict[str, str],
    settings: dict[str, Any],
    reference: str,
    python: str,
    named: bool,
) -> None:
    chooser = Chooser(images, pythons)
    base = chooser.choose(**asked, **settings)
    assert (base.image.reference, base.python, base.named_by_user) == (reference, python, named)
    replaced = reference.startswith("ci-runner-base")
    assert chooser.said == (
        [f"image python:{asked.get('python', '3.12')}-slim is not available; using {reference}"]
        if replaced
        else []
    )


@pytest.mark.parametrize(
    ("images", "pythons", "asked", "settings", "words"),
    [
        pytest.param(
            {"mine:1"},
            (),
            {"image": "mine:1"},
            {"allowed_images": ("team/*", "python:*")},
            r"'mine:1' is not allowed on this runner; allowed: team/\*, python:\*",
            id="not allowed",
        ),
        pytest.param(
            {"mine:1"},
            ("3.10", "3.11"),
            {"image": "mine:1", "python": "3.13"},
            {},
            r"'mine:1' has no Python 3\.13; it has 3\.10, 3\.11: choose another with --remote-ci-python or the key",
            id="without the Python asked for",
        ),
        pytest.param(
            MADE_HERE,
            ("3.10", "3.9"),
            {"python": "3.13"},
            {},
            r"'python:3\.13-slim' does not exist; the images made here have Python 3\.9, 3\.10",
            id="none made here has it either",
        ),
        pytest.param(set(), (), {}, {}, r"'python:3\.12-slim' does not exist$", id="none at all"),
        pytest.param(
            MADE_HERE,
            ("3.12",),
            {},
            {"base_image": "team:1"},
            r"'team:1' does not exist$",
            id="an operator's own is not replaced",
        ),
    ],
)
def test_an_image_that_cannot_be_had_is_explained(
    images: set[str], pythons: tuple[str, ...], asked: dict[str, str], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ImageUnavailable, match=words):
        Chooser(images, pythons).choose(**asked, **settings)
