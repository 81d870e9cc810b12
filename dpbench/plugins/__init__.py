"""Plug-ins: found by name, configured, and run in a process of their own where nobody vouches for them.

`guest` is what runs in such a process, `remote` and `stand_in` are what the engine handles in its place.
"""
