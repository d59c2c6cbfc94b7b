"""A database for each test, which Alembic makes as it does at a deployment: once, since the others are clones of it."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from flowstates.testing import Schema

pytest_plugins = ["flowstates.testing.plugin"]

ROOT = Path(__file__).parent.parent


def upgrade(dsn: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", dsn)
        command.upgrade(Config(ROOT / "alembic.ini"), "head")


@pytest.fixture(scope="session")
def flowstates_schema() -> Schema:
    return Schema(upgrade, files=[__file__, *ROOT.glob("migrations/**/*.py")])
