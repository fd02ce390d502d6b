"""A package that plugs into freqrob: one file for each kind of thing, which pyproject.toml names."""
