"""Repeatable measurements, each a ratio to something timed in the same run. `python -m bench` prints them all.

Needs a C compiler and, for what is measured on real cgroups, root. Never part of a distribution.
"""
