"""The replay: the local pytest reports what a remote pytest recorded.

`plugin` has the hooks that replace collection and test loop. `player` plays the run: it pulls events (`event_source`),
lets each job turn its own into the hook calls that pytest itself would have made (`job`), and ends the local session as
the run ended. `nodes` and `decode` make the objects for those calls. No code of the project is imported.

A single job is a run with one job and no label; what only sessions of several jobs need is in `multi_job`.
"""
