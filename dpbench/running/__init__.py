"""Running a suite of any protocol: plan, runner, and the pipeline of a cell."""
