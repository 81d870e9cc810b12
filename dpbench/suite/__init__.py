"""Suites: what is to be measured, cell by cell."""
