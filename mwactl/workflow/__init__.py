"""Whole jobs: each joins the rooms for one verb. The command line and the Python API both call these."""
