-- Whether a state is the one that a run's row names.
state.id = flow_run.state_id
