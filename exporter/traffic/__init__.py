"""How many bytes a graph moves through memory, from the graph alone."""
