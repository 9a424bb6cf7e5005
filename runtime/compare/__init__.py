"""How far two tensors and two results agree, and whether a budget allows it."""
