"""The command line of skipgraph."""
