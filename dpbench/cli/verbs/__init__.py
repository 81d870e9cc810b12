"""The verbs of the command line, a function each; heavy imports happen inside them."""
