"""Jobs as plain processes of the runner's machine."""
