"""Reads the lines of `npfs bench --json` and asserts twice each promise.

    check_bench.py FILE... [ID...]  every ID must have at least one line

Files end in `.jsonl` and are passes over the same benchmarks: a line that misses its bound in one of them and
keeps it in another has met a neighbour, not lost a fast path; it is bad if it misses in all that judge it, and of
three passes in two at least.

A promise "<= 1.6" asks for a ratio of at most 3.2 here, ">= 0.8" for one of at least 0.4: hosts of
continuous integration are busy, and what must never land unseen is a lost fast path, not a slow
neighbour. The promise itself is judged by the benchmark, on a quiet machine.

Exit status: 0 all judged lines are within the bound; 1 some are not, or the output is not what it
should be; 3 nothing could be judged (no clean round).
"""

import json
import sys

SLACK = 2.0


def bound_of(promise):
    """("<=" or ">=", the slackened bound) of a promise such as "<= 1.6"."""
    relation, _, number = promise.partition(" ")
    if relation == "<=":
        return relation, float(number) * SLACK
    if relation == ">=":
        return relation, float(number) / SLACK
    raise ValueError(f"a promise of an unknown form: {promise!r}")


def judge(line):
    """(verdict, sentence) of one parsed line; the verdict is "ok", "bad" or "open"."""
    name = f"{line['id']} {line['name']} on cpus {line['cpus']} against {line['baseline_name']}"
    if line["promise"] is None or line["holds"] is None:
        return "open", f"{name}: ratio {line['ratio']}, not judged (no promise or no clean round)"
    if line.get("rounds_kept") == 1:
        # Each pass has a few rounds of some milliseconds; the host takes a CPU away for longer than that.
        return "open", f"{name}: ratio {line['ratio']}, not judged (a single round is no sample)"
    if line["promise"] == "0 CPU, 0 wake-ups":
        # Nothing to slacken: an idle process does nothing at all.
        return ("ok" if line["holds"] else "bad"), f"{name}: promise {line['promise']}"
    relation, bound = bound_of(line["promise"])
    ratio = float(line["ratio"])
    # NaN compares false either way, hence fails.
    within = ratio <= bound if relation == "<=" else ratio >= bound
    promised = "holds" if line["holds"] else "does not hold"
    sentence = f"{name}: ratio {ratio:.3f}, promise {line['promise']} {promised}, asserted {relation} {bound:g}"
    return ("ok" if within else "bad"), sentence


def judged(path, seen):
    """What the lines of one pass say, by what they measure: verdict and sentence."""
    rows = {}
    with open(path, encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                # Whichever baseline was the best one in this pass.
                key = (line["id"], line["name"], line["cpus"], line["promise"], line.get("quota"))
                verdict = judge(line)
                seen.add(line["id"])
            except (ValueError, KeyError, TypeError) as error:
                key = f"line {number}"
                verdict = "bad", f"line {number} cannot be judged: {error!r}: {text.strip()}"
            # Lines of one key in one pass: the worst counts.
            rows[key] = max(rows.get(key, verdict), verdict, key=lambda row: SEVERITY[row[0]])
    return rows


# Between lines of one pass the greater counts; between passes "ok" outdoes "bad", and "bad" outdoes "open".
SEVERITY = {"open": 0, "ok": 1, "bad": 2}
ACROSS = {"open": 0, "bad": 1, "ok": 2}


def main(paths, required):
    seen = set()
    rows = {}
    missed = []
    misses = {}
    for path in paths:
        for key, row in judged(path, seen).items():
            rows[key] = max(rows.get(key, row), row, key=lambda row: ACROSS[row[0]])
            if row[0] == "bad":
                missed.append((path, row[1]))
                misses[key] = misses.get(key, 0) + 1
    if len(paths) >= 3:
        # What one of three passes has missed, and no other could judge, says nothing; a lost fast path misses again.
        for key, (verdict, sentence) in rows.items():
            if verdict == "bad" and misses[key] == 1 and not str(key).startswith("line"):
                rows[key] = ("open", sentence + ", in one pass of several")
    # A miss that another pass outdid is still said.
    for path, sentence in missed:
        print(f"miss {path}: {sentence}")
    verdicts = [verdict for verdict, _ in rows.values()]
    for verdict, sentence in rows.values():
        print(f"{verdict:<4} {sentence}")
    for missing in [promise for promise in required if promise not in seen]:
        verdicts.append("bad")
        print(f"bad  no line of {missing}")
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("ok", "bad", "open")))
    if "bad" in verdicts:
        return 1
    return 0 if "ok" in verdicts else 3


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    files = [argument for argument in sys.argv[1:] if argument.endswith(".jsonl")]
    sys.exit(main(files, [argument for argument in sys.argv[1:] if argument not in files]))
