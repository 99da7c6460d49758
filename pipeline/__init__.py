"""The core: catalogue, records, journal, sampler, sink runner. Imports nothing of ours outside itself."""
