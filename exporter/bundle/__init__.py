"""What a bundle is written from: goldens, budgets, model files, and the writer."""
