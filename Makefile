# Meson and Ninja build; this file only gives their commands, and the scripts', short names.

BUILD ?= build
MESON_FLAGS ?=

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup $(BUILD) $(MESON_FLAGS)

deps:
	scripts/install-deps

demo: deps
	@$(MAKE) --no-print-directory all
	scripts/demo

test: deps
	@$(MAKE) --no-print-directory all
	tests/run

test-full: deps
	@$(MAKE) --no-print-directory all
	tests/run --full

test-fault: deps
	@$(MAKE) --no-print-directory all
	tests/run --fault

test-soak: deps
	@$(MAKE) --no-print-directory all
	tests/soak/run

test-model:
	tests/run --model

bench:
	scripts/install-deps bench
	@$(MAKE) --no-print-directory all
	tests/bench/run

bench-network: deps
	@$(MAKE) --no-print-directory all
	tests/bench/network

sanitize:
	scripts/sanitize

fuzz:
	scripts/fuzz

lint: $(BUILD)/build.ninja
	scripts/lint

install: all
	meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir "$(abspath $(DESTDIR))")

clean:
	rm -rf $(BUILD) build-sanitize build-lint build-fuzz

.PHONY: all deps demo test test-full test-fault test-soak test-model bench bench-network sanitize fuzz lint install clean
