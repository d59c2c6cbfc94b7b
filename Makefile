# make demo and make test set up everything that they need. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help demo example test check legs test-prefect test-citus bench torture docs release-check picture pictures-web clean leg-16 leg-container leg-newest leg-lowest leg-pgbouncer leg-prefect leg-web

VENV ?= .venv
PYTHON ?= $(shell tools/find-python)
PYTEST = $(VENV)/bin/python -m pytest -n auto

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | sort | awk -F '\t' '{ printf "%-14s %s\n", $$1, $$2 }'

$(VENV)/%.stamp: requirements/%.txt pyproject.toml
	@tools/make-venv "$(PYTHON)" $(VENV) $<

demo: $(VENV)/test.stamp ## shows a run's history on a server that it starts for this
	@$(VENV)/bin/flowstates demo

example: $(VENV)/test.stamp ## a small service with its pages, on a server that it starts, until Ctrl-C
	@cd examples/service && exec "$(CURDIR)/$(VENV)/bin/python" -m service

test: $(VENV)/test.stamp ## all tests, on the server that FLOWSTATES_TEST_POSTGRES says: auto, embedded, container or an address
	@echo "all tests: about 9 minutes on two cores"
	@$(PYTEST)

check: $(VENV)/test.stamp $(VENV)/lint.stamp test ## style, types, imports, and the tests on one server
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	cd examples/service && "$(CURDIR)/$(VENV)/bin/mypy" --cache-dir "$(CURDIR)/.mypy_cache/example"
	@# What a user sees, whose mypy has no plugin.
	$(VENV)/bin/python -m tests.examples
	$(VENV)/bin/mypy --strict --config-file= build/examples tests/test_types.py
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	@report=$$(PATH="$(CURDIR)/$(VENV)/bin:$$PATH" basedpyright --verifytypes flowstates --ignoreexternal) || { echo "$$report"; exit 1; }
	$(VENV)/bin/lint-imports

legs: leg-16 leg-container leg-newest leg-lowest leg-pgbouncer leg-prefect leg-web ## the tests that can differ, on other servers, Pythons and versions

# What a leg leaves out is marked `once` (it depends neither on the server nor on the versions) or `server` or `versions` (on that alone).
leg = @start=$$SECONDS; $(2) && echo "leg $(1): $$((SECONDS - start)) s"

# Between 15 and 18, which run all of it: how the server plans, what its catalog says, what its triggers do.
PLANNED = $(patsubst %,tests/test_%.py,contract plans check_plans checks migrations deletes retention questions feed feed_consume)

leg-16: $(VENV)/test.stamp
	$(call leg,server 16,FLOWSTATES_TEST_POSTGRES=embedded:16 $(PYTEST) $(PLANNED))

leg-container: $(VENV)/test.stamp
	$(call leg,container,image=$$(.ci/container-image) && FLOWSTATES_TEST_IMAGE=$$image FLOWSTATES_TEST_POSTGRES=container $(PYTEST) -m "not once and not versions")

leg-newest:
	@if [ "$$(tools/find-python)" = "$$(tools/find-python oldest)" ]; then echo "leg newest Python: only one Python is at hand" >&2; exit 1; fi
	@$(MAKE) --no-print-directory leg-python VENV=.venvs/newest PYTHON="$$(tools/find-python)"

.PHONY: leg-python
leg-python: $(VENV)/test.stamp
	$(call leg,newest Python,FLOWSTATES_TEST_POSTGRES=embedded $(PYTEST) -m versions)

leg-lowest:
	@$(MAKE) --no-print-directory leg-versions VENV=.venvs/lowest PYTHON="$$(tools/find-python oldest)"

.PHONY: leg-versions
leg-versions: $(VENV)/lowest.stamp
	$(call leg,lowest versions,FLOWSTATES_TEST_POSTGRES=embedded $(PYTEST) -m "not once and not server")

leg-pgbouncer: $(VENV)/test.stamp
	$(call leg,PgBouncer,.ci/pgbouncer && FLOWSTATES_TEST_POSTGRES=embedded $(PYTEST) tests/pgbouncer)

leg-prefect:
	$(call leg,Prefect,image=$$(.ci/container-image) && FLOWSTATES_TEST_IMAGE=$$image FLOWSTATES_TEST_POSTGRES=container $(MAKE) --no-print-directory test-prefect)

test-prefect: ## the answers held against Prefect's own, on a server with pg_trgm (FLOWSTATES_TEST_POSTGRES: container or an address)
	@$(MAKE) --no-print-directory witness VENV=.venvs/prefect PYTHON="$$(tools/find-python oldest)"

.PHONY: witness
witness: $(VENV)/prefect.stamp
	@PYTHONPATH=. $(VENV)/bin/python -m pytest tests/prefect

leg-web:
	$(call leg,pages in a browser,.ci/chromium && FLOWSTATES_TEST_POSTGRES=embedded $(MAKE) --no-print-directory in-chromium VENV=.venvs/web PYTHON="$$(tools/find-python oldest)")

.PHONY: in-chromium
in-chromium: $(VENV)/web.stamp
	@PYTHONPATH=. $(PYTEST) tests/web

# What of the other tests is parametrised by the layout is asked there too.
test-citus: $(VENV)/test.stamp ## the layout citus, on the coordinator that FLOWSTATES_TEST_CITUS names: the address of a superuser
	@[ -n "$$FLOWSTATES_TEST_CITUS" ] || { echo "FLOWSTATES_TEST_CITUS is to name a coordinator of Citus: postgresql://superuser@host:port/database" >&2; exit 1; }
	@# One after another: that many databases come and go at once is not what a Citus is for.
	@$(VENV)/bin/python -m pytest tests/citus
	@$(VENV)/bin/python -m pytest $(patsubst %,tests/test_%.py,contract layouts questions checks docs_citus) -k "citus or equal"

bench: $(VENV)/test.stamp $(VENV)/bench.stamp ## what a call costs beside its peers, on a server that it starts; ARGS=--short for the short form
	@$(VENV)/bin/python -m benchmarks $(ARGS)

torture: $(VENV)/test.stamp ## random writers and faults for as long as ARGS='--seconds 60' says
	@$(VENV)/bin/python -m tests.torture $(ARGS)

docs: ## builds the pages under docs as a site, in build/site; a warning is an error, a link that leads nowhere among them
	@$(MAKE) --no-print-directory site VENV=.venvs/docs PYTHON="$$(tools/find-python oldest)"

.PHONY: site
site: $(VENV)/docs.stamp
	@$(VENV)/bin/zensical build --clean --strict
	@echo "to look at it: $(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory build/site"

release-check: ## builds the package as it is released, and installs it in empty environments, with each extra
	@$(MAKE) --no-print-directory released VENV=.venvs/release PYTHON="$$(tools/find-python oldest)"

.PHONY: released
released: $(VENV)/release.stamp
	@tools/release-check build/release $(VENV)/bin/python

picture: $(VENV)/test.stamp ## draws the picture of the README anew
	@$(VENV)/bin/python -m tests.picture

pictures-web: ## takes the pictures of the pages in docs anew, in Chromium
	@.ci/chromium && $(MAKE) --no-print-directory photographed VENV=.venvs/web PYTHON="$$(tools/find-python oldest)"

.PHONY: photographed
photographed: $(VENV)/web.stamp
	@PYTHONPATH=. $(VENV)/bin/python -m tests.web.pictures

clean: ## removes what make has made
	@rm -rf .venv .venvs dist build .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
