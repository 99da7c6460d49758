"""The Prometheus page: containers and machine under cAdvisor's names, metrics of applications, our own counters."""
