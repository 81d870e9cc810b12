"""Running a suite: the cells, their stages, and what they share."""
