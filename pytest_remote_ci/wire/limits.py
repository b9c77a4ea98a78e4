"""Limits that a job may set for itself, in addition to processors and memory; the operator has a maximum for each.

Names are those of `SubmitOptions`; configuration files spell them with ``-``. Standard library only.
"""

from __future__ import annotations

from typing import Final

#: Smallest and largest number of bytes: too small a folder breaks pytest itself.
LEAST_SIZE: Final = 1 << 20
MOST_SIZE: Final = (1 << 60) - 1
#: Smallest and largest number of open files of a process; Linux allows no more.
LEAST_FILES: Final = 64
MOST_FILES: Final = 1 << 20

#: Sizes of folders in memory, and of the largest file.
SIZES: Final = ("shm_size", "tmp_size", "home_size", "file_size")
#: All of them.
NAMES: Final = (*SIZES, "open_files")

#: What a value must be, in words.
SIZE_WORDS: Final = 'a size of at least 1 MiB, such as "2g"'
FILES_WORDS: Final = f"an integer from {LEAST_FILES} to {MOST_FILES}"


def is_size(value: int) -> bool:
    """Return whether a number of bytes can be a limit."""
    return LEAST_SIZE <= value <= MOST_SIZE


def is_open_files(value: object) -> bool:
    """Return whether a value can be the limit of open files."""
    return type(value) is int and LEAST_FILES <= value <= MOST_FILES


def key(name: str) -> str:
    """Return a limit's name as in configuration files."""
    return name.replace("_", "-")
