#!/usr/bin/env bats
# Many hops by random strategies and options, of containers with random mixes of memory: zero differences.
# FM_SEED repeats a run (the same choices, not the same moments), FM_SOAK_HOPS says how many hops.

load ../integration/lib
load ../integration/migrate
load ../integration/strategies

seed=${FM_SEED:-$(($(date +%s) % 32768))}
hops=${FM_SOAK_HOPS:-20}
hops_of_a_container=10
modes=(dirty tree threads cow forkstorm user privileges seccomp remap reuse brk stack shared memfd sysv files tmpfs
    kernel mlock protnone idle)

setup_file()
{
    cluster_start 2
    make_memcheck_root
}

teardown_file()
{
    cluster_stop
}

# one_of WORD…
one_of()
{
    local words=("$@")
    chosen=${words[RANDOM % $#]}
}

# choose_modes: two to seven different ones, in `mix`.
choose_modes()
{
    local count=$((2 + RANDOM % 6))
    mix=()
    while [ ${#mix[@]} -lt $count ]; do
        one_of "${modes[@]}"
        [[ " ${mix[*]} " == *" $chosen "* ]] || mix+=("$chosen")
    done
}

# choose_options: of one migration, in `options`.
choose_options()
{
    options=()
    one_of none auto zstd
    options+=(--compress "$chosen")
    one_of 1 2 4
    options+=(--parallel "$chosen")
    case $((RANDOM % 4)) in
    0) options+=(--bandwidth 200MiB) ;;
    1) options+=(--auto-converge) ;;
    2) options+=(--delta-cache 0) ;;
    esac
    accepted_options
}

# accepted_options: without those that this build does not offer.
accepted_options()
{
    local i kept=()
    for ((i = 0; i < ${#options[@]}; i++)); do
        if [[ ${options[i]} != --* ]]; then
            continue
        fi
        if ! grep -qE -- "${options[i]}\b" <<<"$help" || grep -E -- "${options[i]}\b" <<<"$help" | grep -q 'not available'; then
            continue
        fi
        kept+=("${options[i]}")
        [[ ${options[i + 1]:---} == --* ]] || kept+=("${options[i + 1]}")
    done
    options=("${kept[@]}")
}

@test "soak: random strategies and mixes of memory, zero differences" {
    local help hop=0 i from to other mix options chosen strategy all mib rate
    help=$("$FM_BUILD/src/cli/fleximigrate" migrate --help)
    RANDOM=$seed
    read -r -a all <<<"$(strategies)"
    show "seed $seed: repeat with FM_SEED=$seed FM_SOAK_HOPS=$hops"
    while [ $hop -lt "$hops" ]; do
        choose_modes
        mib=$((8 + RANDOM % 48)) rate=$((RANDOM % 4 ? RANDOM % 2000 : 20000))
        show "container: --mib $mib --rate $rate ${mix[*]}"
        memcheck_start mem --seed "$RANDOM" --mib $mib --rate $rate "${mix[@]}"
        from=a to=b
        for ((i = 0; i < hops_of_a_container && hop < hops; i++, hop++)); do
            one_of "${all[@]}"
            strategy=$chosen
            choose_options
            if ! hop_by "$strategy" "$from" "$to" mem "${options[@]}" || ! assert_memcheck "$to" mem; then
                fail "seed $seed, hop $hop: $strategy ${options[*]}, ${mix[*]}"
            fi
            other=$from from=$to to=$other
        done
        remove_everywhere mem
    done
}
