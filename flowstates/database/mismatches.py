"""One thing that does not fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mismatch:
    """One thing that does not fit: `where` it is, what is `expected` there and what was `found`.

    `mend` is what mends it and all that have the same one, to be pasted into psql; None where there is nothing to give.
    """

    where: str
    expected: str
    found: str
    mend: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"
