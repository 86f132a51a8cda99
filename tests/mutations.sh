#!/usr/bin/env bash
# Breaks the queue on purpose, one mutation at a time, and checks that the model or test made for it notices.
#
#   tests/mutations.sh [NAME...]
#
# Each tests/mutations/NAME.patch begins with four lines: Why (what is broken), Kind (loom: an exhaustive model; unit:
# an ordinary test), Test (its path in the library), Says (text that the failure has to contain, so that a crash for
# another reason does not count). All of it happens in a temporary copy. Exit 1 if a test fails without its mutation,
# or if a mutation does not apply, does not compile, or is not noticed.
#
# CARGO_TARGET_DIR: where to build (default: target/mutations). LOOM_MAX_PREEMPTIONS: default 3.
# MUTATION_SECONDS: longest run of one test, default 300.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
patches=$root/tests/mutations
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/mutations}
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-3}
# No colours and no captured backtraces in what is searched below.
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
mkdir "$work/tree"
tar -C "$root" --exclude=./target --exclude=./.git -cf - . | tar -C "$work/tree" -xf -
cd "$work/tree"
# Cargo takes two trees of one workspace for the same and goes by times alone: without this it would run what the last
# mutation of an earlier run has left in the target directory.
find ringbuf -name '*.rs' -exec touch {} +

field() { sed -n "s/^$1: //p" "$2" | head -n 1; }

cargo_test() { # kind, further arguments
    local kind=$1
    shift
    case $kind in
    loom) RUSTFLAGS="--cfg loom" timeout "${MUTATION_SECONDS:-300}" \
        cargo test --quiet -p npfs-ringbuf --lib --profile loom "$@" ;;
    unit) timeout "${MUTATION_SECONDS:-300}" cargo test --quiet -p npfs-ringbuf --lib "$@" ;;
    *)
        echo "unknown kind: $kind" >&2
        return 2
        ;;
    esac
}

builds() { cargo_test "$1" --no-run >"$log" 2>&1; }

# Exactly one test has to run: a name that no longer exists would "pass" for ever.
runs() { # kind, test
    cargo_test "$1" -- --exact "$2" >"$log" 2>&1
}
ran() { grep -q '^running 1 test$' "$log"; }

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in "$patches"/*.patch; do
        names+=("$(basename "$patch" .patch)")
    done
fi

bad=0
report() { # verdict, name, details
    printf '%-13s %-28s %s\n' "$1" "$2" "$3"
    [ "$1" = caught ] || [ "$1" = sound ] || bad=1
}

# Without any mutation everything passes.
declare -A seen=()
for kind in loom unit; do
    for name in "${names[@]}"; do
        patch=$patches/$name.patch
        if [ ! -f "$patch" ]; then
            [ "$kind" = loom ] && report missing "$name" "no such patch"
            continue
        fi
        test=$(field Test "$patch")
        if [ "$(field Kind "$patch")" != "$kind" ] || [ -n "${seen[$test]:-}" ]; then
            continue
        fi
        seen[$test]=1
        if runs "$kind" "$test" && ran; then
            report sound "-" "$test"
        else
            report "fails already" "-" "$test"
            tail -n 15 "$log"
        fi
    done
done

for kind in loom unit; do
    for name in "${names[@]}"; do
        patch=$patches/$name.patch
        if [ ! -f "$patch" ] || [ "$(field Kind "$patch")" != "$kind" ]; then
            continue
        fi
        test=$(field Test "$patch")
        says=$(field Says "$patch")
        if ! patch --quiet --strip=1 --dry-run --input="$patch" >"$log" 2>&1; then
            report "not applied" "$name" "$(head -n 1 "$log")"
            continue
        fi
        # Kept aside, not reversed: a patch that applied with an offset need not reverse.
        mapfile -t files < <(sed -n 's|^+++ b/||p' "$patch" | cut -f 1)
        tar -cf "$work/before.tar" "${files[@]}"
        patch --quiet --strip=1 --no-backup-if-mismatch --input="$patch"
        if ! builds "$kind"; then
            report "not built" "$name" "$(grep -m 1 '^error' "$log" || true)"
        elif runs "$kind" "$test"; then
            report "NOT CAUGHT" "$name" "$test"
        elif ! ran || ! grep -qF -- "$says" "$log"; then
            report "other reason" "$name" "$test: $(grep -m 1 -A 1 'panicked at' "$log" | tr '\n' ' ' || true)"
        else
            report caught "$name" "$test"
        fi
        tar -xf "$work/before.tar"
        # The old times would hide the change back from cargo.
        touch "${files[@]}"
    done
done

exit $bad
