"""PROMETHEUS: asks a Prometheus that has scraped every role what the dashboard and the alerts ask.

Each question must be one that it understands, and each metric in it must be there, with each label that the question names.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

# They appear with the trouble they tell of. Each is checked against docs/telemetry.md in deploy-check.sh.
ONLY_IN_TROUBLE = {"openclaw_tenant_stopped", "openclaw_budget_warning_percent", "openclaw_breaker_open"}

# A metric, with the labels that the sum around it keeps and those that it is chosen by.
METRIC = re.compile(r"(?:by \(([^)]*)\) ?\((?:\w+\()*)?\b(openclaw_\w+|up)\b(?:\{([^}]*)\})?")


def ask(prometheus, query):
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{query}\n{error.read().decode()}")


def dashboard():
    """(where, question) of each panel."""
    def panels(parts):
        for part in parts:
            yield part
            yield from panels(part.get("panels", []))

    for panel in panels(json.loads(Path("deploy/grafana/openclaw.json").read_text())["panels"]):
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*")


def alerts():
    for group in yaml.safe_load(Path("deploy/prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def main(prometheus):
    wrong = []
    for where, question in [*dashboard(), *alerts()]:
        ask(prometheus, question)
        for by, metric, matchers in METRIC.findall(question):
            labels = set(re.findall(r"\w+", by)) | set(re.findall(r"(\w+)[=!]~?", matchers))
            if metric in ONLY_IN_TROUBLE:
                continue
            wrong += [
                f"{where}: nobody gives {metric} with the label {label}"
                for label in sorted(labels)
                if not ask(prometheus, f'{metric}{{{label}!=""}}')
            ]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
