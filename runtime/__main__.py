"""`python -m edgewise.runtime`: the device verbs without the console script."""

from edgewise.runtime.cli import main

main()
