"""The project on disk: the files that are sent, and the form in which they are sent."""
