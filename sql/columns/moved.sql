-- Whether a run was open since a time, or moved after it. A terminal state that is current is the run's newest.
flow_run.state_type in ('SCHEDULED', 'PENDING', 'RUNNING', 'PAUSED', 'CANCELLING')
       or (flow_run.state_type in ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') and flow_run.state_timestamp >= $1::text::timestamptz)
