"""From a graph's outputs to the result of the manifest's kind."""
