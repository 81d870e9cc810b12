"""Protocols: what is asked of defenses, a plug-in each, and which one a suite or a run belongs to."""
