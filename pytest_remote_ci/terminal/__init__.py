"""Everything that is printed to the developer's terminal."""
