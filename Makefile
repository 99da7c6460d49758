# Short names for developers; nothing here that the scripts do not do. `make` alone lists the targets.

.PHONY: help run check test format image demo demo-down

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## sets up and runs tidegauge on its defaults
	./run.sh

check: ## format, lint, types, import direction, unit tests: a few minutes
	./test.sh --unit

test: ## everything, with real servers, kernels and engines
	./test.sh

format: ## writes the format and the fixes that ruff is sure of
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

image: ## builds the container image tidegauge:local
	docker build -t tidegauge:local .

demo: ## starts the demo stack: tidegauge, InfluxDB 2, Grafana
	docker compose up --build --detach

demo-down: ## stops the demo stack; the data stays in its volumes
	docker compose down
