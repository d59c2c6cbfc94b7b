"""A browser, databases of both layouts, and Prefect's client kept from the settings of its user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import asyncpg
import pytest
from playwright.async_api import Browser, Page

from flowstates import FlowRunStateRepository, create_pool
from flowstates.values import Layout
from tests.conftest import Pool
from tests.model import LAYOUTS, prepare
from tests.web.browser import PATIENCE, browser

Visit: TypeAlias = Callable[..., Awaitable[Page]]


def pytest_configure(config: pytest.Config) -> None:
    # Prefect reads its settings when it is first imported.
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    home = tempfile.mkdtemp(prefix="flowstates-prefect-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ |= {"PREFECT_HOME": home, "PREFECT_LOGGING_TO_API_ENABLED": "false", "DO_NOT_TRACK": "1"}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


@pytest.fixture
async def own_pool(own_dsn: str, layout: Layout) -> AsyncIterator[Pool]:
    """A database of the layout for one test, with its tables."""
    connection = await asyncpg.connect(own_dsn)
    await prepare(connection, layout)
    await connection.close()
    async with create_pool(own_dsn) as pool:
        yield pool


@pytest.fixture
def states(own_pool: Pool, layout: Layout) -> FlowRunStateRepository:
    return FlowRunStateRepository(own_pool, layout=layout)


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as found:
        yield found


@pytest.fixture
async def visit(chromium: Browser) -> AsyncIterator[Visit]:
    """Opens pages, each as another visitor. Nothing may go wrong in them: an error of a script, or what the policy refuses, fails the test."""
    wrong: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_page(url: str, **options: object) -> Page:
            context = await chromium.new_context(**options)
            stack.push_async_callback(context.close)
            context.set_default_timeout(PATIENCE)
            page = await context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("dialog", lambda dialog: wrong.append(dialog.message))
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            await page.goto(url)
            return page

        yield open_page
    # That an answer is an error is the tests' own doing.
    assert [text for text in wrong if not text.startswith("Failed to load resource:")] == []
