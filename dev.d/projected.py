"""FOLDER WORKLOAD TARGET: makes the folder that the kubelet would project for that workload's volume `config`.

Its files are behind two links, as the kubelet lays them, so that all of them change at once.
"""

import sys
from pathlib import Path

import yaml


def main(folder, workload, target):
    parts = [part for path in Path(folder).glob("*.yaml") for part in yaml.safe_load_all(path.read_text())]
    data = {(p["kind"], p["metadata"]["name"]): p.get("data") or p.get("stringData") for p in parts if p}
    pod = next(p for p in parts if p["kind"] in ("Deployment", "Job") and p["metadata"]["name"] == workload)
    volume = next(v for v in pod["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")
    version = Path(target) / "..2026_01_01"
    for source in volume["projected"]["sources"]:
        kind, given = ("ConfigMap", source["configMap"]) if "configMap" in source else ("Secret", source["secret"])
        for item in given["items"]:
            path = version / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data[kind, given["name"]][item["key"]])
    (Path(target) / "..data").symlink_to(version.name)
    for top in version.iterdir():
        (Path(target) / top.name).symlink_to(Path("..data") / top.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
