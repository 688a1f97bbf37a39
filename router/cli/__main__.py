"""Runs the commands by `python -m router.cli`."""

from router.cli.main import main

main()
