"""What Heapster would have said of our containers: names of metrics, sets, sums. Pure functions over what a store tells.

`metrics` is the table of names, `sets` says what each container is to Heapster, `windows` puts readings on Heapster's even grid
of times and adds them up for pods, namespaces, nodes and the cluster.
"""
