-- Whether a run may have been open since a time, or moved after it. The run's row may be a little older than its newest state where clocks
-- differ, hence a day of slack; without a time, a type or a current state it says nothing about the history.
flow_run.state_type in ('SCHEDULED', 'PENDING', 'RUNNING', 'PAUSED', 'CANCELLING')
       or flow_run.state_timestamp >= $1::text::timestamptz - interval '24 hours'
       or flow_run.state_type is null
       or flow_run.state_timestamp is null
       or flow_run.state_id is null
