# make demo     curate the shipped shards and show what happened
# make test     every test; make check: those that take under 3 minutes; make lint: format, lint and types
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := out/demo
SHARDS := tests/shards --columns caption,url
FINAL_REPLAY := --horizon known --threshold 5 --threshold 20 --threshold 100
SEED ?= 1
KILLS ?= 500
MINUTES ?= 30
PAIRS ?= 2000000
SBOM ?= out/sbom.json

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz lint replay kafka kafka-stop chaos soak bench bench-quick bench-kafka screenshots metadata lock sbom image clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11 ..."; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,kafka,bench]'
	touch $@

demo: $(READY) ## Curate the shipped shards at t=20, and show the result
	@rm -rf $(DEMO)
	$(BIN)/stream-curate curate $(SHARDS) --out $(DEMO) --threshold 20
	@echo
	$(BIN)/stream-curate inspect $(DEMO) --what-if 10,5
	@echo
	$(BIN)/stream-curate verify $(DEMO) $(SHARDS)
	@echo
	@echo "The curated pairs are a Delta table in $(DEMO): any Delta reader opens it, and"
	@echo "$(BIN)/stream-curate export $(DEMO) --out pairs.parquet writes them for img2dataset."

test: $(READY) ## Run every test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY) lint ## Lint, and run the tests that are quick: under 3 minutes
	$(BIN)/pytest -m "not slow" -n 2

fuzz: $(READY) ## Try the laws with a thousand new examples each
	HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest -m hypothesis -n 2

lint: $(READY) ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

replay: $(READY) ## Stream the shipped shards in many orders, and compare with offline; draws out/replay/convergence.png
	$(BIN)/stream-curate replay $(SHARDS) --threshold 20 --seed 7 --out out/replay
	@echo
	$(BIN)/stream-curate replay $(SHARDS) --decisions final $(FINAL_REPLAY) --seed 7 --out out/replay-final

kafka: $(READY) ## Start a Kafka broker for development, without containers; its data lie in out/kafka
	$(BIN)/python -m consumers.dev_broker start

kafka-stop: $(READY) ## Stop it
	$(BIN)/python -m consumers.dev_broker stop

chaos: $(READY) ## Kill workers, settler and broker at random: make chaos SEED=1 KILLS=500 PAIRS=2000000
	$(BIN)/python tests/kafka_chaos.py --seed $(SEED) --kills $(KILLS) --pairs $(PAIRS)

soak: $(READY) ## Leave workers and settler alone at half of the top rate, with a fault each 30 s: make soak MINUTES=30
	PYTHONPATH=tests $(BIN)/python -m soak.run --minutes $(MINUTES) --seed $(SEED)

bench: $(READY) ## Measure speed beside the published way, in one run of under 10 minutes: out/bench
	PYTHONPATH=tests $(BIN)/python -m bench.run

bench-quick: $(READY) ## The same with small sizes, in under 90 seconds: out/bench-quick
	PYTHONPATH=tests $(BIN)/python -m bench.run --quick

bench-kafka: $(READY) ## Measure the rates of workers on a topic of 500,000 pairs
	$(BIN)/python tests/bench/kafka_rates.py

screenshots: $(READY) ## Draw the page and the report in a real browser; the pictures go to out/screenshots
	$(BIN)/python tests/page_screenshots.py

metadata: $(READY) ## Make metadata/english.txt.zst again, from Debian's wordnet-base and wordfreq
	@rm -rf out/wordnet && mkdir -p out/wordnet
	cd out/wordnet && apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb .
	$(BIN)/stream-curate metadata build --wordnet out/wordnet/usr/share/wordnet --out metadata/english.txt.zst

TOOLS := out/tools
COMPILE := $(TOOLS)/lock/bin/uv pip compile --quiet --no-header --no-emit-index-url --generate-hashes --python-version 3.11

$(TOOLS)/%/ready: requirements/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

lock: $(TOOLS)/lock/ready ## Pin the packages of the image, with hashes: requirements/image.txt
	$(COMPILE) --python-platform x86_64-manylinux_2_28 --extra kafka --output-file requirements/image.txt pyproject.toml

sbom: $(TOOLS)/tools/ready ## List what is in the image, as CycloneDX: out/sbom.json
	@mkdir -p $(dir $(SBOM))
	$(TOOLS)/tools/bin/cyclonedx-py requirements requirements/image.txt --pyproject pyproject.toml \
		--output-reproducible --of JSON -o $(SBOM)

image: ## Build the container image stream-curate, with docker
	docker build -f deploy/Dockerfile -t stream-curate .

clean: ## Remove what the other targets made
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
