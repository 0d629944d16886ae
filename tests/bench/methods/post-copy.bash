# shellcheck shell=bash
# shellcheck source=tests/bench/ours.bash
. "$bench_dir/ours.bash"
strategy=post-copy
