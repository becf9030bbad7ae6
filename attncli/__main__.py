"""`python -m attncli` is `attncli`."""

from attncli.cli.main import main

main()
