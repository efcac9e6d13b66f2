"""Files and folders that are named by an address, such as ``s3://bucket/folder``; fsspec reads and writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
OF_THIS_PROCESS = ("memory",)  # protocols whose files no other process sees
ON_DISK = ("file", "local")


@dataclass(frozen=True)
class Address:
    """A file or folder that fsspec reads; ``address / name`` is a file in it, as with a ``pathlib.Path``.

    Credentials and endpoints are not part of it: fsspec's file systems take them from the environment and from their
    own files, such as ``~/.aws``.

    Attributes:
        url: such as ``s3://bucket/folder``.

    Raises:
        ValueError: it is no address, or one inside another (``zip::s3://...``).

    >>> str(Address("s3://bucket/val/") / "a.jpg")
    's3://bucket/val/a.jpg'
    """

    url: str

    def __post_init__(self) -> None:
        if not is_address(self.url) or "::" in self.url:
            raise ValueError(f"an address must be PROTOCOL://PATH, such as s3://bucket/folder, got {self.url!r}")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Address:
        return Address(f"{self.url.rstrip('/')}/{name}")

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0].lower()

    def resolve(self) -> Address:
        """Itself; a ``pathlib.Path`` becomes absolute by this."""
        return self

    def file_system(self) -> tuple[Any, str]:
        """fsspec's file system, and the path in it.

        Raises:
            ImportError: fsspec, or what it needs for this protocol, is not installed.
            ValueError: fsspec does not know the protocol.
        """
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ImportError(f'{self} needs fsspec: pip install "detxai[tables]"') from error
        options = {"auto_mkdir": True} if self.protocol in ON_DISK else {}
        try:
            system, path = url_to_fs(self.url, **options)
        except ImportError as error:
            raise ImportError(f"{self} cannot be reached: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self} cannot be reached: {error}") from error
        return system, str(path).rstrip("/")

    def exists(self) -> bool:
        system, path = self.file_system()
        return bool(system.exists(path))

    def read_bytes(self) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: no such file.
        """
        system, path = self.file_system()
        content: bytes = system.cat_file(path)
        return content

    def files_below(self) -> list[str]:
        """The files in a folder and the folders in it, as names relative to it, sorted; none where it is not there.

        Raises:
            ValueError: a name leads out of the folder, or such addresses have no folders.
        """
        system, path = self.file_system()
        try:
            found = system.find(path)
        except NotImplementedError as error:
            raise ValueError(f"{self}: fsspec cannot list what is in a folder of {self.protocol}://") from error
        names = sorted(str(one)[len(path) :].lstrip("/") for one in found)
        for name in names:
            if ".." in name.split("/"):
                raise ValueError(f"{self}: the name {name!r} leads out of the folder")
        return [name for name in names if name]


def is_address(given: str | PathLike[str] | Address) -> bool:
    """Whether it is an address, not a path.

    >>> is_address("s3://bucket/val"), is_address("C:/val"), is_address("val")
    (True, False, False)
    """
    return isinstance(given, Address) or _ADDRESS.match(fspath(given)) is not None


def path_or_address(given: str | PathLike[str] | Address) -> Path | Address:
    """An address as such, all else as a path.

    Raises:
        ValueError: an address that is inside another.
    """
    if isinstance(given, Address):
        return given
    return Address(fspath(given)) if is_address(given) else Path(given)


def expect_path(given: str | PathLike[str] | Address, name: str, instead: str) -> None:
    """Raise ``ValueError`` where an address is given and only a path is taken; ``instead`` says what to do."""
    if is_address(given):
        raise ValueError(f"{name} must be on a disk of this machine, got the address {given}; {instead}")
