"""Boards, tables and plots of sharing suites."""
