#!/usr/bin/env bash
# Turns around what the model decides for a rule, one rule at a time, and sees whether the random programs notice: a rule
# that can be inverted unnoticed is one that they do not check.
#
#   tests/invert.sh [RULE...]
#
# Every rule that stands in a `holds` or `says` of tests/model/*.rs is run with NPFS_INVERT=RULE: the test nt_model, and of
# queue_model what needs one process only. The result goes to tests/inverted.txt: the hash of the model it is about, for
# the test `rules` to see that it is of this model, and a line for each rule. With RULEs only these are run, and nothing is
# written. Exit 1 if the tests fail without any inversion. Surviving rules are no error.
#
# PROPTEST_CASES: programs of each test of queue_model (default: what the test says). INVERT_SEEDS: the seeds of random
# programs that are tried until one of them catches the rule, default "1 2 3"; they are fixed so that two runs see the same
# programs. INVERT_SECONDS: longest run of one test, default 120; one that takes longer has failed. INVERT_LOGS: a folder to
# keep what the tests printed.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root/tests"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# That a program fails is enough; which is the shortest does not matter.
export PROPTEST_MAX_SHRINK_ITERS=0
read -ra seeds <<<"${INVERT_SEEDS:-1 2 3}"
unset NPFS_INVERT

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=${INVERT_LOGS:-$work/logs}
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)

cargo test --quiet -p tests --test queue_model --test nt_model --test rules --no-run \
    --message-format=json >"$work/built"
executable() { # test
    local found
    found=$(sed -n "s|.*\"executable\":\"\([^\"]*/$1-[0-9a-f]*\)\".*|\1|p" "$work/built" | tail -n 1)
    [ -x "$found" ] || { echo "no executable of $1" >&2 && return 1; }
    echo "$found"
}
queue_model=$(executable queue_model)
nt_model=$(executable nt_model)
rules=$(executable rules)

limited() { timeout --kill-after=5 "${INVERT_SECONDS:-120}" "$@"; }
in_queue_model() {
    limited "$queue_model" --exact random_programs_in_one_process programs_that_failed_before >"$1.queue_model" 2>&1
}
in_nt_model() { limited "$nt_model" >"$1.nt_model" 2>&1; }

# Both at a time. Once one has failed, what the other says does not matter.
passes() { # path of the logs, seed
    local -x PROPTEST_RNG_SEED=$2
    local one other status=0
    in_queue_model "$1" &
    one=$!
    in_nt_model "$1" &
    other=$!
    wait -n "$one" "$other" || status=1
    if [ $status -ne 0 ]; then
        # The functions run in shells of their own, and the tests below those.
        pkill -TERM -P "$one,$other" 2>/dev/null || true
    fi
    wait "$one" || status=1
    wait "$other" || status=1
    return $status
}

hash=$("$rules" --exact --nocapture model_hash | sed -n 's/^.*\(model [0-9a-f]\{16\}\)$/\1/p')
[ -n "$hash" ] || { echo "the test rules says no hash" >&2 && exit 1; }

for seed in "${seeds[@]}"; do
    if ! passes "$logs/none" "$seed"; then
        echo "the tests fail without any inversion, with PROPTEST_RNG_SEED=$seed" >&2
        tail -n 15 "$logs"/none.* >&2
        exit 1
    fi
done

# rustfmt may put the rule on a line of its own.
mapfile -t all < <(cat model/*.rs | grep -ozP '\b(holds|says)\(\s*"NP-[A-Z]+-[0-9]+"' | tr '\0' '\n' |
    grep -o 'NP-[A-Z]*-[0-9]*' | sort -u)
chosen=("$@")
if [ ${#chosen[@]} -eq 0 ]; then
    chosen=("${all[@]}")
fi

for rule in "${chosen[@]}"; do
    if ! printf '%s\n' "${all[@]}" | grep -qxF "$rule"; then
        echo "the model decides nothing for $rule" >&2
        exit 1
    fi
    verdict=survived
    for seed in "${seeds[@]}"; do
        if ! NPFS_INVERT=$rule passes "$logs/$rule" "$seed"; then
            verdict=caught
            break
        fi
    done
    echo "$rule $verdict" | tee -a "$work/verdicts"
done

if [ $# -eq 0 ]; then
    { echo "$hash" && sort "$work/verdicts"; } >"$work/inverted"
    cp "$work/inverted" inverted.txt
fi
echo "caught: $(grep -c ' caught$' "$work/verdicts") of ${#chosen[@]}"
