"""The verbs of a device."""
