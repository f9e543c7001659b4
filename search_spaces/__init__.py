"""What students exist: dimensions, conditions, spaces and families, with the small kernel that every package uses.

Import what you need from the modules: ``from search_spaces.space import Space``. Importing the package itself
starts nothing.
"""
