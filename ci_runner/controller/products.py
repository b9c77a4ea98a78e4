"""What an editable install left in the workspace: kept as a layer, without what would hide the developer's files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ci_runner.layers import is_product
from ci_runner.project import Tree


def keep_products(upper: Path, tree: Tree) -> None:
    """Remove from an overlay's upper folder all that is no product of the build.

    That is: files of the workspace which the build merely touched, marks of deletion (character devices), byte code,
    links that leave the folder are harmless (they are followed inside containers only). Nothing is followed here.
    """
    _clean(os.fspath(upper), "", tree)


def _clean(base: str, prefix: str, tree: Tree) -> None:
    with os.scandir(os.path.join(base, prefix)) as entries:  # noqa: PTH118
        found = list(entries)
    for entry in found:
        path = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            _clean(base, path + "/", tree)
            if not os.listdir(entry.path):  # noqa: PTH208
                os.rmdir(entry.path)  # noqa: PTH106
        elif not _stays(entry, path, tree):
            os.unlink(entry.path)  # noqa: PTH108


def _stays(entry: os.DirEntry[str], path: str, tree: Tree) -> bool:
    mode = entry.stat(follow_symlinks=False).st_mode
    return (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) and is_product(path, tree) and not path.endswith(".pyc")
