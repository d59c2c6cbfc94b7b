"""What docs/replicas.md shows is run here, as it stands there: on a real standby."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from flowstates import create_pool, migrate
from tests.examples import BLOCK
from tests.standby import primary_and_standby
from tests.test_readme import names_of

pytestmark = pytest.mark.once

(CREATE,) = [code for _, code in BLOCK.findall((Path(__file__).parent.parent / "docs" / "replicas.md").read_text())]


async def test_a_create_is_seen_on_the_replica() -> None:
    with primary_and_standby() as pair:
        async with create_pool(pair.primary) as primary, create_pool(pair.standby) as replica:
            await migrate(primary)
            await pair.caught_up()
            run, create_and_list = str(uuid4()), names_of(CREATE)["create_and_list"]
            for number in range(1, 6):
                assert len(await create_and_list(primary, replica, run)) == number
