"""Fixtures of the sinks' tests."""

import alembic

assert alembic.__version__, "loaded, so that the SQL sink migrates in this process: a fresh one for each test takes its time"
