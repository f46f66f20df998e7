"""Becomes a program as a file of deploy/ starts it: its arguments and environment, with other addresses and paths.

    compose FILE SERVICE | health FILE SERVICE | kubernetes FOLDER WORKLOAD | image-health DOCKERFILE
        [--as PROGRAM…] [-- ARGUMENT…]

FILE is what `docker-compose config` printed. `--as` is what stands before the file's own arguments: the image's entry point.
The variable OTHER_PLACES has a line FROM=TO for each address or path that is another one here.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import yaml

import image


def of_compose(path, name):
    service = yaml.safe_load(Path(path).read_text())["services"][name]
    return service.get("command", []), service.get("environment", {})


def health_of_compose(path, name):
    service = yaml.safe_load(Path(path).read_text())["services"][name]
    kind, *test = service["healthcheck"]["test"]
    return (["sh", "-c", *test] if kind == "CMD-SHELL" else test), service.get("environment", {})


def of_kubernetes(folder, name):
    """The container of a Deployment or Job, with what its Secrets give."""
    parts = [part for path in Path(folder).glob("*.yaml") for part in yaml.safe_load_all(path.read_text())]
    secrets = {part["metadata"]["name"]: part["stringData"] for part in parts if part["kind"] == "Secret"}
    pod = next(p for p in parts if p["kind"] in ("Deployment", "Job") and p["metadata"]["name"] == name)
    container = pod["spec"]["template"]["spec"]["containers"][0]
    environment = {}
    for source in container.get("envFrom", []):
        environment |= secrets[source["secretRef"]["name"]]
    return container["args"], environment


def health_of_image(dockerfile):
    check = next(rest for name, rest in image.instructions(Path(dockerfile)) if name == "HEALTHCHECK")
    return json.loads(check.partition(" CMD ")[2]), {}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["compose", "health", "kubernetes", "image-health"])
    arguments.add_argument("place", nargs="+")
    arguments.add_argument("--as", dest="program", nargs="+", default=[])
    words = [*sys.argv[1:], "--"]
    extra = words[words.index("--") + 1 : -1]
    given = arguments.parse_args(words[: words.index("--")])
    of = {"compose": of_compose, "health": health_of_compose, "kubernetes": of_kubernetes, "image-health": health_of_image}
    command, environment = of[given.kind](*given.place)
    places = [line.split("=", 1) for line in os.environ.get("OTHER_PLACES", "").splitlines()]

    def moved(text):
        for there, place in places:
            text = text.replace(there, place)
        return text

    command = given.program + [moved(word) for word in command] + extra
    os.environ.update({key: moved(value) for key, value in environment.items()})
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
