"""The replay: the local pytest reports what a remote pytest recorded.

`events` reads the events of a job and finds out whether it is recorded; `plugin` has the hooks that replace
collection and test loop; `player` turns each event into the hook calls that pytest itself would have made; `nodes`
and `decode` make the objects for those calls. No code of the project is imported.

A run of a pipeline is replayed in the same way by `run_plugin`, `run_player` and, for each of its jobs, `run_job`.
"""
