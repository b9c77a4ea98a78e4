"""The developer's configuration, from options, environment, project and user file."""
