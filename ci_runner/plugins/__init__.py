"""Plugins of the runner: their hooks, the manager, and the plugins that come with it."""
