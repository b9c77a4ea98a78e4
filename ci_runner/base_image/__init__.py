"""Base images built without a registry."""
