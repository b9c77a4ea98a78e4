"""The ``remote-ci`` command: one module per group of subcommands."""
