"""Rows of the paper's Table 1, each a configuration: run with several seeds, and reported."""
