"""The gate: what got worse, and whether a run is what it says."""
