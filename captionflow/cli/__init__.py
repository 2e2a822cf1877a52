"""The front door: `captionflow COMMAND`, a module for each group of commands.

What a command does lives in the rooms below, which it imports when it runs. Nothing but DAG files may import it.
"""
