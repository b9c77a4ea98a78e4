"""Removal of unused data, and monitoring of the disk."""
