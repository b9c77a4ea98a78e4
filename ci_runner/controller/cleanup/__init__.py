"""Removing what nobody needs any more, and watching the disk."""
