"""Running a suite of any protocol: the plan, the runner, and who follows it."""
