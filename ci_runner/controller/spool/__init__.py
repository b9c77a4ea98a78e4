"""A job's spool: output of its container, read as untrusted text and turned into events."""
