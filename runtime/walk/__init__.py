"""The way of a frame: looks, graph by schedule, state, result; sessions and pipelines around it."""
