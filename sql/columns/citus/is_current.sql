-- Whether a state is the one that a run's row names: both are on one server, and an id is unique in its run only.
state.flow_run_id = flow_run.id and state.id = flow_run.state_id
