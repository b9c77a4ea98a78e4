"""Disk space that processes hold outside of folders, read from /proc.

A file that was deleted while it is open, or mapped, keeps its blocks. Linux only; for processes that may not be
inspected, and on other systems, the results are 0.
"""

# ruff: noqa: PTH115, PTH116, PTH123  # thousands of links, several times a minute

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Final

#: Types of file systems that store files in memory, not on disk.
_IN_MEMORY: Final = frozenset(
    {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "mqueue", "proc", "sysfs", "devpts"}
)
#: Prefixes of the names of files that the kernel keeps in memory without a mount.
_KERNEL_NAMES: Final = (
    "/memfd:",
    "/SYSV",
    "/dev/zero",
    "/anon_hugepage",
    "/[aio]",
    "/drm mm object",
    "/i915",
)
#: A line of `maps` for a file without a name: start, end, device, inode, name.
_MAPPED: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+:[0-9a-f]+) (\d+) +(.*) \(deleted\)$")


def unnamed_bytes(processes: Iterable[int]) -> Iterator[int]:
    """Yield, file by file, the bytes on disk of open or mapped files without a name; count each file once.

    Yield 0 for everything else, so that the caller can pause. Includes all threads, because each may have its own
    table of descriptors.
    """
    seen: set[tuple[int, int]] = set()
    in_memory: dict[str, frozenset[int]] = {}
    for process in processes:
        for thread in _names(f"/proc/{process}/task"):
            folder = f"/proc/{process}/task/{thread}"
            try:
                namespace = os.readlink(f"{folder}/ns/mnt")
                if namespace not in in_memory:
                    in_memory[namespace] = _memory_devices(folder)
            except OSError:
                continue
            yield from _open(folder, seen, in_memory[namespace])
            yield from _mapped(folder, f"/proc/{process}/map_files", seen, in_memory[namespace])


def written_bytes(processes: Iterable[int]) -> int:
    """Return the bytes that the processes, and those that they have waited for, have written to disks so far."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{process}/io") as file:
            fields = dict(line.split(": ") for line in file)
            total += int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])
    return total


def _open(folder: str, seen: set[tuple[int, int]], in_memory: frozenset[int]) -> Iterator[int]:
    for name in _names(f"{folder}/fd"):
        yield _size(f"{folder}/fd/{name}", seen, in_memory) or 0


def _mapped(folder: str, files: str, seen: set[tuple[int, int]], in_memory: frozenset[int]) -> Iterator[int]:
    with contextlib.suppress(OSError), open(f"{folder}/maps", errors="surrogateescape") as lines:
        for line in lines:
            match = _MAPPED.match(line)
            if match is None:
                yield 0
                continue
            start, end, device, inode, name = match.groups()
            size = _size(f"{files}/{start}-{end}", seen, in_memory)
            if size is None:  # needs the kernel's administrator: mapped files are counted at least
                major, minor = (int(number, 16) for number in device.split(":"))
                identity = os.makedev(major, minor), int(inode)
                is_disk = identity[0] not in in_memory and not name.startswith(_KERNEL_NAMES)
                size = int(end, 16) - int(start, 16) if is_disk and identity not in seen else 0
                seen.add(identity)
            yield size


def _size(link: str, seen: set[tuple[int, int]], in_memory: frozenset[int]) -> int | None:
    """Return the bytes of a /proc link's target if it is a file on disk without a name; None if unknown."""
    try:
        status = os.stat(link)
        if status.st_nlink or not stat.S_ISREG(status.st_mode) or status.st_dev in in_memory:
            return 0
        if (status.st_dev, status.st_ino) in seen or os.readlink(link).startswith(_KERNEL_NAMES):
            return 0
    except OSError:
        return None
    seen.add((status.st_dev, status.st_ino))
    return status.st_blocks * 512


def _memory_devices(folder: str) -> frozenset[int]:
    """Return the devices of the memory file systems that a process sees."""
    found = set()
    with open(f"{folder}/mountinfo", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            if fields[fields.index("-") + 1] in _IN_MEMORY:
                major, minor = fields[2].split(":")
                found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # thousands of them
    except OSError:
        return []
