"""Output to the developer's terminal."""
