"""The format shared by client and runner. Standard library only."""
