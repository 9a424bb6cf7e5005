"""From a training definition to a bundle: export, passes, FP16, engines, parity, command line."""
