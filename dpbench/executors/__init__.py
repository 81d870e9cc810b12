"""Executors: where the tasks of a run are carried out: in this process, in several, or where one of your own says."""
