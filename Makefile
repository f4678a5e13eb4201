# Relative paths only, so that a checkout whose path has spaces works.

PYTHON ?= python3
PYTEST_ARGS ?=
PROOF_ARGS ?=
# For .ci/run: where to leave pytest's exit status, which `make` would turn into its own.
PYTEST_STATUS ?=

BIN := .venv/bin
UV := $(BIN)/python -m uv
# A command, and after a colon the Debian package that has it, where that is called otherwise.
APT_TOOLS := strace dash curl chromium mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs faketime
# RUNLEVEL=1 below: what is a service is installed, and not started.
# Debian keeps PostgreSQL's programs out of every PATH.
NO_CLUSTER := /etc/postgresql-common/createcluster.conf
LIBFUSE := /lib/*/libfuse.so.2 /usr/lib/libfuse.so.2 /usr/lib64/libfuse.so.2
INITDB := /usr/lib/postgresql/*/bin/initdb /usr/local/bin/initdb /usr/bin/initdb
CHECKED := $(wildcard spoolq tests scripts benchmarks *.py)

.DEFAULT_GOAL := help
.PHONY: help setup run stop status demo fresh soak proof test check tools bench screenshots lock clean

# How long `make soak` lasts.
SECONDS := 1800

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

setup: .venv/.ready ## create .venv with all that is needed (instant when nothing changed)

.venv/.ready: pyproject.toml requirements-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --python $(BIN)/python -r requirements-dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

run: setup ## start the whole stack in the foreground, and say where it is; Ctrl-C stops it
	@scripts/run.sh

stop: setup ## stop what `make run` started
	@$(BIN)/spoolq down --checkout

status: setup ## what of it runs
	@scripts/run.sh status

demo: setup ## the stack at work on a temporary spool; ends by itself
	@$(BIN)/python scripts/demo.py

soak: setup ## the stack under load with kills, for SECONDS=1800; nothing may grow or be lost
	@$(BIN)/python scripts/soak.py --seconds $(SECONDS)

proof: setup tools ## every reliability suite in its long form, as root, about an hour (PROOF_ARGS="--only storm")
	@$(BIN)/python -m tests.reliability $(PROOF_ARGS)

fresh: ## what a stranger does: clone, run, test, from nothing; takes the time
	@scripts/fresh.sh

test: setup check tools ## check, then run the tests (PYTEST_ARGS="-k name" for some)
	@$(BIN)/python -m pytest $(PYTEST_ARGS); status=$$?; \
	if [ -n "$(PYTEST_STATUS)" ]; then echo $$status > "$(PYTEST_STATUS)"; else exit $$status; fi

check: setup ## ruff (lint and format) and mypy --strict
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/mypy

# What the tests use and pip cannot install. Without root, their tests are skipped at home and fail where CI is set.
tools:
	@missing=; for tool in $(APT_TOOLS); do command -v $${tool%:*} >/dev/null || missing="$$missing $${tool#*:}"; done; \
	[ -n "$(wildcard $(INITDB))" ] || missing="$$missing postgresql"; \
	[ -n "$(wildcard $(LIBFUSE))" ] || missing="$$missing libfuse2"; \
	[ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || missing="$$missing pgbouncer"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		case "$$missing" in *postgresql*) : 'the tests start servers of their own, so none is wanted on the usual port'; \
			mkdir -p /etc/postgresql-common; [ -e $(NO_CLUSTER) ] || echo 'create_main_cluster = false' > $(NO_CLUSTER);; esac; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq -y --no-install-recommends $$missing; } >/dev/null && exit 0; \
	fi; \
	echo "not installed:$$missing. The tests that use them are skipped, or fail if CI is set." >&2; \
	[ -z "$$CI" ]

bench: setup ## measure throughput and latency
	@$(BIN)/python -m benchmarks

screenshots: setup tools ## pictures of every page of the consoles, in build/screenshots/
	@$(BIN)/python scripts/screenshots.py

lock: setup ## write requirements*.txt anew from pyproject.toml
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --custom-compile-command 'make lock' \
		--extra client --extra console --extra postgres --extra rest --extra run -o requirements.txt pyproject.toml
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --custom-compile-command 'make lock' \
		--extra client --extra console --extra postgres --extra rest --extra run --extra test -c requirements.txt -o requirements-dev.txt pyproject.toml

clean: ## remove .venv, caches and build output; never spool/ and logs/
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find spoolq tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
