"""Engines carry encoded tasks to clients and encoded answers back; all of them give equal bits."""
