"""The checker finds what is planted and passes what is right; and it finds nothing in what random writers leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import Random
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstates import StateType
from flowstates.values import Layout
from tests.calls import Create
from tests.history import check
from tests.made import NOON, RUNNING, Made
from tests.schedules import write_at_once
from tests.stored import Stored
from tests.writers import ISOLATION, KINDS, MIXED, Step, random_steps

pytestmark = pytest.mark.server

COMPLETED = StateType.COMPLETED


def history() -> Made:
    made = Made()
    first = made.create(expected=None)
    second = made.create(expected=first.id)
    made.delete(second)
    made.create(expected=first.id)
    made.create(expected={RUNNING})
    made.create()
    return made


def test_a_right_history_passes() -> None:
    made = history()
    assert check(made.log, made.rows, made.run_rows()) == []


def test_a_loss_is_caught() -> None:
    made = history()
    del made.rows[1]
    assert made.kinds() == {"lost"}


def test_a_delete_that_did_not_find_what_was_there_is_caught() -> None:
    made = Made()
    made.delete(made.create(stored=False), gone=frozenset())
    assert made.kinds() == {"lost"}


def test_a_delete_that_was_acknowledged_and_not_done_is_caught() -> None:
    made = history()
    row = made.rows[0]
    made.delete(gone=frozenset({row.state.id}))
    assert made.kinds() == {"lost"}


def test_half_a_batch_is_caught() -> None:
    made = Made()
    for stored in (True, False):
        made.create(stored=stored, batch="b", outcome="unknown", record=None)
    assert made.kinds() == {"lost"}


def test_a_double_is_caught() -> None:
    made = history()
    made.rows.append(made.rows[0])
    assert made.kinds() >= {"doubled"}
    made = history()
    copy = made.rows[-1].state.model_copy(update={"id": uuid4(), "timestamp": NOON + timedelta(days=1)})
    made.rows.append(Stored(copy, 9))
    assert made.kinds() >= {"doubled"}


def test_what_nobody_wrote_is_caught() -> None:
    made = history()
    made.log = [call for call in made.log if not (isinstance(call, Create) and call.id == made.rows[-1].state.id)]
    assert made.kinds() == {"phantom"}


def test_what_was_refused_and_is_there_is_caught() -> None:
    made = history()
    made.create(outcome="refused", record=None)
    assert made.kinds() == {"phantom"}


def test_a_record_that_differs_from_its_row_is_caught() -> None:
    made = history()
    made.rows[0] = replace(made.rows[0], state=made.rows[0].state.model_copy(update={"name": "Other"}))
    assert made.kinds() == {"differs"}


def test_disorder_is_caught() -> None:
    made = history()
    made.move(2, timestamp=NOON)
    assert made.kinds() >= {"disorder"}
    made = history()
    made.move(2, timestamp=made.rows[3].state.timestamp)
    assert made.kinds() >= {"disorder"}


def test_a_transaction_that_is_told_before_what_it_follows_is_caught() -> None:
    made = history()
    made.rows[2] = replace(made.rows[2], transaction=1)
    assert made.kinds() == {"disorder"}


def test_a_fork_is_caught() -> None:
    made = Made()
    first = made.create(expected=None)
    made.create(expected=first.id)
    made.create(expected=first.id)
    assert made.kinds() == {"fork"}


def test_two_first_states_are_caught() -> None:
    made = Made()
    made.create(expected=None)
    made.create(expected=None)
    assert made.kinds() == {"fork"}


def test_a_winner_against_a_state_that_is_no_longer_current_is_caught_though_the_other_winner_is_deleted() -> None:
    made = Made()
    first = made.create(expected=None)
    second = made.create(expected=first.id)
    made.create(expected=second.id)
    made.delete(second)
    stale = made.create(expected=first.id)
    stale.begun = 1.2  # it was under way all the time
    assert made.kinds() == {"fork"}


def test_an_append_that_does_not_see_an_acknowledged_batch_is_caught() -> None:
    made = Made()
    first = made.create(expected=None)
    batch = made.create(batch="b")
    stale = made.create(expected=first.id)
    assert made.kinds() == {"fork"}
    stale.begun = batch.begun  # it may have come first: where a batch's states are in time says nothing of when it came
    assert made.kinds() == set()


def test_an_expectation_of_what_was_deleted_before_is_caught() -> None:
    made = Made()
    first = made.create()
    made.delete(first)
    late = made.create(expected=first.id)
    assert made.kinds() == {"fork"}
    late.begun = 1.7  # before the delete
    assert made.kinds() == set()


def test_an_expectation_of_what_was_deleted_in_the_transaction_of_another_winner_is_caught() -> None:
    made = Made()
    first = made.create(expected=None)
    made.in_a_transaction(second := made.create(expected=first.id), made.delete(first, second))
    late = made.create(expected=first.id)
    late.begun = 1.7
    assert made.kinds() == {"fork"}


def test_an_append_beside_one_that_was_there_until_later_is_caught() -> None:
    made = Made()
    first = made.create(expected=None)
    second = made.create(expected=first.id)
    late = made.create(expected={COMPLETED, first.type})
    made.delete(second, late)
    assert made.kinds() == set()
    late.expected = None
    assert made.kinds() == {"fork"}


@pytest.mark.parametrize("whose", ["nobody's", "first", "last"])
def test_an_expectation_of_an_id_that_is_not_current_is_caught(whose: str) -> None:
    made = Made()
    first, second = made.create(expected=None), made.create()
    last = made.create(expected={"nobody's": uuid4(), "first": first.id, "last": second.id}[whose])
    assert made.kinds() == ({"fork"} if whose != "last" else set())
    made.delete(second)
    assert made.kinds() == ({"fork"} if whose != "last" else set())
    assert last.outcome == "acknowledged"


def test_an_expectation_of_a_type_that_was_not_current_is_caught() -> None:
    made = Made()
    made.create(expected=None)
    made.create(expected={COMPLETED})
    assert made.kinds() == {"fork"}


def test_a_row_of_a_run_that_does_not_say_its_newest_state_is_caught() -> None:
    made = history()
    (right,) = made.run_rows()
    before = made.rows[-2].state
    assert made.kinds([]) == made.kinds([right, replace(right, id=uuid4())]) == {"row"}
    assert made.kinds([replace(right, current=(before.id, before.type, before.name, before.timestamp))]) == {"row"}
    assert made.kinds([replace(right, current=(*right.current[:2], "Other", right.current[3]))]) == {"row"}
    assert made.kinds([replace(right, transaction=right.transaction - 1)]) == {"row"}
    assert made.kinds([replace(right, transaction=right.transaction + 1)]) == set()


def test_what_was_stored_deleted_and_stored_again_unseen_may_have_been_current_before() -> None:
    made = Made()
    again = made.create(outcome="unknown", record=None, stored=False)
    made.in_a_transaction(last := made.create(expected=again.id), made.delete(again, last))
    made.create(id=again.id, message=again.message)
    made.move(-1, id=again.id, message=again.message)
    assert made.kinds() == set()


def test_what_was_stored_under_an_id_that_nobody_learned_may_have_been_current() -> None:
    made = Made()
    made.create(id=None, outcome="unknown", record=None, stored=False)
    other = uuid4()
    made.in_a_transaction(last := made.create(expected=other), delete := made.delete(last))
    delete.gone |= {other}
    assert made.kinds() == set()


def test_half_a_transaction_is_caught() -> None:
    made = Made()
    made.in_a_transaction(*[made.create(stored=stored, outcome="unknown", record=None) for stored in (True, False)])
    assert made.kinds() == {"lost"}


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_not_known_may_be_there_or_not(stored: bool) -> None:
    made = history()
    made.create(stored=stored, outcome="unknown", record=None)
    assert made.kinds() == set()


@pytest.mark.parametrize("stored", [False, True])
def test_a_delete_of_which_nothing_is_known_may_have_been_done_or_not(stored: bool) -> None:
    made = history()
    made.delete(made.create(stored=False) if not stored else Create(run=made.run, message="none"), outcome="unknown", gone=frozenset())
    assert made.kinds() == set()


def test_a_state_that_was_deleted_and_asked_for_again_may_be_there() -> None:
    made = history()
    again = made.create()
    row = made.rows[-1]
    made.delete(again)
    made.log.append(replace(again, begun=100.0, ended=101.0))
    made.rows.append(row)
    assert made.kinds() == set()


plans = st.lists(st.lists(st.builds(Step, st.sampled_from(KINDS), st.integers(0, 99)), min_size=1, max_size=8), min_size=1, max_size=8)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans, runs=st.integers(1, 3), isolation=st.sampled_from([*ISOLATION, MIXED]), is_batched=st.booleans())
def test_whatever_writers_ask_at_once_the_history_is_right(
    layout_dsns: dict[Layout, str], plan: list[list[Step]], runs: int, isolation: str, is_batched: bool
) -> None:
    async def write() -> list[str]:
        async with write_at_once(layout_dsns["flowstates"], plan, runs, isolation, is_batched=is_batched) as writers:
            return await writers.problems()

    assert asyncio.run(write()) == []


@pytest.mark.parametrize(("runs", "is_batched"), [(2, False), (8, True)])
@pytest.mark.parametrize("isolation", [*ISOLATION, MIXED])
async def test_many_steps_of_many_writers_leave_a_right_history(dsn: str, isolation: str, runs: int, is_batched: bool) -> None:
    random = Random(isolation)
    async with write_at_once(dsn, [random_steps(random, 25) for _ in range(12)], runs, isolation, is_batched=is_batched) as writers:
        assert await writers.problems() == []
