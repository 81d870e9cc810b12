"""The machine: its devices, memory, files and random numbers."""
