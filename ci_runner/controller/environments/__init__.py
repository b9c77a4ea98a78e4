"""Everything a job's container needs before it starts: image, workspace, environment, services."""
