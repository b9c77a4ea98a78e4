"""A project's dependencies: read from its files, never executed."""
