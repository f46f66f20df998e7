#!/usr/bin/env python3
"""JUNIT FIGURES WHOLE: a line for each row of the fault matrix: its number, what was broken, how it went, the figures.

Fails when WHOLE is 1 and one of the rows has no test.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

ROWS = 38


def main() -> int:
    junit, figures, whole = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1"
    tests = defaultdict(list)
    cases = ElementTree.parse(junit).iter("testcase") if junit.exists() else ()
    for case in cases:
        found = re.search(r"::row_(\d\d)_(\w+)$", case.get("name", ""))
        if found:
            failed = case.find("failure") is not None or case.find("error") is not None
            name = found[2].replace("_", " ")
            tests[int(found[1])].append((name, failed, float(case.get("time", 0))))
    measured = defaultdict(list)
    lines = figures.read_text().splitlines() if figures.exists() else ()
    for line in lines:
        number, _, text = line.removeprefix("row ").partition(": ")
        measured[int(number)].append(text)
    missing = 0
    for row in range(1, ROWS + 1):
        if not tests[row]:
            missing += 1
            if whole:
                print(f"row {row:2}  MISSING")
            continue
        failed = [name for name, failed, _ in tests[row] if failed]
        seconds = sum(seconds for _, _, seconds in tests[row])
        count = len(tests[row])
        what = tests[row][0][0] if count == 1 else f"{count} tests: " + ", ".join(name for name, _, _ in tests[row])
        result = "FAILED: " + ", ".join(failed) if failed else "holds"
        told = f" | {'; '.join(measured[row])}" if measured[row] else ""
        print(f"row {row:2}  {result:5}  {seconds:5.1f} s  {what}{told}")
    total = sum(seconds for row in tests.values() for _, _, seconds in row)
    print(f"{total:.0f} s in all rows")
    return 1 if whole and missing else 0


if __name__ == "__main__":
    sys.exit(main())
