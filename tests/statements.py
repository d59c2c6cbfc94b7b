"""How many statements calls take, each by the name that its text begins with."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import asyncpg

from tests.conftest import Connection


def counting() -> tuple[type[Connection], Counter[str]]:
    """A class for the connections of a pool, and what is counted of the queries that they run."""
    counts: Counter[str] = Counter()

    class Counting(asyncpg.Connection):
        async def fetch(self, query: str, *arguments: Any, **options: Any) -> Any:
            if name := re.match(r"/\* (\S+) \*/", query):
                counts[name[1]] += 1
            return await super().fetch(query, *arguments, **options)

    return Counting, counts
