"""Artifacts of ended jobs: found, bounded and stored."""
