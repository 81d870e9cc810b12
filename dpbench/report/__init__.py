"""The page of a run or a board: one file that opens without a network, for people who did not run it."""
