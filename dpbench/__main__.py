"""`python -m dpbench` is `dpbench`."""

from dpbench.cli.app import main

main()
