"""Parsing of pipeline definitions: tree → typed values → a `Definition` that is valid as a whole."""
