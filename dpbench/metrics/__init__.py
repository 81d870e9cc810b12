"""Metrics: how close a reconstruction comes, and what is guaranteed."""
