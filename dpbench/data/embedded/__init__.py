"""Data sets that dpbench draws itself, from a seed."""
