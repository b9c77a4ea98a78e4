"""A base image with a repository of Debian packages in it, so that tests install packages without any network."""

from __future__ import annotations

import io
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from support.docker import TEST_IMAGE

#: Writes down what a package's script may do and sees.
SPY = """\
mkdir -p /usr/share/remoteci
{
    id -u
    grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status
    for try in 'mount -t tmpfs none /mnt' 'mknod /device b 8 0' 'chroot / true' 'kill -0 1'; do
        if $try 2>/dev/null; then echo "may $try"; fi
    done
    ls -d /ci 2>/dev/null || true
    env
} >/usr/share/remoteci/spy
chown 1234:1234 /usr/share/remoteci/spy
chmod 2755 /usr/share/remoteci/spy
echo temporary >/tmp/left
"""
#: Package → (its dependency or "", the script that runs when it is configured). Its /usr/bin/NAME prints NAME.
PACKAGES = {
    "remoteci-lib": ("", "true"),
    "remoteci-tool": ("remoteci-lib", "echo configuring the tool"),
    "remoteci-broken": ("", "echo all is lost >&2; exit 3"),
    "remoteci-spy": ("", SPY),
    "remoteci-endless": ("", "echo waiting; sleep 600"),
    "remoteci-loud": (
        "",
        "i=0; while [ $i -lt 110000 ]; do i=$((i+1)); echo this line is one of very many $i; done",
    ),
}
_BUILD = """\
set -e
cd /opt/repository
for folder in */; do
    name=${folder%/}
    chmod 755 $name/DEBIAN $name/DEBIAN/postinst $name/usr/bin/$name
    dpkg-deb --build --root-owner-group $name >/dev/null
    cat $name/DEBIAN/control
    echo "Filename: ./$name.deb"
    echo "Size: $(stat -c %s $name.deb)"
    echo "SHA256: $(sha256sum $name.deb | cut -d ' ' -f 1)"
    echo
done >Packages
rm -rf */
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/opt/repository ./' >/etc/apt/sources.list
"""


def _files() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (needed, script) in PACKAGES.items():
            control = (
                f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Ann <ann@example.org>\n"
                + (f"Depends: {needed}\n" if needed else "")
                + "Description: a package of the tests\n"
            )
            for path, content in (
                ("DEBIAN/control", control),
                ("DEBIAN/postinst", f"#!/bin/sh\nset -e\n{script}\n"),
                (f"usr/bin/{name}", f"#!/bin/sh\necho {name}\n"),
            ):
                data = content.encode()
                entry = tarfile.TarInfo(f"opt/repository/{name}/{path}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@contextmanager
def apt_image(*changes: str, script: str = "") -> Iterator[str]:
    """The name of a base image whose one source of packages is a folder in it; `changes` are those of a Dockerfile."""
    name = f"remoteci-apt-{uuid.uuid4().hex[:12]}"
    container = _docker(
        "create", "--network", "none", "--user", "0", TEST_IMAGE, "sh", "-c", _BUILD + script
    ).strip()
    try:
        subprocess.run(
            ["docker", "cp", "-", f"{container}:/"], input=_files(), check=True, capture_output=True
        )
        _docker("start", "--attach", container)
        options = [option for change in ("CMD python3", *changes) for option in ("--change", change)]
        _docker("commit", *options, container, name)
    finally:
        _docker("rm", "--force", container)
    try:
        yield name
    finally:
        _docker("rmi", "--no-prune", name)


def run_in(image: str, *argv: str, options: Sequence[str] = ()) -> str:
    """Run a command in a container of the image and return its output."""
    return _docker("run", "--rm", "--network", "none", *options, "--entrypoint", argv[0], image, *argv[1:])


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
