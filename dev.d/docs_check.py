"""Is everything true that the pages, the comments of deploy/ and examples/ and the program's help show?

Links and files must exist, with their anchors; addresses must be served; commands are run as they stand, or stand in
dev.d/not-run.txt with the reason. It runs on the machine that docs-stage.bash prepares.
"""

import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

from docs_stage import Stage
from docs_text import COMMAND, comments, helps, markdown, prose

LIST = Path("dev.d/not-run.txt")
# What a person is to fill in.
BLANKS = re.compile(r"[\[<…|]|\b(?:DIR|FILE|RATE|SECONDS|NAME|NAMES|ID|N|T|B|C)\b|/\.\.\.")
PATHS = re.compile(r"^(?:(GET|POST|PUT|PATCH|DELETE) (?=/)|(?::\d+)?(?=/(?:webhook|v1|healthz|readyz|metrics|sim)\b))(/\S+)$")


# A whole set of them is asked for.
SERVERS = {"amqp": "amqp://rabbitmq", "redis": "redis://redis", "database": "postgres://postgres/openclaw"}


class Listed:
    """not-run.txt: `COMMAND :: reason`, one a line; `*` at the end of a command stands for anything."""

    def __init__(self):
        lines = [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
        self.entries = dict(re.split(r" +:: +", line, maxsplit=1) for line in lines)
        self.used = set()

    def has(self, text):
        found = [entry for entry in self.entries if text == entry or (entry.endswith("*") and text.startswith(entry[:-1]))]
        self.used.update(found)
        return bool(found)

    def mistakes(self):
        for entry, reason in self.entries.items():
            if entry not in self.used:
                yield f"{LIST}: nobody shows `{entry}`"
            if by := re.match(r"run by (\S+)", reason):
                path = Path(by[1])
                if not path.exists() or entry not in path.read_text():
                    yield f"{LIST}: {path} does not run `{entry}`"


class Walk:
    def __init__(self):
        self.stage = Stage()
        self.listed = Listed()
        self.helps = helps("openclaw")
        self.files = Path("/shared/files").read_text().split("\0")[:-1]
        self.tops = {file.split("/")[0] for file in self.files}
        self.mistakes, self.run = [], 0

    def shown(self):
        for file in self.files:
            path = Path(file)
            if "src" in path.parts:
                continue
            if path.suffix == ".md":
                yield from markdown(path)
            elif path.parts[0] in ("deploy", "examples") and path.suffix != ".json":
                yield from comments(path)
        for path, text in self.helps.items():
            for line in text.splitlines():
                yield from prose(" ".join(("openclaw", *path, "--help")), line)

    def walk(self):
        commands = {}
        for shown in self.shown():
            if shown.kind == "command":
                commands.setdefault((shown.where.split(":")[0], shown.block) if shown.block else shown.text, []).append(shown)
            elif complaint := getattr(self, shown.kind)(shown):
                self.mistakes.append(f"{shown.where}: {complaint}")
        for group in commands.values():
            self.block(group)
        self.mistakes += self.listed.mistakes()

    def block(self, group):
        """Commands that share a folder; one that stands in many places runs once."""
        first = group[0]
        self.stage.begin("." if first.block else Path(first.where.split(":")[0]).parent, first.text)
        for shown in group if group[0].block else group[:1]:
            if complaint := self.command(shown):
                self.mistakes.append(f"{shown.where}: {complaint}")

    def command(self, shown):
        text = shown.text
        if self.listed.has(text):
            return None
        words = text.split()
        if re.search(r"(?:^| )cargo ", text):
            return f"`{text}` builds, which takes too long here: list it, with who runs it"
        if words[0] == "./dev":
            if not Path(f"dev.d/{words[1]}.sh").exists():
                return f"there is no `./dev {words[1]}`"
            if BLANKS.search(text):
                return None
        if words[0] == "openclaw" and (BLANKS.search(text) or not shown.block and not any(w.startswith("-") for w in words)):
            return self.form(text)
        self.run += 1
        return self.stage.run(text)

    def form(self, text):
        """Not to be run as it stands, but each word of it must be one that the program knows."""
        path = ()
        for word in re.split(r"[ |]+", text)[1:]:
            if (*path, word) in self.helps:
                path = (*path, word)
            elif not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            elif (*path[:-1], word) not in self.helps:
                return f"`{text}`: there is no `openclaw {' '.join((*path, word))}`"
        for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", text):
            if not re.search(rf"(?<![\w-]){option}\b", self.helps[path]):
                return f"`{text}`: `openclaw {' '.join(path)}` has no `{option}`"
        return None

    def link(self, shown):
        if re.match(r"\w+:", shown.text):
            return None if self.listed.has(shown.text) else f"{shown.text} is reached by nobody: list it"
        path, _, anchor = shown.text.partition("#")
        page = Path(shown.where.split(":")[0])
        target = Path(os.path.normpath(page.parent / path)) if path else page
        if not target.exists():
            return f"the link {shown.text} leads nowhere"
        if anchor and anchor not in anchors(target):
            return f"{target} has no heading #{anchor}"
        return None

    def address(self, shown):
        if self.listed.has(shown.text):
            return None
        path = re.sub(r"^https?://(?:<[^>]*>|[^/])*", "", shown.text)
        return self.stage.served(path) if PATHS.match(path) else f"{shown.text} is reached by nobody: list it"

    def server(self, shown):
        """The address of RabbitMQ, Redis or PostgreSQL: the configuration takes it."""
        kinds = {"amqp": "amqp", "amqps": "amqp", "redis": "redis", "rediss": "redis", "postgres": "database"}
        return self.stage.takes(SERVERS | {kinds[shown.text.partition(":")[0]]: shown.text})

    def snippet(self, shown):
        """A piece of a node's configuration."""
        return self.stage.takes(SERVERS, shown.text)

    def code(self, shown):
        text = shown.text
        if path := PATHS.match(text):
            return None if self.listed.has(text) else self.stage.served(path[2], path[1])
        if not re.fullmatch(r"[\w.@/*{},-]+", text) or COMMAND.match(text):
            return None
        top, _, rest = text.partition("/")
        named = re.search(r"\.(?:md|ya?ml|conf|sh|bash|rs|toml|json|txt|js|py|service|html|sql|lua)$", text)
        if not named and not (rest and top in self.tops) or self.listed.has(text):
            return None
        near = os.path.normpath(Path(shown.where.split(":")[0]).parent / text)
        wanted = [text.rstrip("/"), near, f"*/{text.removeprefix('../')}"]
        if any(fnmatch(file, want) or file.startswith(f"{want}/") for file in self.files for want in wanted):
            return None
        return f"there is no file `{text}`"


def anchors(page):
    """GitHub's names of the headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main():
    walk = Walk()
    with walk.stage:
        walk.walk()
    for mistake in walk.mistakes:
        print(mistake)
    if walk.mistakes:
        sys.exit(f"{len(walk.mistakes)} things that the pages show are not true")
    print(f"{walk.run} commands run, {len(walk.listed.entries)} listed")


if __name__ == "__main__":
    main()
