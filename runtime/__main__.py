"""`python -m edgewise.runtime`: the device verbs without the console script."""

from edgewise.runtime.command.cli import main

main()
