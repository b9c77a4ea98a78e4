"""What a project asks to have installed: read from its files, never executed."""
