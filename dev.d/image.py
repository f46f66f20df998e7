"""DOCKERFILE WORK: what `docker build` does with that Dockerfile, as far as it goes without an engine and base images.

The context is what Docker's own library makes of .dockerignore. Each stage is a folder under WORK, the host plays its base
image, and the steps run as they stand in the Dockerfile. A step that names absolute paths in a RUN is printed and not run: it
would change the host. Cargo's artifacts stay in WORK between two runs, as Docker's cache would keep them.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from docker.utils.build import exclude_paths

ROOT = Path(os.environ["ROOT"])
KNOWN = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions(dockerfile):
    """(INSTRUCTION, rest) of each step, with its lines joined and comment lines among them left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for step in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        name, rest = step.split(maxsplit=1)
        if name not in KNOWN:
            sys.exit(f"{dockerfile}: {name} is not among what this can play")
        yield name, rest.strip()


def context(dockerfile):
    """The files that .dockerignore leaves of this checkout."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    paths = exclude_paths(str(ROOT), patterns, str(dockerfile))
    return sorted(path for path in paths if (ROOT / path).is_file())


class Stage:
    """One stage: its folder is the image's root."""

    def __init__(self, root):
        self.root, self.workdir, self.env = root, "/", {}

    def path(self, path):
        return self.root / os.path.join(self.workdir, path).lstrip("/")

    def run(self, command):
        if any(re.match(r"/[a-z]", word) for word in shlex.split(command)):
            print(f"not run, it is for the image's own root: RUN {command}")
            return
        cwd = self.path(".")
        # Linked into the stage only while the step runs: a later COPY must not follow it.
        (cwd / "target").symlink_to(self.root.parent / "target")
        print(f"RUN {command}", flush=True)
        status = subprocess.run(["sh", "-c", command], cwd=cwd, env=os.environ | self.env, check=False).returncode
        (cwd / "target").unlink()
        if status:
            sys.exit(f"the image cannot be built: that step ended with {status}")


def layers(dockerfile, files):
    """What Docker would look at before it builds anything again."""
    digest = hashlib.sha256(repr(sorted(item for item in os.environ.items() if item[0].startswith("CARGO_"))).encode())
    for path in [*files, dockerfile]:
        digest.update(f"{path}\n".encode() + (ROOT / path).read_bytes())
    return digest.hexdigest()


def build(dockerfile, work):
    files, stages, stage = context(dockerfile), {}, None
    built, digest = work / "built", layers(dockerfile, files)
    if built.exists() and built.read_text() == digest:
        print("nothing has changed since it was built")
        return
    built.unlink(missing_ok=True)
    for path in work.glob("stage-*"):
        shutil.rmtree(path)
    (work / "target").mkdir(parents=True, exist_ok=True)
    for name, rest in instructions(dockerfile):
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stage = Stage(work / f"stage-{len(stages)}")
            stage.root.mkdir()
            if base in stages:
                parent = stages[base]
                shutil.copytree(parent.root, stage.root, dirs_exist_ok=True)
                stage.workdir, stage.env = parent.workdir, dict(parent.env)
            stages[alias or str(len(stages))] = stage
        elif name == "ENV":
            stage.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif name == "WORKDIR":
            stage.workdir = rest
            stage.path(".").mkdir(parents=True)
        elif name == "RUN":
            stage.run(rest)
        elif name == "COPY":
            copy(rest.split(), files, stages, stage)
    built.write_text(digest)


def copy(words, files, stages, stage):
    source, target = words[-2], stage.path(words[-1])
    if not words[0].startswith("--from="):
        for path in files:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target / path)
        return
    giver = stages[words[0].removeprefix("--from=")]
    given = giver.path(source)
    if source.startswith("/build/target/"):
        given = giver.root.parent / source.removeprefix("/build/")
    elif not given.exists():
        # A file of the base image: the host plays it.
        given = Path(source)
    if given.is_dir():
        shutil.copytree(given, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(given, target)


if __name__ == "__main__":
    build(ROOT / sys.argv[1], Path(sys.argv[2]).resolve())
