"""The HTTP server around the application: connections, limits, authentication."""
