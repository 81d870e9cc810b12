"""Runs for people: the report of one, and a local page over a folder of them."""
