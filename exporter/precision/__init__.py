"""FP16 and INT8 graphs held to their budgets."""
