"""`python -m captionflow`, for where the command is not on the path."""

from captionflow.cli.main import main

main()
