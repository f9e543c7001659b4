"""The command line and everything that talks to the outside: Ray, MLflow, terminals, reports.

Importing the package starts nothing heavy; each module is imported when a command needs it.
"""
