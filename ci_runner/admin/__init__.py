"""Administration from the command line: users and keys."""
