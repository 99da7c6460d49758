"""cAdvisor's REST API, v1.0 to v1.3, v2.0 and v2.1: what clients of cAdvisor ask, answered from tidegauge's stores.

`routes` takes a request apart and gives the answer; `v1` and `v2` have a function for each request type; `stats`, `spec` and
`machine` convert our vocabulary into the structs of `shapes`, `machine_shapes`; `catalog` finds containers, `series`
their samples, `summary` makes percentiles. `differences` lists where tidegauge deliberately answers otherwise than cAdvisor.
"""
