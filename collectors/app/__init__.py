"""Metrics that the applications in containers offer themselves, from endpoints announced by a container's labels.

What comes from a container is not trusted: see docs/applications.md for what is refused, and why.
"""
