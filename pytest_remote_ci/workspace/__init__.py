"""The project on disk: which of its files are sent, and in which form."""
