"""What every kind of result has, and how a graph's outputs are read."""
