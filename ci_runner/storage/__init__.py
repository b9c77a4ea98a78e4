"""Files in the data directory: contents by digest, archives, staging, safe removal."""
