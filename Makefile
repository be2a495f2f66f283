# What people do with antiphon, one target each. All of it uses ONE cargo profile, so that dependencies compile once
# for run, tests, load test and benches; `make check PROFILE=dev` is for those who live in the dev profile.
PROFILE ?= release
CARGO   ?= cargo
# In CI the lock file is law; at a desk an edited Cargo.toml may still update it.
LOCKED  := $(if $(CI),--locked)
BUILD   := --profile $(PROFILE) $(LOCKED)
BINARY  := $(abspath $(or $(CARGO_TARGET_DIR),target))/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/antiphon
# `make run ARGS="--config my.toml"`, `make loadtest ARGS="--calls 120"`
ARGS    ?=
# of each fuzz target
SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help needs run check test setup lint fmt unit blackbox clients clients-check browser loadtest smoke bench deny test-live fuzz

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

run: needs ## build (once, see the time it says) and start antiphon with its defaults, no configuration needed
	@sh setup/announce-build.sh $(PROFILE)
	@$(CARGO) build $(BUILD) --bin antiphon
	@echo "== antiphon run $(ARGS)"
	@exec $(CARGO) run --quiet $(BUILD) --bin antiphon -- run $(ARGS)

check: needs ## unit and scenario tests; installs nothing
	@sh setup/announce-build.sh $(PROFILE)
	@echo "== unit and scenario tests"
	$(CARGO) test $(BUILD) --lib $(ARGS)

test: ## everything: set-up, lints, all tests, load test, benches; says how long each stage took
	@sh .ci/stages setup lint unit blackbox clients-check browser smoke bench

setup: ## install what the tests need and this machine lacks (Debian; as root or through sudo)
	@echo "== Debian packages and Python environment of the tests"
	@sh setup/debian.sh
	@sh setup/python.sh
	@echo "== npm packages of the browser client"
	@sh setup/clients.sh

fmt: ## format the code
	@echo "== formatting"
	$(CARGO) fmt

lint: needs ## formatting, clippy, docs, architecture rules, licences and advisories
	@echo "== formatting"
	$(CARGO) fmt --check
	@echo "== clippy"
	$(CARGO) clippy $(BUILD) --all-targets -- -D warnings
	@echo "== documentation"
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc $(BUILD) --no-deps --lib
	@echo "== architecture rules"
	$(CARGO) test $(BUILD) --test purity -- --nocapture
	@sh setup/deny.sh

unit: needs ## the tests of `make check`, and the examples in the documentation
	@echo "== unit and scenario tests"
	$(CARGO) test $(BUILD) --lib --bins
	@echo "== examples in the documentation"
	$(CARGO) test $(BUILD) --doc

blackbox: needs ## tests that start the real binary, and those that need tools from `make setup`
	@echo "== black-box tests"
	$(CARGO) test $(BUILD) --test '*'

clients: ## build the browser client and the demo page into clients/dist, which is committed
	@sh setup/clients.sh
	cd clients && node build.mjs

clients-check: ## types and unit tests of the browser client; fails if clients/dist is not what it builds to
	@sh setup/clients.sh
	@echo "== types"
	cd clients && node_modules/.bin/tsc --noEmit -p js && node_modules/.bin/tsc -p page
	@echo "== clients/dist is current"
	cd clients && node build.mjs --check
	@echo "== unit tests of the browser client"
	cd clients && node test/unit.mjs

browser: needs ## calls in Chromium and Firefox on the demo page of the real binary; screenshots in target/screenshots
	@sh setup/clients.sh
	$(CARGO) build $(BUILD) --bin antiphon
	@echo "== calls in Chromium"
	cd clients && ANTIPHON_BIN="$(BINARY)" node --test test/browser.test.mjs
	@echo "== calls in Firefox"
	cd clients && ANTIPHON_BIN="$(BINARY)" node --test test/firefox.test.mjs

loadtest: needs ## many calls at once against a daemon of its own; ARGS="--help" lists the options
	@echo "== load test"
	$(CARGO) run $(BUILD) --bin loadtest -- $(ARGS)

smoke: needs ## a short load test that fails on a lost or late frame
	@echo "== load test, short"
	$(CARGO) run $(BUILD) --bin loadtest -- --smoke

test-live: needs ## calls the vendors whose keys are in the environment: 20 s each, cost capped, report without keys and words
	$(CARGO) build $(BUILD) --bin antiphon
	@echo "== calls to the vendors"
	@python3 tests/live/run.py "$(BINARY)"

fuzz: ## each fuzz target for SECONDS=60; needs cargo-fuzz (`cargo install cargo-fuzz --locked`)
	@cp Cargo.lock fuzz/Cargo.lock
	WRITE_CORPUS=1 $(CARGO) test $(BUILD) --lib -- fuzzed
	for target in native_framing quic_framing credentials agents realtime audio; do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none $$target -- -max_total_time=$(SECONDS) -max_len=16384 || exit 1; \
	done

bench: needs ## benches: ns and allocations per frame, as ratios to libopus alone; fails above a bar
	@echo "== benches"
	$(CARGO) bench $(BUILD) --bench '*'

needs:
	@sh setup/needs.sh
