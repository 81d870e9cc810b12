"""Records: what was measured, on disk."""
