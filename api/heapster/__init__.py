"""Heapster's HTTP APIs: model, historical, export and the early metrics API of Kubernetes. See docs/heapster.md."""
