#!/bin/sh
# A tree of shells with pipes, for busybox sh: numbers run from a generator through two filters,
# and past a FIFO from a process in the background, to the last stage, which checks their order.
# Prints `line 1`, `line 2`, … and `side 1`, …; on any gap or repetition `FAIL …`, and ends.
# usage: shelltree.sh [INTERVAL_SECONDS] [DIR]

interval=${1:-0.05}
dir=${2:-/tmp}
fifo="$dir/shelltree.fifo"

rm -f "$fifo"
mkfifo "$fifo" || exit 2

# Without their last stages the others end by a broken pipe.
finish() {
    trap '' TERM INT USR1
    # shellcheck disable=SC2086
    kill $stages 2>/dev/null
    rm -f "$fifo"
    exit "$1"
}

stages=
trap 'finish 0' TERM INT
trap 'finish 1' USR1

fail() {
    echo "FAIL $1"
    kill -USR1 $$
    exit 1
}

generate() {
    number=0
    while :; do
        number=$((number + 1))
        echo "$number"
        sleep "$interval"
    done
}

# An arithmetic proof beside each number, so that a torn line is found too.
prove() {
    while read -r number; do
        echo "$number $((number * 7919 % 10007))"
    done
}

verify() {
    last=0
    while read -r number proof; do
        if [ "$number" -ne $((last + 1)) ] || [ "$proof" -ne $((number * 7919 % 10007)) ]; then
            fail "$1: after $last came $number $proof"
        fi
        last=$number
        echo "$1 $number"
    done
    fail "$1: the pipe ended"
}

generate | prove >"$fifo" &
stages="$stages $!"
verify side <"$fifo" &
stages="$stages $!"
generate | cat | prove | verify line &
stages="$stages $!"
# `wait` ends with the signal, so that the trap runs at once.
wait
