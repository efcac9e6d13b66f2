"""Shards: several processes share the parts of one run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class _Numbered(Protocol):
    @property
    def number(self) -> int: ...


Part = TypeVar("Part", bound=_Numbered)


@dataclass(frozen=True)
class Shard:
    """Which parts this process does: those whose number leaves ``index`` when divided by ``of``.

    Raises:
        ValueError: ``index`` is not one of 0 to ``of - 1``.

    >>> Shard.read("1/3")
    Shard(index=0, of=3)
    """

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ValueError(f"shard must be i/n with i from 1 to n, got {self.index + 1}/{self.of}")

    @classmethod
    def read(cls, text: str) -> Shard:
        """From ``i/n``, counted from 1."""
        if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text):
            raise ValueError(f"shard must be i/n, such as 1/4, got {text[:80]!r}")
        index, _, of = text.partition("/")
        return cls(int(index) - 1, int(of))

    def mine(self, parts: Sequence[Part]) -> list[Part]:
        """Those of ``parts`` that this process does."""
        return [part for part in parts if part.number % self.of == self.index]
