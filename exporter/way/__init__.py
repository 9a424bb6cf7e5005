"""The whole way from a module or a checkpoint to a bundle."""
