"""Does every page that a comment cites exist, with the section that it names?

A citation is `path/of/page.md`, as it stands from the repository's root, with ` §2` or ` §2.1` behind it where one section is
meant. A section without a page is a riddle, unless it is one of a standard (RFC 8878 §3.1).
"""

import re
import subprocess
import sys
from pathlib import Path

PAGE = re.compile(r"`([\w./-]+\.md)`(?:,? §(\d+(?:\.\d+)*))?")
SECTION = re.compile(r"§\d")
STANDARD = re.compile(r"(?:RFC \d+|AMQP [\d-]+),? §\d+(?:\.\d+)*")
SOURCES = ("rs", "toml", "sql", "lua", "sh", "bash", "yml", "yaml", "conf", "js")


def sections(page):
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", page.read_text(), re.MULTILINE))


def mistakes(path):
    # A citation may go over the end of a line of comment.
    lines = path.read_text().splitlines()
    text = "\n".join(re.sub(r"^\s*(?://[/!]?|#|--)\s?", "", line) for line in lines)
    joined = text.replace("\n", " ")
    number = lambda match: text.count("\n", 0, match.start()) + 1
    rest = joined
    for match in PAGE.finditer(joined):
        page = Path(match[1])
        if not page.exists():
            yield f"{path}:{number(match)}: there is no {page}"
        elif match[2] and match[2] not in sections(page):
            yield f"{path}:{number(match)}: {page} has no section {match[2]}"
    for known in (PAGE, STANDARD):
        rest = known.sub(lambda match: " " * len(match[0]), rest)
    # `a §1, §2`: further sections of a page that was just named.
    rest = re.sub(r"(?<=   )(?:(?:,| and| to) §\d+(?:\.\d+)*)+", lambda match: " " * len(match[0]), rest)
    for match in SECTION.finditer(rest):
        yield f"{path}:{number(match)}: a section of which page?"


def main():
    files = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    found = [mistake for file in files if file.endswith(SOURCES) for mistake in mistakes(Path(file))]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
