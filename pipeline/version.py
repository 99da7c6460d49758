"""The version: read by the build, the command line and the listener."""

VERSION = "0.1.0"
