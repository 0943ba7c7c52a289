# Two commands matter to a new user: `make run` and `make test`. Both set up everything they need from the package registries.
# Needs: Python 3.11 to 3.13 on PATH (or PYTHON=/path/to/python). Everything else comes through pip and npm.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
REDIS_7 := $(CURDIR)/.fedplane/tools/redis-7/redis-server
# Acceptance takes the real servers of make full-stack where they are: moto commits damaged bytes, which are then written over.
FULL := $(if $(wildcard .fedplane/tools/bin/versitygw),--full)

.PHONY: run test coverage test-stages test-servers test-rest test-worlds test-redis check lint types layers unit rules docs simulate mutants servers accept accept-quick accept-sources accept-transfer accept-huge \
  accept-state accept-functions bench fuzz full-stack setup lock lock-functions clean

run: setup ## the main job, on your machine: local stack, sample data on both sides, engine, live view
	@$(BIN)/fedplane run --with-stack

test: setup lint types layers ## everything a change must pass: what waits for servers beside what computes
	@$(MAKE) --no-print-directory -k -j3 test-stages test-rest test-worlds test-servers $(ALSO)

coverage: setup ## the same tests with their coverage, for which they take twice the processor
	@rm -f .coverage .coverage.*
	@$(MAKE) --no-print-directory -k -j3 test-stages test-rest test-worlds test-servers COVERED="--cov --cov-report="
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

test-stages: setup # the longest: it begins first
	@COVERAGE_FILE=.coverage.stages $(BIN)/python -m pytest tests/servers/test_acceptance.py $(COVERED) -q --durations=12

test-servers: setup
	@COVERAGE_FILE=.coverage.servers $(BIN)/python -m pytest tests/servers --ignore=tests/servers/test_acceptance.py $(COVERED) -q --durations=8

test-rest: setup
	@COVERAGE_FILE=.coverage.rest $(BIN)/python -m pytest tests --ignore=tests/servers --ignore=tests/simulation $(COVERED) -q --durations=8

test-worlds: setup # on all cores, with what the others leave of them
	@COVERAGE_FILE=.coverage.worlds nice -n 15 $(BIN)/python -m pytest tests/simulation $(COVERED) -q --durations=8

test-redis: setup ## the state's contract suite again, with the Redis 7 of make full-stack
	@test -x $(REDIS_7) || { echo "$(REDIS_7) is not there: run make full-stack where apt-get is"; exit 2; }
	@FEDPLANE_REDIS_SERVER=$(REDIS_7) $(BIN)/python -m pytest tests/contract/test_state*.py -k "not memory" -q

accept: setup ## the acceptance runs of docs/measurements.md, about 20 minutes
	@$(BIN)/python -m tests.acceptance.run

accept-quick: setup ## the same, smaller
	@$(BIN)/python -m tests.acceptance.run --quick

accept-sources: setup ## what each source of changes promises: brokers and readers killed under load
	@$(BIN)/python -m tests.acceptance.run sources

accept-transfer: setup ## moving bytes: resume, memory, faults, beside rclone (docs/measurements.md), about 35 minutes
	@$(BIN)/python -m tests.acceptance.run $(FULL) transfer

accept-huge: setup ## one object beyond 5 GiB each way; needs 16 GiB of disk
	@$(BIN)/python -m tests.acceptance.run --full huge

accept-state: setup ## Redis emptied, restored from an older snapshot, a cluster's master killed: under load
	@$(BIN)/python -m tests.acceptance.run $(FULL) state

accept-functions: setup ## the functions app alone, in real workers: live, with real minutes, events lost, workers killed
	@$(BIN)/python -m tests.acceptance.run functions

setup: $(READY)

$(READY): requirements/lock.txt requirements/functions-runtime.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found on PATH. Install one (for example your system's python3.11 package with its venv module), or run: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv/ensurepip module. Install your system's python3-venv package, or use another Python: make PYTHON=/path/to/python"; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON) (about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --ignore-requires-python -r requirements/functions-runtime.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

layers: setup
	@$(BIN)/lint-imports --no-cache

unit: setup ## the fast tests only
	@$(BIN)/python -m pytest tests/unit -q

rules: setup ## branch coverage of the pure core by its own tests alone
	@$(BIN)/python -m pytest -q --cov=federation.rules --cov=federation.keys --cov=federation.metadata --cov=federation.mtime --cov-branch --cov-report=term-missing --cov-fail-under=100 \
	  tests/unit/test_decide_table.py tests/unit/test_decide_cells.py tests/unit/test_decide_properties.py \
	  tests/unit/test_precedence.py tests/unit/test_proof.py tests/unit/test_guards.py tests/unit/test_adopt_rule.py tests/unit/test_parking.py \
  tests/unit/test_keys.py tests/unit/test_metadata.py tests/unit/test_metadata_tags.py tests/unit/test_mtime.py

docs: setup ## renew what documents print from the code: consistency.md, parked.md, stores.md
	@$(BIN)/python -m tests.decision.document
	@$(BIN)/python -m fedplane.monitoring.generate .
	@$(BIN)/python -m tests.unit.parked_document
	@$(BIN)/python -m tests.contract.differences

simulate: setup ## the engine in simulated worlds: SEEDS=n of them, or SEED=s to replay one, cut down to what matters
	@$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000) --first $(or $(FIRST),3000001))

mutants: setup ## deliberate defects of the engine, and the seeds until the simulation caught each
	@$(BIN)/python -m tests.simulation.run --mutants

bench: setup ## figures, not assertions
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

fuzz: setup ## coverage-guided fuzzing of every parser with atheris: INPUTS=n in all (wheels for Linux on x86-64)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/fuzz.txt
	@$(BIN)/python -m tests.fuzz.run --inputs $(or $(INPUTS),100000)

full-stack: setup ## versitygw and Apache Kafka for the full local stack (needs Go, JDK 17 and Maven), and Debian's Redis 7 where apt-get is
	@$(BIN)/python -m fedplane.localstack.full_stack

lock: setup ## renew the pins
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra local --extra metrics --group dev pyproject.toml -o requirements/lock.txt
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --group fuzz -o requirements/fuzz.txt
	@$(MAKE) --no-print-directory lock-functions

lock-functions: setup ## what is made of the lock: the packages of a deployment, and the functions' worker for Pythons it does not declare
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  --extra metrics --constraints requirements/lock.txt pyproject.toml -o requirements.txt
	@sed -n '/^azure-functions-runtime==/,/^ *#/{s/ ; python[^\\]*/ /;/#/!p}' requirements/lock.txt > requirements/functions-runtime.txt

clean:
	@rm -rf $(VENV) .fedplane .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
