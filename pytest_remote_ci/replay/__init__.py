"""The native session: what a remote pytest recorded, said again by the pytest of this process.

`feed` brings the events of a job and finds out whether it is recorded; `takeover` is the plugin whose hooks stand in
for collection and running; `player` turns each event into the calls that pytest would have made itself; `nodes` and
`reports` make what those calls are about. Nothing of the project is imported here.

A run of a pipeline is told in the same way: `run_takeover`, `run_player` and, for each of its jobs, `run_job`.
"""
