"""A job's base image and Python, from its options and the operator's settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from ci_runner.controller.engine import Engine, Image
from ci_runner.errors import ImageUnavailable
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire.protocol import SubmitOptions

#: Images from `ci-runner image build`, tried if the official one is unavailable.
LOCAL_IMAGES: Final = ("ci-runner-base:{python}", "ci-runner-base:latest", "ci-runner-base:bookworm")

#: How a developer asks for another Python.
_CHOOSE: Final = "choose another with --remote-ci-python or the key `python` in [tool.remote-ci]"


@dataclass(frozen=True)
class Base:
    """The image and Python of a job's containers."""

    image: Image
    #: "3.12".
    python: str
    #: Whether the user named the image: its content is then untrusted.
    named_by_user: bool


def choose_base(
    engine: Engine, settings: ReconcileSettings, options: SubmitOptions, log: Callable[[str], None]
) -> Base:
    """Return the image and Python, pulling if needed. Raises `ImageUnavailable`, `EngineUnavailable`."""
    wanted = options.python or settings.default_python
    default = (settings.base_image or "python:{python}-slim").replace("{python}", wanted)
    if options.image is not None and options.image != default:
        check_allowed(options.image, settings.allowed_images)
        image = engine.image(options.image, progress=log)
        return Base(image, _python_of(image, options.python, settings.default_python), True)
    try:
        image = engine.image(default, progress=log)
    except ImageUnavailable as error:
        if settings.base_image is not None:
            raise
        image = _local(engine, options.python, error)
        log(f"image {default} is not available; using {image.reference}")
    return Base(image, _python_of(image, options.python, settings.default_python), False)


def check_allowed(reference: str, patterns: tuple[str, ...]) -> None:
    """Raise `ImageUnavailable` for an image that users may not name; no patterns allow any."""
    if patterns and not any(fnmatchcase(reference, pattern) for pattern in patterns):
        raise ImageUnavailable(
            f"image {reference!r} is not allowed on this runner; allowed: {', '.join(patterns)}"
        )


def _local(engine: Engine, python: str | None, cause: ImageUnavailable) -> Image:
    """Return a local image from `ci-runner image build` with the wanted Python. Raises `cause` if there is none."""
    seen: set[str] = set()
    for pattern in LOCAL_IMAGES:
        try:
            image = engine.image(pattern.replace("{python}", python or "latest"), pull=False)
        except ImageUnavailable:
            continue
        if python is None or not image.pythons or python in image.pythons:
            return image
        seen.update(image.pythons)
    if seen:
        has = ", ".join(sorted(seen, key=_version))
        raise ImageUnavailable(
            f"{cause}; the images made here have Python {has}: add it with "
            f"`ci-runner image build --python {python}`, or {_CHOOSE}"
        ) from cause
    raise cause


def _python_of(image: Image, wanted: str | None, default: str) -> str:
    """Return the version to use. Raises `ImageUnavailable`, naming the available versions."""
    if wanted is not None and image.pythons and wanted not in image.pythons:
        has = ", ".join(image.pythons)
        raise ImageUnavailable(f"image {image.reference!r} has no Python {wanted}; it has {has}: {_CHOOSE}")
    if wanted is not None:
        return wanted
    if not image.pythons or default in image.pythons:
        return default
    return max(image.pythons, key=_version)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
