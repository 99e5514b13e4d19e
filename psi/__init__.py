"""Alignment: private set intersection over the sample ids, so that every party ends with the same rows."""
