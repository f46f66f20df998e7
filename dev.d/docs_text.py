"""What the pages, the comments of deploy/ and examples/, and the program's help show: commands, links, files, addresses.

A `Shown` says where it stands, what it is and what it says. Commands of one fenced block stay together: they share a shell.
"""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = r"(?:openclaw|\./dev|cargo|docker|docker-compose|kubectl|systemctl|supervisorctl|supervisord|promtool|k6|curl|nginx|cp|cd|rm)"
COMMAND = re.compile(rf"(?:[A-Z][A-Z0-9_]*=\S* )*{PROGRAMS} \S")
# In a comment a command ends where the sentence goes on.
IN_COMMENT = re.compile(
    r"(?:^|[\s(])((?:openclaw (?:run|ingest|worker|check|migrate|dlq|keys|sim|send|quota|demo|-c)\b|docker (?:build|compose)|"
    r"docker-compose|kubectl|promtool|systemctl|supervisorctl|cp|\./dev) ?.*?)(?=  |: |, |; |\)|\. |\.?$)"
)
SHELL = {"sh", "bash", "console"}
# What the program printed.
OUTPUT = {"text", "yaml", "json"}


@dataclass(frozen=True)
class Shown:
    where: str
    kind: str  # link, command, code, address, server, snippet
    text: str
    block: int = field(default=0, compare=False)


def markdown(path):
    """Everything that one page shows."""
    fence, block, pending, snippet = None, 0, "", []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path}:{number}"
        if opening := re.match(r"\s*```(\w*)", line):
            if fence == "yaml":
                yield Shown(where, "snippet", "\n".join(snippet))
            fence, snippet = None if fence is not None else opening[1], []
            block += 1
            continue
        if fence is None:
            yield from prose(where, line)
            if line.startswith("<!--"):
                for command in re.findall(r"(?:[A-Z_]+=\S+ )?cargo (?:test|run|build)[^>]*?(?= -->)", line):
                    yield Shown(where, "command", command)
        elif fence == "yaml":
            snippet.append(line)
        elif fence in SHELL or (fence not in OUTPUT and COMMAND.match(line)):
            line = pending + re.sub(r"\s+#\s.*$", "", line).rstrip()
            if fence not in SHELL:
                # A list of forms, each with its meaning behind it.
                line = re.split(r"\s{4,}", line)[0]
            pending = line[:-1] if line.endswith("\\") else ""
            if line and not pending and not line.startswith("#"):
                yield Shown(where, "command", line, block)


def prose(where, line):
    for target in re.findall(r"\]\(([^)\s]+)\)", line):
        yield Shown(where, "link", target)
    for text in re.findall(r"`([^`]+)`", line):
        text = text.replace("\\|", "|")
        yield Shown(where, "command" if COMMAND.match(text) else "code", text)
    for address in re.findall(r"https?://(?:<[^>]*>|[^\s`)<>,;\"])+(?<![.:])", line):
        yield Shown(where, "address", address)
    for server in re.findall(r"\b((?:amqp|redis|rediss|amqps|postgres)://[^\s`),;\"|]+)", line):
        yield Shown(where, "server", server)


def comments(path):
    """Commands, files and addresses in the comments of a file that people copy."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.search(r"(?:^|\s)[#;]\s*(.*)$", line)
        if not found:
            continue
        where, text = f"{path}:{number}", found[1].strip()
        yield from (shown for shown in prose(where, text))
        bare = re.sub(r"`[^`]+`", "", text)
        for command in IN_COMMENT.findall(bare):
            yield Shown(where, "command", command.strip())
        for word in re.findall(r"[\w.@/-]+/[\w.@-]+\.[a-z]{2,8}\b", bare):
            yield Shown(where, "code", word)


def helps(program):
    """{subcommand path: help text}, of the program and all its subcommands."""
    found = {}
    waiting = [()]
    while waiting:
        path = waiting.pop()
        text = subprocess.run([program, *path, "--help"], capture_output=True, text=True, check=True).stdout
        found[path] = text
        listed = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
        if listed:
            waiting += [(*path, name) for name in re.findall(r"^  ([a-z][\w-]*)", listed[1], re.MULTILINE) if name != "help"]
    return found
