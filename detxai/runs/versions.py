"""Which versions of packages are installed: part of the record of whatever was computed with them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Package -> its installed version."""
    return {package: installed_version(package) for package in packages}
