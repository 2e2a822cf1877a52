"""The command line, `captionflow COMMAND`: a module for each group of commands.

A command imports the package that does its work when it runs. Only DAG files may import this package.
"""
