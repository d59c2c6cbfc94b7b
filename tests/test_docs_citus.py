"""What docs/citus.md shows: with FLOWSTATES_TEST_CITUS it is run there."""

from __future__ import annotations

import inspect

import pytest

from flowstates import create_pool, new_run_id
from tests.distributed import CITUS
from tests.examples import blocks_of, names_of

pytestmark = pytest.mark.once

(BEGIN,) = blocks_of("docs/citus.md", "python")


def test_the_example_is_one() -> None:
    assert inspect.iscoroutinefunction(names_of(BEGIN)["begin"])


if CITUS:

    @pytest.mark.parametrize("layout", ["citus"])  # which says where the database is made
    async def test_how_to_begin(own_dsn: str, layout: str) -> None:
        async with create_pool(own_dsn) as coordinator:
            state = await names_of(BEGIN)["begin"](coordinator, str(new_run_id()))
        assert (state.type, layout) == ("PENDING", "citus")
