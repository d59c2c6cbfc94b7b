"""The pictures of the pages in docs/: `make web-pictures` takes them."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from flowstates import FlowRunStateFilter, FlowRunStateRepository, create_pool, embedded_postgres, migrate
from tests.web.browser import browser
from tests.web.made import a_day
from tests.web.serving import serving

FOLDER = Path(__file__).parent.parent.parent / "docs"


async def take(dsn: str, folder: Path) -> None:
    async with create_pool(dsn) as pool:
        await migrate(pool)
        states = FlowRunStateRepository(pool)
        await states.create_flow_run_states(a_day(datetime.now(UTC)))
        failed = FlowRunStateFilter(names=["Retrying"])
        (state,) = (await states.read_flow_run_state_page(failed, limit=1, order="time")).states
        async with serving(states) as address, browser() as chromium:
            for scheme in ("light", "dark"):
                for name, path, width, height in (("runs", "", 960, 760), ("run", f"runs/{state.flow_run_id}", 960, 560)):
                    for kind, size in (("", (width, height)), ("-phone", (320, 1300))):
                        context = await chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
                        page = await context.new_page()
                        await page.goto(address + path)
                        if not kind or folder != FOLDER:
                            await page.screenshot(path=folder / f"web-{name}{kind}-{scheme}.png")
                        await context.close()


if __name__ == "__main__":
    with embedded_postgres() as dsn:
        asyncio.run(take(dsn, Path(sys.argv[1]) if sys.argv[1:] else FOLDER))
