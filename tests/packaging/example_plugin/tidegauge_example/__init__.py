"""A collector and a sink for tidegauge, as complete as they have to be."""
