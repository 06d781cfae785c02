"""Bundled pictures and what shows them: the parts of `mwactl quickstart`."""
