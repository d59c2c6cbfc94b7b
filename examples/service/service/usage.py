"""How many jobs each customer has had, counted by the feed: each job once, whatever breaks."""

import logging

from flowstates import (
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    HistoryPrunedError,
    InvalidInputError,
)
from flowstates.telemetry import export_trace
from opentelemetry import trace

NAME = "usage"
ENDED = FlowRunStateFilter(terminal=True)
COUNT = """
insert into usage (customer, jobs) select customer, 1 from job where run_id = $1
    on conflict (customer) do update set jobs = usage.jobs + 1
"""

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


async def count(feed: FlowRunStateFeed) -> bool:
    """Counts the jobs that have ended since; whether there may be more of them."""
    try:
        async with feed.consume(NAME, start="beginning", filter=ENDED) as batch:
            runs = [state.flow_run_id for state in batch.states]
            # Committed with the position of this consumer, or undone with it.
            await batch.connection.executemany(COUNT, [[run] for run in runs])
            histories = await FlowRunStateRepository(batch.connection).read_flow_run_states_by_run(runs, last=1000)
            for run, states in histories.items():
                # If the block is undone it is done again, which does no harm: it is the same trace each time.
                try:
                    export_trace(states, tracer)
                except InvalidInputError as error:  # a state at the year 9999, say; the job counts all the same
                    log.warning("run %s has no trace: %s", run, error)
    except HistoryPrunedError as error:
        log.error("jobs were pruned before they were counted: %s", error)
        return await feed.move(NAME, error.oldest, expected=error.position)
    return not batch.is_caught_up
