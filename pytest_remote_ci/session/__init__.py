"""Submission: from pytest's options and the working tree to a job or run that is followed to its end."""
