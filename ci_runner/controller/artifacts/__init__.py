"""Artifacts of ended jobs: finding, limiting and storing them."""
