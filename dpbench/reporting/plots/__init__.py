"""Plots of boards: panels, colours, and what each shows (imported only where drawn)."""
