"""The format that client and runner share. Standard library only."""
