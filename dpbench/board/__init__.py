"""Boards: rows and figures from records."""
