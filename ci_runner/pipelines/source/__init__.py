"""Parsers that turn pipeline files, YAML or TOML, into trees of values with positions."""
