"""A session of several jobs: the jobs of a pipeline, or one for each Python.

`labels` puts each job's label in front of its node ids, `job_lines` says what happens between and after the tests,
`comparison` finds tests whose outcomes differ, and `last_failed` keeps labels out of pytest's caches.
"""
