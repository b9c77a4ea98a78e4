"""Pipeline files, YAML or TOML, as trees of values that know where they stand."""
