"""Where frames come from, the looks that a model takes at them, and the way to the graph's input."""
