"""Executors: where the tasks of a run are carried out, in this process, in several, or on a cluster."""
