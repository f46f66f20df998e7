#!/usr/bin/env python3
"""JUNIT: every test that failed, with the panic that ended it. The last lines of a long log are those that get read."""

import re
import sys
import xml.etree.ElementTree as ElementTree

for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    failure = case.find("failure") if case.find("failure") is not None else case.find("error")
    if failure is None:
        continue
    print(f"FAILED {case.get('classname')} {case.get('name')} after {case.get('time')} s")
    text = "\n".join(filter(None, (failure.get("message"), failure.text, case.findtext("system-err"))))
    panic = re.search(r"panicked at .*?(?=\nstack backtrace|\nnote: |\Z)", text, re.DOTALL)
    print(f"    {(panic[0] if panic else text)[:1500]}")
