"""python -m tests.torture --seconds 20 --seed 1: random writers and random faults for as long as one says; what is wrong at the end is an error.

A round is some new runs, writers that write to them, and a few faults; after it the histories and the runs' rows are checked. Without --dsn
the server is an embedded one, which also crashes. With --dsn the faults change defaults of that database and end all connections to it: give
it one of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from flowstates import migrate
from tests.faults import FAULTS, OwnServer, folder_for_a_server, target, writing
from tests.writers import ISOLATION, MIXED


class Torture:
    def __init__(self, seconds: float, seed: int) -> None:
        self.end = time.monotonic() + seconds
        self.random = Random(seed)
        self.count: Counter[str] = Counter()
        self.problems: list[str] = []

    async def run(self, dsn: str, server: OwnServer | None) -> None:
        while time.monotonic() < self.end:
            dsn = await self._round(dsn, server)

    async def _round(self, dsn: str, server: OwnServer | None) -> str:
        random = self.random
        size = {"runs": random.randint(1, 5), "connections": random.choice([1, 3, 8])}
        async with asyncio.timeout(600), target(dsn, isolation=random.choice((*ISOLATION, MIXED)), is_batched=random.random() < 0.5, **size) as at:
            await migrate(at.pool)
            async with writing(at, random, writers=random.randint(2, 12)):
                for _ in range(3):
                    await at.writers.log.more(random.randint(0, 200))
                    if server is not None and random.random() < 0.15:
                        await server.crash()
                        at.proxy.server = at.dsn = await server.start()
                    else:
                        await random.choice(FAULTS)(at, random)
                    self.count["faults"] += 1
                await at.writers.log.more(20)
            problems = await at.writers.problems()
            self.count["writes"] += at.writers.written()
            self.count.update(problem.partition(":")[0] for problem in problems)
            self.problems += problems
            return at.dsn

    def report(self) -> str:
        count = self.count
        others = sum(count[kind] for kind in ("phantom", "differs", "disorder", "row"))
        return (
            f"{count['writes']} writes, {count['faults']} faults, {count['lost']} lost, {count['doubled']} doubled, {count['fork']} forks, "
            f"{others} other problems"
        )


@asynccontextmanager
async def server_to_torture(dsn: str | None) -> AsyncIterator[tuple[str, OwnServer | None]]:
    if dsn is not None:
        yield dsn, None
        return
    with folder_for_a_server() as folder:
        server = OwnServer(folder)
        try:
            yield await server.start(), server
        finally:
            await server.stop()


async def torture(seconds: float, seed: int, dsn: str | None) -> int:
    work = Torture(seconds, seed)
    try:
        async with server_to_torture(dsn) as (address, server):
            await work.run(address, server)
    finally:  # also when it is interrupted
        for problem in work.problems:
            print(problem, file=sys.stderr)  # noqa: T201 (a command prints)
        print(f"seed {seed}: {work.report()}")  # noqa: T201
    return 1 if work.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--dsn")
    given = parser.parse_args()
    logging.disable(logging.ERROR)  # asyncpg and asyncio tell of every connection that breaks
    seed = given.seed if given.seed is not None else Random().randrange(10**6)
    return asyncio.run(torture(given.seconds, seed, given.dsn))


if __name__ == "__main__":
    sys.exit(main())
