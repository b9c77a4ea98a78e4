"""Files in the data directory: blobs by digest, archives, staging, safe removal."""
