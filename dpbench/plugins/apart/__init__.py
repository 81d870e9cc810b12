"""Plug-ins in processes of their own: what runs there, what it may touch, and how the engine asks it."""
