"""The workstation's verbs of the command line."""
