"""Protocols: what is measured, beyond the cells of an inference suite."""
