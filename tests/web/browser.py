"""Debian's Chromium, by Playwright's client."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

PATIENCE = 60_000  # milliseconds for what a quiet machine does in one second
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser that nobody sees, with a profile of its own that goes with it."""
    program = shutil.which("chromium")
    if program is None:
        raise FileNotFoundError("there is no chromium on this machine; .ci/chromium installs Debian's")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, headless=True, args=[*_FLAGS], timeout=PATIENCE)
        try:
            yield chromium
        finally:
            await chromium.close()
