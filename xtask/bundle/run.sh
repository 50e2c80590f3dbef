#!/usr/bin/env bash
# Tests and measures ocelli on a machine with an NVIDIA GPU. Needs its driver; the stages named in
# brackets use what they need where it is there.
#
#   run.sh [STAGE] OUT
#
#   correctness   every property suite on the GPU; a skipped test fails
#   memcheck, racecheck, initcheck, synccheck
#                 the same tests, fewer cases, under compute-sanitizer    [CUDA toolkit]
#   benches       the benchmarks on the GPU, half a second each
#   peers         the same cases in PyTorch and torchvision on the GPU    [python3 with PyTorch]
#   ncu           hardware counters of the kernels listed in ncu.txt      [Nsight Compute]
#
# Without STAGE all run, in this order. A stage takes at most 9 minutes. OUT receives a log for each
# kind of stage and summary.txt. Exit status: 0, or 1 if a stage failed, or 2 if none could be run.
set -uo pipefail

readonly STAGES=(correctness memcheck racecheck initcheck synccheck benches peers ncu)
# Seconds a stage may take; with starting and stopping it stays under 9 minutes.
readonly LIMIT="${OCELLI_STAGE_LIMIT:-520}"

die() {
    echo "run.sh: $*" >&2
    exit 2
}

# Runs a command in what is left of the stage's time, with all that it prints added to a log.
logged() {
    local log=$1
    shift
    echo "\$ $*" >>"$log"
    local left=$((DEADLINE - SECONDS))
    timeout --kill-after=10 "$((left > 0 ? left : 1))" "$@" >>"$log" 2>&1
}

# The verdict on a stage, from the exit status of its command.
verdict() {
    case $1 in
    0) echo passed ;;
    124 | 137) echo "FAILED: not done in $LIMIT s" ;;
    *) echo "FAILED: exit status $1" ;;
    esac
}

correctness() {
    local log=$OUT/correctness.log
    logged "$log" "$SCRATCH/tests"
    local status=$? result
    result=$(grep '^test result: ' "$log" | tail -n 1)
    [[ $status == 0 && $result == *" 0 passed"* ]] && { echo "FAILED: no test ran"; return; }
    verdict $status
    echo "$result"
}

sanitizer() {
    local tool=$1 log=$OUT/sanitizer.log part=$SCRATCH/$1.log
    command -v compute-sanitizer >/dev/null || { echo "passed over: compute-sanitizer is not installed"; return; }
    # Tests give the driver wrong arguments on purpose: API errors are theirs to judge.
    PROPTEST_CASES=4 logged "$part" compute-sanitizer --tool "$tool" --report-api-errors no \
        --error-exitcode 9 "$SCRATCH/tests" --test-threads=2
    local status=$?
    cat "$part" >>"$log"
    if ((status != 0 && status != 124 && status != 137)) && ! grep -q '^test .* \(ok\|FAILED\)$' "$part"; then
        echo "passed over: compute-sanitizer refuses this machine: $(grep -m 1 '^=========.*[Ee]rror' "$part" || echo "exit status $status")"
        return
    fi
    verdict $status
    grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$part" | tail -n 1
}

benches() {
    CRITERION_HOME=$SCRATCH/criterion logged "$OUT/benches.log" "$SCRATCH/benches" --bench \
        --warm-up-time 0.1 --measurement-time 0.5 --nresamples 1000 /cuda
    verdict $?
}

peers() {
    python3 -c 'import torch' 2>/dev/null || { echo "passed over: python3 with PyTorch is not installed"; return; }
    # With the times of the benches, where they were run, it prints ratios.
    local ours=()
    [[ -e $OUT/benches.log ]] && ours=("$OUT/benches.log")
    logged "$OUT/peers.log" python3 peers.py --device cuda "${ours[@]}"
    verdict $?
}

ncu_counters() {
    local log=$OUT/ncu.log kernel bench status failed=0
    command -v ncu >/dev/null || { echo "passed over: ncu is not installed"; return; }
    while read -r kernel bench; do
        [[ $kernel && $kernel != \#* ]] || continue
        # The first launch of each shape; what is left out costs no replay.
        logged "$log" ncu --kernel-name "regex:$kernel" --filter-mode per-launch-config \
            --launch-count 1 --set full --clock-control none \
            "$SCRATCH/benches" --bench --profile-time 1 "$bench"
        status=$?
        ((status == 0)) || failed=$status
    done <ncu.txt
    if ! grep -q 'DRAM Throughput' "$log"; then
        echo "passed over: ncu refuses this machine: $(grep -m 1 '^==ERROR==' "$log" || echo "exit status $failed")"
        return
    fi
    verdict $failed
}

run_stage() {
    case $1 in
    memcheck | racecheck | initcheck | synccheck) sanitizer "$1" ;;
    ncu) ncu_counters ;;
    *) "$1" ;;
    esac
}

main() {
    local stages=("${STAGES[@]}") stage start failed=0 line
    if (($# == 2)); then
        [[ " ${STAGES[*]} " == *" $1 "* ]] || die "no stage '$1'; the stages are ${STAGES[*]}"
        stages=("$1")
        shift
    fi
    (($# == 1)) || die "usage: run.sh [STAGE] OUT; the stages are ${STAGES[*]}"
    mkdir -p "$1" || die "$1 cannot be made"
    OUT=$(cd "$1" && pwd)
    cd "$(dirname "${BASH_SOURCE[0]}")" || die "the bundle cannot be read"
    [[ -e /dev/nvidiactl ]] || nvidia-smi -L >/dev/null 2>&1 ||
        die "no NVIDIA GPU can be used here: there is neither /dev/nvidiactl nor a working nvidia-smi"
    SCRATCH=$(mktemp -d)
    trap 'rm -rf "$SCRATCH"' EXIT
    tar --extract --file programs.tar.xz --directory "$SCRATCH" 2>/dev/null ||
        python3 -m tarfile --extract programs.tar.xz "$SCRATCH" ||
        die "programs.tar.xz cannot be unpacked: neither tar with xz nor python3 does it"
    "$SCRATCH/tests" --list >/dev/null || die "the test program does not start on this machine"
    export OCELLI_TEST_DEVICE=gpu OCELLI_REQUIRE_GPU=1
    {
        echo "ocelli $(cat version.txt)"
        nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv,noheader
    } >>"$OUT/summary.txt" 2>&1
    local first_line
    first_line=$(($(wc -l <"$OUT/summary.txt") - 1))
    for stage in "${stages[@]}"; do
        echo "== $stage"
        start=$SECONDS
        DEADLINE=$((start + LIMIT))
        line=$(run_stage "$stage" | paste -sd ';')
        [[ $line == FAILED* ]] && failed=1
        echo "$stage: $line ($((SECONDS - start)) s)" >>"$OUT/summary.txt"
    done
    echo "== summary"
    tail -n "+$first_line" "$OUT/summary.txt"
    return $failed
}

main "$@"
