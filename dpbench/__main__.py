"""`python -m dpbench` is `dpbench`."""

from dpbench.cli import main

main()
