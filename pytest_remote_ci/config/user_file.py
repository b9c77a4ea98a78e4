"""The user file: its location on each platform, reading, and writing by `remote-ci login`.

It holds the address and the API key, and optionally any other key of the configuration.
`pytest_remote_ci.config.config` checks the values; this module handles only locations, TOML and permissions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_remote_ci.errors import ConfigError

FOLDER: Final = "pytest-remote-ci"
#: The name of the API key in the user file and in `Config.origins`.
API_KEY: Final = "api-key"
#: The table of profiles in the user file.
PROFILES: Final = "profiles"


def home_folder() -> Path:
    """Return the user's home folder; if unknown, a path that contains nothing.

    The home folder is unknown for a user id without an account, for example.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def path(
    environ: Mapping[str, str] = os.environ, home: Path | None = None, platform: str = sys.platform
) -> Path:
    """Return the path of the user file, in the platform's folder for configuration. It may not exist."""
    home = home_folder() if home is None else home
    if platform == "win32":
        base = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        xdg = environ.get("XDG_CONFIG_HOME", "")
        base = Path(xdg) if Path(xdg).is_absolute() else home / ".config"  # XDG: relative paths are invalid
    return base / FOLDER / "config.toml"


def cache_folder(
    environ: Mapping[str, str] = os.environ, home: Path | None = None, platform: str = sys.platform
) -> Path:
    """Return the folder for caches, in the platform's folder for them. It may not exist."""
    home = home_folder() if home is None else home
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / FOLDER / "cache"
    if platform == "darwin":
        return home / "Library" / "Caches" / FOLDER
    xdg = environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else home / ".cache") / FOLDER


def legacy_path(home: Path) -> Path:
    """Return the path of the file with ``api_key=…`` lines that earlier clients wrote."""
    return home / ".ci" / "config"


def read(file: Path) -> dict[str, object]:
    """Return the values of the user file; {} if there is none. Raises `ConfigError`."""
    return read_toml(file)


def with_profile(
    file: Path, values: Mapping[str, object], profile: str | None
) -> tuple[dict[str, object], tuple[str, dict[str, object]] | None]:
    """Return the values outside of profiles, and name and values of the chosen profile; None if none is chosen.

    With a profile, address and key outside of it count no more: its runner must not get the key of another one.
    Raises `ConfigError` for an unknown profile.
    """
    common = {key: value for key, value in values.items() if key != PROFILES}
    if profile is None:
        return common, None
    profiles = values.get(PROFILES, {})
    found = profiles.get(profile) if isinstance(profiles, dict) else None
    if not isinstance(found, dict):
        names = ", ".join(map(str, profiles)) if isinstance(profiles, dict) and profiles else "none"
        raise ConfigError(
            f"{file} has no profile {profile!r} (it has: {names}); "
            f"`remote-ci login --profile {profile}` stores one"
        )
    if "url" not in found:  # its key would be sent to a runner that a project names
        raise ConfigError(f"{file}: the profile {profile!r} needs `url`")
    for key in ("url", API_KEY):
        common.pop(key, None)
    return common, (profile, dict(found))


def read_legacy(home: Path) -> dict[str, str]:
    """Return the first ``api_key=…`` of the earlier clients' file; {} if there is none or it cannot be read."""
    try:
        text = legacy_path(home).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() == "api_key" and value.strip():
            return {API_KEY: value.strip()}
    return {}


class SpelledFloat(float):
    """A float that keeps its spelling, such as ``1.10``."""

    text: str

    def __new__(cls, text: str) -> SpelledFloat:
        """Return the float that `text` spells."""
        made = super().__new__(cls, text)
        made.text = text
        return made


def read_toml(file: Path) -> dict[str, object]:
    """Return the values of a TOML file; {} if there is none.

    Raises `ConfigError` naming the file and the position of the mistake.
    """
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if _is_hidden(file):
            return {}
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values: dict[str, object] = tomllib.loads(text.decode("utf-8-sig"), parse_float=SpelledFloat)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    return values


def _is_hidden(file: Path) -> bool:
    """Return whether the file's folder is not even searchable, such as the home folder of another user."""
    try:
        file.lstat()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def write(url: str, key: str, *, file: Path | None = None, profile: str | None = None) -> Path:
    """Store address and key in the user file or in a profile of it, keep its other values, and return the file.

    The folder gets mode 0700 and the file 0600. The file is replaced atomically. Raises `ConfigError`.
    """
    import tempfile

    import tomli_w

    file = path() if file is None else file
    values = read(file)
    place = values
    for name in () if profile is None else (PROFILES, profile):
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{file}: {name} must be a table")
        place = inner
    place.update({"url": url, API_KEY: key})
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.parent.chmod(0o700)
        target = file.resolve()  # so that a link into a dotfiles folder remains a link
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".config-", suffix=".toml")
        try:  # the temporary file has mode 0600 from the beginning
            with os.fdopen(handle, "wb") as stream:
                tomli_w.dump(values, stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error
    return file
