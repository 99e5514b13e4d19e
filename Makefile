# Two commands: `make demo` (install and run the first scenario) and `make test` (install for tests, check, test).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip

C_SOURCES := $(wildcard vfl/paillier/*.c psi/*.c)
SOURCES := pyproject.toml setup.py $(C_SOURCES)
KERNEL := $(BIN)/python -c 'from vfl.paillier import kernel_name; print(kernel_name())'

# Another implementation that alignments are held against; it pins a protobuf that others here do not, and does without.
ORACLE := OpenMined's package is not to be had for this Python: its test is left out

# torch for the tests of networks. Its CPU builds have an index of their own; what pip finds first brings gigabytes for
# GPUs on Linux. An index that does not answer is left out.
TORCH := torch==2.13.0
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 20

# What is tested once more on gmpy2 where a test takes the C kernel otherwise.
GMPY2_TESTS := tests/paillier tests/glm tests/trees/test_lossless.py tests/trees/test_histograms.py tests/adversarial \
	tests/runs/test_processes.py tests/splitnn/test_source_layer.py tests/psi/test_ecdh.py tests/psi/test_align.py --ignore-glob='*test_ifma*'

# Files of tests side by side, a process per core up to four; one after the other: make test TOGETHER=
TOGETHER := -n auto --maxprocesses 4 --dist loadfile

SANITIZED := build/sanitize
SANITIZED_FILES := tests/paillier tests/psi
# Fences find stray accesses by other means, and need the signal that the sanitizer takes for itself.
SANITIZED_TESTS := (test_kernels or test_ifma or test_pippenger or test_curve or test_blake2b or test_bits) \
	and not fences and not hundred_thousand
SANITIZER := LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc VFL_KERNEL=ifma

# The long forms of tests/chaos: kills, runs over bad networks, the seed of both, and inputs of decoders.
N ?= 200
RUNS ?= 1000
SEED ?= 1
COUNT ?= 10000000

.PHONY: install dev demo docs test lint types sanitize coverage chaos fuzz clean

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name another one: make demo PYTHON=python3.12"; exit 2; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade pip

$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing vfl into $(VENV)"
	@$(PIP) install --quiet --editable .
	@echo "Paillier kernel: $$($(KERNEL))"
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing vfl with [dev], [nn] and [dp] into $(VENV)"
	@$(PIP) install --quiet $(TORCH_INDEX) $(TORCH) || echo "$(TORCH) is not to be had: taking what pip finds"
	@$(PIP) install --quiet --editable '.[dev,nn,dp]'
	@$(PIP) install --quiet --no-deps openmined-psi 2>/dev/null || echo "$(ORACLE)"
	@echo "Paillier kernel: $$($(KERNEL))"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing vfl with [docs] into $(VENV)"
	@$(PIP) install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

demo: install
	$(BIN)/vfl run scenarios/credit_default

# The pages in docs/ as a site: build/site/index.html. A page that is missing or linked wrongly ends it.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

# Every test on the kernel that this machine has; where that is C, what depends on it once more on gmpy2.
test: lint types
	@failed=0; kernel=$$($(KERNEL)); \
	echo "Tests, kernel $$kernel"; \
	$(BIN)/pytest $(TOGETHER) --durations=10 || failed=1; \
	if [ "$$kernel" != gmpy2 ]; then \
		echo "Tests once more, kernel gmpy2"; \
		VFL_KERNEL=gmpy2 $(BIN)/pytest $(TOGETHER) $(GMPY2_TESTS) || failed=1; \
	fi; \
	exit $$failed

# The tests of the C code on a copy where it stops at the first access out of bounds and at undefined behaviour.
sanitize: dev
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -R pyproject.toml vfl psi parties tests $(SANITIZED)
	find $(SANITIZED) -name '_*.so' -delete
	for library in $(basename $(C_SOURCES)); do \
		gcc -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fPIC -shared \
			$$library.c -o $(SANITIZED)/$$(dirname $$library)/_$$(basename $$library).so || exit 1; \
	done
	cd $(SANITIZED) && $(SANITIZER) $(abspath $(BIN))/python -m pytest --capture=sys $(SANITIZED_FILES) -k '$(SANITIZED_TESTS)'

# Lines and branches that the tests reach (roles in processes of their own are not counted); below 90 % it fails.
coverage: dev
	$(BIN)/pytest --cov --cov-report=term

# kill -9 of roles N times, and RUNS runs over networks that do harm; SEED says which.
chaos: dev
	VFL_CHAOS_KILLS=$(N) VFL_CHAOS_SEED=$(SEED) $(BIN)/pytest -s tests/chaos/test_kills.py
	VFL_CHAOS_RUNS=$(RUNS) VFL_CHAOS_SEED=$(SEED) VFL_CHAOS_WORKERS=12 $(BIN)/pytest -s tests/chaos/test_faulty_network.py
	$(BIN)/pytest tests/chaos/test_bad_disks.py tests/chaos/test_coordinator_learns_nothing.py

# Every decoder against altered and made-up bytes, COUNT in all; or for SECONDS each.
fuzz: dev
	$(BIN)/python -m tests.chaos.fuzz --seed $(SEED) $(if $(SECONDS),--seconds $(SECONDS),--count $(COUNT))

clean:
	rm -f vfl/paillier/_*.so psi/_*.so vfl/paillier/_*.pyd psi/_*.pyd
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
