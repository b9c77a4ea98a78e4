"""What a job's container writes, read as untrusted text and turned into events."""
