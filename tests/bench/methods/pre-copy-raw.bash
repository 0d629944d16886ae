# shellcheck shell=bash
# shellcheck source=tests/bench/ours.bash
# Without compression, where the link would ask for it.
. "$bench_dir/ours.bash"
strategy=pre-copy
migrate_options=(--compress none)
